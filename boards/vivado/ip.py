"""Packaged IP: Verilog with a description, in IP-XACT (IEEE 1685-2009) as Vivado reads it, of what its ports mean."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as xml

from amaranth.back import verilog
from amaranth.hdl import Value
from amaranth.lib import wiring

from boards.link.bridge import Link, LinkSignature
from boards.link.uart import line_divider
from boards.vivado.design import Bus, Cell, Kind, Pin
from hw.accelerator import AcceleratorSignature
from hw.config import AcceleratorConfig
from hw.control.registers import ADDRESS_WIDTH, REGISTERS, Access, Register
from hw.verilog import TOP, generate_verilog, top_ports

__all__ = ["GUI", "AxiBus", "Ip", "IpPort", "accelerator_ip", "component_xml", "link_ip", "memory_buses"]

SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
XILINX = "http://www.xilinx.com"
LIBRARY, VERSION = "accelerators", "1.0"
LINK = "vitsmith_link"  #: name of the link's module
REGISTER_BLOCK = "reg0"  #: of a slave's memory map; Vivado's own name for the first one
FAMILIES = ("artix7", "zynq", "zynquplus")
AXI_PORT = re.compile(r"(\w+_axi)_(\w+)")
PINS = {"clk": Kind.CLOCK, "rst": Kind.RESET, "irq": Kind.INTERRUPT}  #: other ports are data
GUI = 'proc init_gui {IPINST} {\n    ipgui::add_param $IPINST -name "Component_Name"\n}\n'  #: a page without choices

xml.register_namespace("spirit", SPIRIT)
xml.register_namespace("xilinx", XILINX)


@dataclass(frozen=True)
class IpPort:
    """A port of the module."""

    name: str
    output: bool
    bits: int


@dataclass(frozen=True)
class AxiBus:
    """Ports that are an AXI4 or AXI4-Lite interface, by the standard's names of the signals."""

    name: str
    ports: dict[str, IpPort]

    @property
    def master(self) -> bool:
        """Whether it starts transfers."""
        return self.ports["arvalid"].output

    @property
    def protocol(self) -> str:
        """AXI4, or AXI4LITE if there are no bursts."""
        return "AXI4" if "arlen" in self.ports else "AXI4LITE"

    @property
    def address_bits(self) -> int:
        """Bits of a byte address."""
        return self.ports["araddr"].bits

    @property
    def data_bits(self) -> int:
        """Bits of a beat."""
        return self.ports["rdata"].bits


@dataclass(frozen=True, kw_only=True)
class Ip:
    """A module with what its description needs. Its clock is `clk`, its reset `rst`."""

    name: str  #: of the module
    title: str
    verilog: Callable[[], str]  #: generates it, which takes seconds
    ports: tuple[IpPort, ...]
    registers: tuple[Register, ...] = ()  #: behind its slave

    @property
    def vlnv(self) -> str:
        """Vendor, library, name, version."""
        return f"{TOP}:{LIBRARY}:{self.name}:{VERSION}"

    @property
    def buses(self) -> dict[str, AxiBus]:
        """Its interfaces by name."""
        found: dict[str, dict[str, IpPort]] = {}
        for port in self.ports:
            if match := AXI_PORT.fullmatch(port.name):
                found.setdefault(match[1], {})[match[2]] = port
        return {name: AxiBus(name, ports) for name, ports in found.items()}

    @property
    def pins(self) -> dict[str, IpPort]:
        """The ports that belong to no interface."""
        return {port.name: port for port in self.ports if not AXI_PORT.fullmatch(port.name)}

    def cell(self, name: str) -> Cell:
        """An instance; nothing of it may stay open."""
        pins = {pin: Pin(PINS.get(pin, Kind.DATA), output=port.output) for pin, port in self.pins.items()}
        buses = {
            bus.name: Bus(
                protocol=bus.protocol,
                master=bus.master,
                clocks=("clk",),
                space=bus.name if bus.master else None,
                segment=None if bus.master else f"{bus.name}/{REGISTER_BLOCK}",
            )
            for bus in self.buses.values()
        }
        return Cell(name=name, vlnv=self.vlnv, pins=pins, buses=buses)


def accelerator_ip(config: AcceleratorConfig) -> Ip:
    """The accelerator. Its monitor, which may stay open, is no part of the description."""
    signals = top_ports(AcceleratorSignature(config).create())
    ports = [IpPort(name, flow.name == "Out", len(value)) for name, flow, value in signals]
    return Ip(
        name=TOP,
        title=f"vitsmith {config.name}, configuration {config.hash:016x}",
        verilog=lambda: generate_verilog(config),
        ports=(*_clock_and_reset(), *(port for port in ports if not port.name.startswith("monitor_"))),
        registers=REGISTERS,
    )


def memory_buses(config: AcceleratorConfig) -> list[str]:
    """Names of the accelerator's buses to memory."""
    return [f"m{index}_axi" for index in range(config.bus_ports)]


def link_ip(frequency: float, baud: float) -> Ip:
    """The serial link of `boards.link`, with a clock of `frequency` Hz. Raises ValueError for a rate that the clock
    cannot make."""
    divider = line_divider(frequency, baud)

    def generate() -> str:
        link = Link(divider)
        ports = {name: (value, None) for name, _, value in _link_ports(link)}
        text = verilog.convert(link, name=LINK, ports=ports, emit_src=False, strip_internal_attrs=True)
        return re.sub(r"/\* Generated by .*? \*/\n", "", text)

    signals = _link_ports(LinkSignature().create())
    return Ip(
        name=LINK,
        title=f"vitsmith serial link, {baud / 1e6:g} Mbaud at {frequency / 1e6:g} MHz",
        verilog=generate,
        ports=(*_clock_and_reset(), *(IpPort(name, flow.name == "Out", len(value)) for name, flow, value in signals)),
    )


def _link_ports(link: wiring.PureInterface) -> Iterator[tuple[str, wiring.Flow, Value]]:
    """Name, direction, and signal of every port but clock and reset."""
    for path, member, value in link.signature.flatten(link):
        name = f"{path[0]}_axi_{path[-1]}" if len(path) > 1 else path[0]
        yield name, member.flow, Value.cast(value)


def _clock_and_reset() -> tuple[IpPort, IpPort]:
    return IpPort("clk", False, 1), IpPort("rst", False, 1)


# -- IP-XACT --


def component_xml(ip: Ip) -> str:
    """`component.xml` beside `NAME.v` and `gui.tcl`."""
    root = xml.Element(f"{{{SPIRIT}}}component")
    for tag, text in (("vendor", TOP), ("library", LIBRARY), ("name", ip.name), ("version", VERSION)):
        _add(root, tag, text)
    interfaces = _add(root, "busInterfaces")
    for bus in ip.buses.values():
        _axi_interface(interfaces, bus)
    _signal_interfaces(interfaces, ip)
    if masters := [bus for bus in ip.buses.values() if bus.master]:
        spaces = _add(root, "addressSpaces")
        for bus in masters:
            space = _add(spaces, "addressSpace")
            _add(space, "name", bus.name)
            _add(space, "range", 1 << bus.address_bits, format="long")
            _add(space, "width", bus.data_bits, format="long")
    if slaves := [bus for bus in ip.buses.values() if not bus.master]:
        maps = _add(root, "memoryMaps")
        for bus in slaves:
            _memory_map(maps, bus, ip.registers)
    _model(root, ip)
    _file_sets(root, ip)
    _add(root, "description", ip.title)
    parameter = _add(_add(root, "parameters"), "parameter")
    _add(parameter, "name", "Component_Name")
    _add(parameter, "value", f"{ip.name}_v1_0", resolve="user", id="PARAM_VALUE.Component_Name", order="1")
    _vendor_extensions(root, ip)
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"


def _add(parent: xml.Element, tag: str, text: object = None, **attributes: str) -> xml.Element:
    """A child with text and attributes, all in the standard's namespace."""
    child = xml.SubElement(parent, f"{{{SPIRIT}}}{tag}", {f"{{{SPIRIT}}}{k}": v for k, v in attributes.items()})
    child.text = None if text is None else str(text)
    return child


def _interface(
    parent: xml.Element, name: str, library: str, kind: str, ports: dict[str, str], parameters: dict[str, object]
) -> xml.Element:
    """A bus interface; returns the element after which master or slave belongs."""
    interface = _add(parent, "busInterface")
    _add(interface, "name", name)
    for tag, suffix in (("busType", ""), ("abstractionType", "_rtl")):
        _add(interface, tag, vendor="xilinx.com", library=library, name=kind + suffix, version="1.0")
    role = _add(interface, "role")  # the caller says which
    maps = _add(interface, "portMaps")
    for logical, physical in ports.items():
        pair = _add(maps, "portMap")
        _add(_add(pair, "logicalPort"), "name", logical)
        _add(_add(pair, "physicalPort"), "name", physical)
    values = _add(interface, "parameters")
    for key, value in parameters.items():
        parameter = _add(values, "parameter")
        _add(parameter, "name", key)
        _add(parameter, "value", value, id=f"BUSIFPARAM_VALUE.{name.upper()}.{key}")
    return role


def _axi_interface(parent: xml.Element, bus: AxiBus) -> None:
    ports = {signal.upper(): port.name for signal, port in bus.ports.items()}
    parameters = {"PROTOCOL": bus.protocol, "DATA_WIDTH": bus.data_bits, "ADDR_WIDTH": bus.address_bits}
    role = _interface(parent, bus.name, "interface", "aximm", ports, parameters)
    if bus.master:
        role.tag = f"{{{SPIRIT}}}master"
        _add(role, "addressSpaceRef", addressSpaceRef=bus.name)
    else:
        role.tag = f"{{{SPIRIT}}}slave"
        _add(role, "memoryMapRef", memoryMapRef=bus.name)


def _signal_interfaces(parent: xml.Element, ip: Ip) -> None:
    """Clock, reset, and interrupt."""
    clock = {"ASSOCIATED_BUSIF": ":".join(ip.buses), "ASSOCIATED_RESET": "rst"}
    signals = {
        "clk": ("clock", "CLK", "slave", clock),
        "rst": ("reset", "RST", "slave", {"POLARITY": "ACTIVE_HIGH"}),
        "irq": ("interrupt", "INTERRUPT", "master", {"SENSITIVITY": "LEVEL_HIGH"}),
    }
    for name in ip.pins:
        if name in signals:
            kind, logical, mode, parameters = signals[name]
            role = _interface(parent, name, "signal", kind, {logical: name}, parameters)
            role.tag = f"{{{SPIRIT}}}{mode}"


def _memory_map(parent: xml.Element, bus: AxiBus, registers: tuple[Register, ...]) -> None:
    memory_map = _add(parent, "memoryMap")
    _add(memory_map, "name", bus.name)
    block = _add(memory_map, "addressBlock")
    _add(block, "name", REGISTER_BLOCK)
    _add(block, "baseAddress", 0, format="long")
    _add(block, "range", 1 << ADDRESS_WIDTH, format="long")
    _add(block, "width", bus.data_bits, format="long")
    _add(block, "usage", "register")
    for register in registers:
        entry = _add(block, "register")
        _add(entry, "name", register.name)
        _add(entry, "description", register.doc)
        _add(entry, "addressOffset", f"{register.offset:#x}")
        _add(entry, "size", 32)
        _add(entry, "access", "read-only" if register.access is Access.RO else "read-write")
        for bit in register.fields:
            part = _add(entry, "field")
            _add(part, "name", bit.name)
            _add(part, "description", bit.doc)
            _add(part, "bitOffset", bit.bit)
            _add(part, "bitWidth", 1)


def _views(ip: Ip) -> Iterator[tuple[str, str, str, str]]:
    """Views of the component: name, identifier, file, and type of the file."""
    yield "xilinx_anylanguagesynthesis", "synthesis", f"{ip.name}.v", "verilogSource"
    yield "xilinx_anylanguagebehavioralsimulation", "simulation", f"{ip.name}.v", "verilogSource"
    yield "xilinx_xpgui", "xgui.ui", "gui.tcl", "tclSource"


def _model(root: xml.Element, ip: Ip) -> None:
    model = _add(root, "model")
    views = _add(model, "views")
    for name, identifier, _, kind in _views(ip):
        view = _add(views, "view")
        _add(view, "name", name)
        _add(view, "envIdentifier", f":vivado.xilinx.com:{identifier}")
        if kind == "verilogSource":
            _add(view, "language", "Verilog")
            _add(view, "modelName", ip.name)
        _add(_add(view, "fileSetRef"), "localName", f"{name}_view_fileset")
    ports = _add(model, "ports")
    for port in ip.ports:
        entry = _add(ports, "port")
        _add(entry, "name", port.name)
        wire = _add(entry, "wire")
        _add(wire, "direction", "out" if port.output else "in")
        if port.bits > 1:
            vector = _add(wire, "vector")
            _add(vector, "left", port.bits - 1, format="long")
            _add(vector, "right", 0, format="long")
        definition = _add(_add(wire, "wireTypeDefs"), "wireTypeDef")
        _add(definition, "typeName", "wire")
        for name, _, _, kind in _views(ip):
            if kind == "verilogSource":
                _add(definition, "viewNameRef", name)


def _file_sets(root: xml.Element, ip: Ip) -> None:
    sets = _add(root, "fileSets")
    for name, _, file, kind in _views(ip):
        file_set = _add(sets, "fileSet")
        _add(file_set, "name", f"{name}_view_fileset")
        entry = _add(file_set, "file")
        _add(entry, "name", file)
        _add(entry, "fileType", kind)
        if kind == "tclSource":
            _add(entry, "userFileType", "XGUI_VERSION_2")


def _vendor_extensions(root: xml.Element, ip: Ip) -> None:
    extensions = xml.SubElement(_add(root, "vendorExtensions"), f"{{{XILINX}}}coreExtensions")
    families = xml.SubElement(extensions, f"{{{XILINX}}}supportedFamilies")
    for family in FAMILIES:
        xml.SubElement(families, f"{{{XILINX}}}family", {f"{{{XILINX}}}lifeCycle": "Production"}).text = family
    taxonomies = xml.SubElement(extensions, f"{{{XILINX}}}taxonomies")
    xml.SubElement(taxonomies, f"{{{XILINX}}}taxonomy").text = "/UserIP"
    xml.SubElement(extensions, f"{{{XILINX}}}displayName").text = ip.title
    xml.SubElement(extensions, f"{{{XILINX}}}coreRevision").text = "1"
