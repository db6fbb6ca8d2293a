"""Block designs around the accelerator: one per way to attach memory and host."""

from boards.vivado.board import System, VivadoBoard
from boards.vivado.cells import (
    DDR_BUS,
    FIXED_IO_BUS,
    clock_wizard,
    crossbar,
    memory_controller,
    reset_generator,
    zynq_7000,
    zynq_ultrascale,
)
from boards.vivado.design import Address, Bus, Cell, Design, Kind, Pin
from boards.vivado.ip import accelerator_ip, link_ip, memory_buses
from boards.vivado.overlay import ACCELERATOR
from hw.config import AcceleratorConfig
from hw.control.registers import ADDRESS_WIDTH

__all__ = ["serial_system", "zynq_7000_system", "zynq_ultrascale_system"]

REGISTERS = f"{ACCELERATOR}/s_axi/reg0"
REGISTER_BYTES = 1 << ADDRESS_WIDTH


def zynq_7000_system(board: VivadoBoard, config: AcceleratorConfig) -> System:
    """Registers at the processor's port GP0, memory through its ports HP."""
    names = memory_buses(config)
    processor = zynq_7000("processor", ports=len(names), frequency=board.frequency, settings=board.processor)
    buses = {
        "ddr": Bus(protocol=DDR_BUS, master=False),
        "fixed_io": Bus(protocol=FIXED_IO_BUS, master=False),
    }
    return _processor_system(
        config,
        processor,
        outside=Cell(name="", pins={}, buses=buses),
        links={"processor/DDR": "ddr", "processor/FIXED_IO": "fixed_io"},
        clock="FCLK_CLK0",
        reset="FCLK_RESET0_N",
        interrupt="IRQ_F2P",
        registers=("M_AXI_GP0", 0x4000_0000),
        memory=[f"S_AXI_HP{index}" for index in range(len(names))],
        memory_bytes=board.memory_bytes,
    )


def zynq_ultrascale_system(board: VivadoBoard, config: AcceleratorConfig) -> System:
    """Registers at the processor's port HPM0_FPD, memory through its ports HP."""
    names = memory_buses(config)
    return _processor_system(
        config,
        zynq_ultrascale("processor", ports=len(names), frequency=board.frequency),
        outside=Cell(name="", pins={}),
        links={},
        clock="pl_clk0",
        reset="pl_resetn0",
        interrupt="pl_ps_irq0",
        registers=("M_AXI_HPM0_FPD", 0xA000_0000),
        memory=[f"S_AXI_HP{index}_FPD" for index in range(len(names))],
        memory_bytes=board.memory_bytes,
    )


def _processor_system(
    config: AcceleratorConfig,
    processor: Cell,
    *,
    outside: Cell,
    links: dict[str, str],
    clock: str,
    reset: str,
    interrupt: str,
    registers: tuple[str, int],
    memory: list[str],
    memory_bytes: int,
) -> System:
    """The accelerator beside a processor whose pins and buses have these names; `registers` are at a bus and address,
    `memory` are the buses for the accelerator's, in order. Everything has one clock."""
    ip = accelerator_ip(config)
    accelerator = ip.cell(ACCELERATOR)
    master, base = registers
    control = crossbar("control", slaves=1, masters=1)
    paths = {bus: crossbar(f"memory{index}", slaves=1, masters=1) for index, bus in enumerate(memory)}
    resets = reset_generator("resets", external=Kind.RESET_N)
    clocked = [resets, accelerator, control, *paths.values(), processor]
    links = links | {f"processor/{master}": "control/S00_AXI", "control/M00_AXI": f"{ACCELERATOR}/s_axi"}
    addresses = [Address("processor/Data", REGISTERS, base, REGISTER_BYTES)]
    for source, (bus, path) in zip(memory_buses(config), paths.items(), strict=True):
        links |= {f"{ACCELERATOR}/{source}": f"{path.name}/S00_AXI", f"{path.name}/M00_AXI": f"processor/{bus}"}
        segment = processor.path(processor.buses[bus].segment)
        addresses.append(Address(f"{ACCELERATOR}/{source}", segment, 0, memory_bytes))
    clocks = [c.path(n) for c in clocked for n, pin in c.pins.items() if pin.kind is Kind.CLOCK and not pin.output]
    design = Design(
        cells=(processor, resets, accelerator, control, *paths.values()),
        outside=outside,
        nets={
            f"processor/{clock}": tuple(clocks),
            f"processor/{reset}": ("resets/ext_reset_in",),
            "resets/peripheral_reset": (f"{ACCELERATOR}/rst",),
            "resets/interconnect_aresetn": tuple(f"{cell.name}/aresetn" for cell in (control, *paths.values())),
            f"{ACCELERATOR}/irq": (f"processor/{interrupt}",),
        },
        links=links,
        addresses=tuple(addresses),
    )
    return System((ip,), design)


def serial_system(board: VivadoBoard, config: AcceleratorConfig) -> System:
    """The serial link of the other boards as host, and DDR3 at address 0 through MIG.

    MIG takes the board's clock and makes its own from it; link and accelerator have a clock made from that one. They
    stay in reset until the memory has been calibrated.
    """
    ip, link = accelerator_ip(config), link_ip(board.frequency, board.baud)
    names = memory_buses(config)
    outside = Cell(
        name="",
        pins={
            "clock": Pin(Kind.CLOCK, output=True),
            "reset_n": Pin(Kind.RESET_N, output=True),
            "rx": Pin(Kind.DATA, output=True),
            "tx": Pin(Kind.DATA),
            "interrupt": Pin(Kind.INTERRUPT),
        },
        buses={"ddr3": Bus(protocol=DDR_BUS, master=False)},
    )
    cells = (
        memory_controller("ddr", "ddr3_sdram"),
        clock_wizard("clocks", board.frequency),
        reset_generator("ddr_resets", external=Kind.RESET),
        reset_generator("resets", external=Kind.RESET),
        crossbar("memory", slaves=1 + len(names), masters=1, clocks=2),
        link.cell("link"),
        ip.cell(ACCELERATOR),
    )
    spaces = ["link/memory_axi", *(f"{ACCELERATOR}/{name}" for name in names)]
    design = Design(
        cells=cells,
        outside=outside,
        frequencies={"clock": 100e6},
        nets={
            "clock": ("ddr/sys_clk_i",),
            "reset_n": ("ddr/sys_rst",),
            "rx": ("link/rx",),
            "link/tx": ("tx",),
            f"{ACCELERATOR}/irq": ("interrupt",),
            "ddr/ui_addn_clk_0": ("ddr/clk_ref_i",),
            "ddr/ui_clk": ("ddr_resets/slowest_sync_clk", "clocks/clk_in1", "memory/aclk1"),
            "ddr/ui_clk_sync_rst": ("ddr_resets/ext_reset_in", "resets/ext_reset_in"),
            "ddr/mmcm_locked": ("ddr_resets/dcm_locked",),
            "ddr/init_calib_complete": ("resets/aux_reset_in",),
            "ddr_resets/peripheral_aresetn": ("ddr/aresetn",),
            "clocks/clk_out1": ("resets/slowest_sync_clk", "memory/aclk", "link/clk", f"{ACCELERATOR}/clk"),
            "clocks/locked": ("resets/dcm_locked",),
            "resets/peripheral_reset": ("link/rst", f"{ACCELERATOR}/rst"),
            "resets/interconnect_aresetn": ("memory/aresetn",),
        },
        links={
            "link/registers_axi": f"{ACCELERATOR}/s_axi",
            **{space: f"memory/S{index:02}_AXI" for index, space in enumerate(spaces)},
            "memory/M00_AXI": "ddr/S_AXI",
            "ddr/DDR3": "ddr3",
        },
        addresses=(
            Address("link/registers_axi", REGISTERS, 0, REGISTER_BYTES),
            *(Address(space, "ddr/memmap/memaddr", 0, board.memory_bytes) for space in spaces),
        ),
    )
    return System((ip, link), design)
