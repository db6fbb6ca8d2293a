"""Block designs: those of the boards are whole, and every kind of gap is found and named."""

import dataclasses
from collections.abc import Callable

import pytest

from boards.board import BoardError
from boards.registry import VIVADO_BOARDS
from boards.vivado.design import Design, check_design
from boards.vivado.ip import accelerator_ip
from hw.accelerator import AcceleratorSignature
from hw.config import CONFIGS
from hw.verilog import top_ports

KV260, ARTY = (VIVADO_BOARDS[name].build_system().design for name in ("kv260", "arty-a7-100"))


@pytest.mark.parametrize("board", VIVADO_BOARDS.values(), ids=lambda board: board.name)
def test_designs_of_boards(board) -> None:
    """They pass the check, and every port of the accelerator, but its monitor, belongs to what is connected."""
    design = board.build_system().design
    check_design(design)
    (cell,) = (cell for cell in design.cells if cell.name == "accelerator")
    connected = {*design.links, *design.links.values(), *design.nets, *design.drivers()}
    assert {cell.path(name) for name in (*cell.pins, *cell.buses)} <= connected
    ip = accelerator_ip(board.accelerator)
    listed = {*ip.pins, *(port.name for bus in ip.buses.values() for port in bus.ports.values())}
    declared = {name for name, *_ in top_ports(AcceleratorSignature(board.accelerator).create())}
    assert {name for name in declared if not name.startswith("monitor_")} | {"clk", "rst"} == listed
    assert set(cell.pins) == set(ip.pins) and set(cell.buses) == set(ip.buses)


@pytest.mark.parametrize("ports", [1, 2, 4])
@pytest.mark.parametrize("board", VIVADO_BOARDS.values(), ids=lambda board: board.name)
def test_accelerators_of_other_sizes(board, ports: int) -> None:
    config = CONFIGS["nano"].replace(bus_ports=ports, stream_bits=256)
    check_design(board.build_system(config).design)


def without_net(design: Design, load: str) -> Design:
    nets = {driver: tuple(pin for pin in loads if pin != load) for driver, loads in design.nets.items()}
    return dataclasses.replace(design, nets={driver: loads for driver, loads in nets.items() if loads})


def with_nets(design: Design, **changes: tuple[str, ...]) -> Design:
    return dataclasses.replace(design, nets=design.nets | {k.replace("__", "/"): v for k, v in changes.items()})


def with_address(design: Design, index: int, **changes: object) -> Design:
    addresses = list(design.addresses)
    addresses[index] = dataclasses.replace(addresses[index], **changes)
    return dataclasses.replace(design, addresses=tuple(addresses))


def without_link(design: Design, master: str) -> Design:
    return dataclasses.replace(design, links={k: v for k, v in design.links.items() if k != master})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: without_net(KV260, "accelerator/clk"), r"accelerator/clk \(clock\) is not connected"),
        (lambda: without_net(KV260, "accelerator/rst"), r"accelerator/rst \(active-high reset\) is not connected"),
        (lambda: without_net(KV260, "processor/pl_ps_irq0"), r"accelerator/irq \(interrupt\) is not connected"),
        (lambda: without_net(ARTY, "link/rx"), r"link/rx \(data\) is not connected"),
        (lambda: without_link(KV260, "accelerator/m1_axi"), "accelerator/m1_axi is not connected"),
        (
            lambda: with_nets(without_net(KV260, "accelerator/rst"), resets__peripheral_aresetn=("accelerator/rst",)),
            "accelerator/rst takes active-high reset, but resets/peripheral_aresetn gives active-low reset",
        ),
        (lambda: with_nets(KV260, accelerator__irq=("processor/pl_clk0",)), "pl_clk0 is an output, and is driven by"),
        (lambda: with_nets(KV260, control__aclk=("memory0/aclk",)), "control/aclk is an input, and drives a net"),
        (lambda: with_nets(KV260, processor__pl_clk1=("memory0/aclk",)), "there is no pin processor/pl_clk1"),
        (lambda: with_nets(ARTY, ddr__ui_addn_clk_0=("link/clk", "ddr/clk_ref_i")), "link/clk is driven 2 times"),
        (
            lambda: dataclasses.replace(KV260, links=KV260.links | {"accelerator/m1_axi": "memory0/S00_AXI"}),
            "memory0/S00_AXI has 2 masters",
        ),
        (
            lambda: dataclasses.replace(ARTY, links=ARTY.links | {"link/memory_axi": "accelerator/s_axi"}),
            "link/memory_axi speaks AXI4, but accelerator/s_axi AXI4LITE",
        ),
        (
            lambda: with_nets(without_net(ARTY, "memory/aclk1"), clocks__clk_out1=(
                "resets/slowest_sync_clk", "memory/aclk", "memory/aclk1", "link/clk", "accelerator/clk"
            )),
            "memory/M00_AXI and ddr/S_AXI have different clocks",
        ),
        (lambda: dataclasses.replace(KV260, cells=(*KV260.cells, KV260.cells[0])), "2 cells are called processor"),
        (lambda: with_address(KV260, 0, offset=0xA0000800), "0xa0000800 is not a multiple of its size"),
        (lambda: with_address(KV260, 1, size=3 << 20), "0x300000, a power of two"),
        (
            lambda: dataclasses.replace(KV260, addresses=KV260.addresses[:1] + KV260.addresses[2:]),
            "processor/SAXIGP2/HP0_DDR_LOW has no address in accelerator/m0_axi",
        ),
        (
            lambda: with_address(KV260, 1, segment="processor/SAXIGP3/HP1_DDR_LOW"),
            "accelerator/m0_axi does not reach processor/SAXIGP3/HP1_DDR_LOW",
        ),
        (
            lambda: dataclasses.replace(KV260, addresses=(*KV260.addresses, KV260.addresses[0])),
            "overlap in processor/Data",
        ),
    ],
)  # fmt: skip
def test_gaps_are_named(spoil: Callable[[], Design], message: str) -> None:
    with pytest.raises(BoardError, match=message):
        check_design(spoil())
