"""IP-XACT of the accelerator and of the link."""

from xml.etree import ElementTree as xml

import pytest

from boards.vivado.ip import SPIRIT, XILINX, Ip, accelerator_ip, component_xml, link_ip
from hw.config import CONFIGS
from hw.control.registers import REGISTERS
from tests.configs import ALL, WIDE

NAMES = {"s": SPIRIT, "x": XILINX}
LINK = link_ip(50e6, 2e6)


def described(ip: Ip) -> xml.Element:
    return xml.fromstring(component_xml(ip))


@pytest.mark.parametrize("ip", [*map(accelerator_ip, ALL), LINK], ids=lambda ip: ip.title)
def test_every_port_has_its_meaning(ip: Ip) -> None:
    """Ports have directions and widths; interfaces map each of them at most once; references lead somewhere."""
    root = described(ip)
    ports = {port.findtext("s:name", None, NAMES): port for port in root.findall("s:model/s:ports/s:port", NAMES)}
    assert set(ports) == {port.name for port in ip.ports}
    for port in ip.ports:
        wire = ports[port.name].find("s:wire", NAMES)
        assert wire.findtext("s:direction", None, NAMES) == ("out" if port.output else "in")
        assert int(wire.findtext("s:vector/s:left", 0, NAMES)) == port.bits - 1
    mapped = [name.text for name in root.findall(".//s:physicalPort/s:name", NAMES)]
    assert len(set(mapped)) == len(mapped)
    assert set(ports) - set(mapped) == {name for name in ip.pins if name in ("rx", "tx")}
    files = {name.text for name in root.findall("s:fileSets/s:fileSet/s:file/s:name", NAMES)}
    assert files == {f"{ip.name}.v", "gui.tcl"}
    sets = {name.text for name in root.findall("s:fileSets/s:fileSet/s:name", NAMES)}
    assert {ref.text for ref in root.findall(".//s:fileSetRef/s:localName", NAMES)} == sets
    spaces = {name.text for name in root.findall("s:addressSpaces/s:addressSpace/s:name", NAMES)}
    assert {ref.get(f"{{{SPIRIT}}}addressSpaceRef") for ref in root.findall(".//s:addressSpaceRef", NAMES)} == spaces
    assert {f.text for f in root.findall(".//x:family", NAMES)} == {"artix7", "zynq", "zynquplus"}


def interfaces(root: xml.Element) -> dict[str, xml.Element]:
    found = root.findall("s:busInterfaces/s:busInterface", NAMES)
    return {interface.findtext("s:name", None, NAMES): interface for interface in found}


def parameters(interface: xml.Element) -> dict[str, str]:
    found = interface.findall("s:parameters/s:parameter", NAMES)
    return {p.findtext("s:name", None, NAMES): p.findtext("s:value", None, NAMES) for p in found}


def test_interfaces_of_the_accelerator() -> None:
    root = described(accelerator_ip(WIDE))
    found = interfaces(root)
    assert set(found) == {"m0_axi", "m1_axi", "s_axi", "clk", "rst", "irq"}
    assert parameters(found["m1_axi"]) == {"PROTOCOL": "AXI4", "DATA_WIDTH": "64", "ADDR_WIDTH": "40"}
    assert parameters(found["s_axi"]) == {"PROTOCOL": "AXI4LITE", "DATA_WIDTH": "32", "ADDR_WIDTH": "12"}
    assert found["m0_axi"].find("s:master", NAMES) is not None and found["s_axi"].find("s:slave", NAMES) is not None
    clock = parameters(found["clk"])
    assert set(clock["ASSOCIATED_BUSIF"].split(":")) == {"m0_axi", "m1_axi", "s_axi"}
    assert clock["ASSOCIATED_RESET"] == "rst"
    assert parameters(found["rst"])["POLARITY"] == "ACTIVE_HIGH"
    assert parameters(found["irq"])["SENSITIVITY"] == "LEVEL_HIGH"
    registers = root.findall("s:memoryMaps/s:memoryMap/s:addressBlock/s:register", NAMES)
    offsets = {
        r.findtext("s:name", None, NAMES): int(r.findtext("s:addressOffset", None, NAMES), 16) for r in registers
    }
    assert offsets == {register.name: register.offset for register in REGISTERS}


def test_interfaces_of_the_link() -> None:
    found = interfaces(described(LINK))
    assert set(found) == {"memory_axi", "registers_axi", "clk", "rst"}
    assert all(found[name].find("s:master", NAMES) is not None for name in ("memory_axi", "registers_axi"))
    assert parameters(found["registers_axi"])["PROTOCOL"] == "AXI4LITE"


def test_the_link_is_a_module() -> None:
    """With the ports of the description."""
    text = LINK.verilog()
    header = text[text.index("\nmodule vitsmith_link(") :].partition(");")[0]
    assert {name.strip() for name in header.partition("(")[2].split(",")} == {port.name for port in LINK.ports}


def test_rates_that_a_clock_cannot_make() -> None:
    with pytest.raises(ValueError, match="cannot be made from 7 MHz"):
        link_ip(7e6, 2e6)


def test_names_say_the_configuration() -> None:
    config = CONFIGS["nano"]
    assert f"{config.hash:016x}" in accelerator_ip(config).title
