"""The vendor's IP that the block designs use: pins, buses, and settings, as its product guides describe them."""

from boards.vivado.design import ANY_AXI, Bus, Cell, Kind, Pin

__all__ = [
    "DDR_BUS",
    "clock_wizard",
    "crossbar",
    "memory_controller",
    "reset_generator",
    "zynq_7000",
    "zynq_ultrascale",
]

DDR_BUS = "xilinx.com:interface:ddrx_rtl:1.0"
FIXED_IO_BUS = "xilinx.com:display_processing_system7:fixedio_rtl:1.0"
HP_PORTS = 4  #: ports of a processing system to its memory; an accelerator has at most as many
HP_BITS = 128  #: of one of a Zynq UltraScale+


def crossbar(name: str, *, slaves: int, masters: int, clocks: int = 1) -> Cell:
    """SmartConnect: takes any AXI, and converts protocols, widths, and clocks."""
    pins = ["aclk", *(f"aclk{index}" for index in range(1, clocks))]
    ports = [(f"S{i:02}_AXI", False) for i in range(slaves)] + [(f"M{i:02}_AXI", True) for i in range(masters)]
    return Cell(
        name=name,
        vlnv="xilinx.com:ip:smartconnect",
        config={"NUM_SI": str(slaves), "NUM_MI": str(masters), "NUM_CLKS": str(clocks)},
        pins={"aresetn": Pin(Kind.RESET_N), **{pin: Pin(Kind.CLOCK) for pin in pins}},
        buses={bus: Bus(protocol=ANY_AXI, master=master, clocks=tuple(pins)) for bus, master in ports},
        crossbar=True,
    )


def reset_generator(name: str, *, external: Kind) -> Cell:
    """Processor System Reset: resets of both polarities, synchronous to a clock. `aux_reset_in` is active low."""
    return Cell(
        name=name,
        vlnv="xilinx.com:ip:proc_sys_reset",
        config={"C_EXT_RESET_HIGH": str(int(external is Kind.RESET)), "C_AUX_RESET_HIGH": "0"},
        pins={
            "slowest_sync_clk": Pin(Kind.CLOCK),
            "ext_reset_in": Pin(external),
            "aux_reset_in": Pin(Kind.RESET_N, optional=True),
            "dcm_locked": Pin(Kind.DATA, optional=True),
            "interconnect_aresetn": Pin(Kind.RESET_N, output=True, optional=True),
            "peripheral_reset": Pin(Kind.RESET, output=True, optional=True),
            "peripheral_aresetn": Pin(Kind.RESET_N, output=True, optional=True),
        },
    )


def clock_wizard(name: str, frequency: float) -> Cell:
    """A clock of `frequency` Hz, made from another one inside the FPGA."""
    return Cell(
        name=name,
        vlnv="xilinx.com:ip:clk_wiz",
        config={
            "PRIM_SOURCE": "No_buffer",
            "CLKOUT1_REQUESTED_OUT_FREQ": f"{frequency / 1e6:.3f}",
            "USE_RESET": "false",
        },
        pins={
            "clk_in1": Pin(Kind.CLOCK),
            "clk_out1": Pin(Kind.CLOCK, output=True),
            "locked": Pin(Kind.DATA, output=True),
        },
    )


def memory_controller(name: str, board_interface: str) -> Cell:
    """MIG for DDR3 with the settings of the board's files: its own clock from a pin, the reference clock from
    `ui_addn_clk_0`, and a reset that is active low."""
    return Cell(
        name=name,
        vlnv="xilinx.com:ip:mig_7series",
        config={"BOARD_MIG_PARAM": board_interface},
        pins={
            "sys_clk_i": Pin(Kind.CLOCK),
            "clk_ref_i": Pin(Kind.CLOCK),
            "sys_rst": Pin(Kind.RESET_N),
            "aresetn": Pin(Kind.RESET_N),
            "ui_clk": Pin(Kind.CLOCK, output=True),
            "ui_addn_clk_0": Pin(Kind.CLOCK, output=True),
            "ui_clk_sync_rst": Pin(Kind.RESET, output=True),
            "mmcm_locked": Pin(Kind.DATA, output=True),
            "init_calib_complete": Pin(Kind.RESET_N, output=True),  # low until the memory may be used
        },
        buses={
            "S_AXI": Bus(protocol="AXI4", master=False, clocks=("ui_clk",), segment="memmap/memaddr"),
            "DDR3": Bus(protocol=DDR_BUS, master=True),
        },
    )


def zynq_7000(name: str, *, ports: int, frequency: float, settings: dict[str, str]) -> Cell:
    """Processing system of a Zynq-7000, with `ports` ports to its memory, and a clock of `frequency` Hz."""
    used = range(ports)
    return Cell(
        name=name,
        vlnv="xilinx.com:ip:processing_system7",
        config={
            **settings,
            "PCW_USE_M_AXI_GP0": "1",
            **{f"PCW_USE_S_AXI_HP{i}": str(int(i in used)) for i in range(HP_PORTS)},
            "PCW_USE_FABRIC_INTERRUPT": "1",
            "PCW_IRQ_F2P_INTR": "1",
            "PCW_FPGA0_PERIPHERAL_FREQMHZ": f"{frequency / 1e6:g}",
        },
        pins={
            "FCLK_CLK0": Pin(Kind.CLOCK, output=True),
            "FCLK_RESET0_N": Pin(Kind.RESET_N, output=True),
            "IRQ_F2P": Pin(Kind.INTERRUPT),
            "M_AXI_GP0_ACLK": Pin(Kind.CLOCK),
            **{f"S_AXI_HP{i}_ACLK": Pin(Kind.CLOCK) for i in used},
        },
        buses={
            "M_AXI_GP0": Bus(protocol="AXI3", master=True, clocks=("M_AXI_GP0_ACLK",), space="Data"),
            **{
                f"S_AXI_HP{i}": Bus(
                    protocol="AXI3",
                    master=False,
                    clocks=(f"S_AXI_HP{i}_ACLK",),
                    segment=f"S_AXI_HP{i}/HP{i}_DDR_LOWOCM",
                )
                for i in used
            },
            "DDR": Bus(protocol=DDR_BUS, master=True),
            "FIXED_IO": Bus(protocol=FIXED_IO_BUS, master=True),
        },
    )


def zynq_ultrascale(name: str, *, ports: int, frequency: float) -> Cell:
    """Processing system of a Zynq UltraScale+ with the board's preset, `ports` ports to its memory, and a clock of
    `frequency` Hz."""
    used = range(ports)
    first = 2  # of Vivado's numbers of slave ports: HP0 is number 2
    return Cell(
        name=name,
        vlnv="xilinx.com:ip:zynq_ultra_ps_e",
        preset="xilinx.com:bd_rule:zynq_ultra_ps_e",
        config={
            "PSU__USE__M_AXI_GP0": "1",
            "PSU__USE__M_AXI_GP1": "0",
            "PSU__USE__M_AXI_GP2": "0",
            **{f"PSU__USE__S_AXI_GP{first + i}": str(int(i in used)) for i in range(HP_PORTS)},
            **{f"PSU__SAXIGP{first + i}__DATA_WIDTH": str(HP_BITS) for i in used},
            "PSU__USE__IRQ0": "1",
            "PSU__FPGA_PL0_ENABLE": "1",
            "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": f"{frequency / 1e6:g}",
        },
        pins={
            "pl_clk0": Pin(Kind.CLOCK, output=True),
            "pl_resetn0": Pin(Kind.RESET_N, output=True),
            "pl_ps_irq0": Pin(Kind.INTERRUPT),
            "maxihpm0_fpd_aclk": Pin(Kind.CLOCK),
            **{f"saxihp{i}_fpd_aclk": Pin(Kind.CLOCK) for i in used},
        },
        buses={
            "M_AXI_HPM0_FPD": Bus(protocol="AXI4", master=True, clocks=("maxihpm0_fpd_aclk",), space="Data"),
            **{
                f"S_AXI_HP{i}_FPD": Bus(
                    protocol="AXI4",
                    master=False,
                    clocks=(f"saxihp{i}_fpd_aclk",),
                    segment=f"SAXIGP{first + i}/HP{i}_DDR_LOW",
                )
                for i in used
            },
        },
    )
