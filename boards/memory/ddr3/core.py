"""The controller that LiteDRAM makes, with the pins of an ECP5, as Verilog.

LiteDRAM (https://github.com/enjoy-digital/litedram) is an optional dependency. Its parts are put together here, and not
by its own stand-alone generator, which simulates a controller with other settings than those of the board; here only
the PHY differs.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from boards.memory.ddr3.chip import Ddr3Chip

if TYPE_CHECKING:
    from litedram.common import PhySettings
    from litedram.modules import SDRAMModule
    from migen import Module

__all__ = [
    "BURST_BITS",
    "CORE",
    "LANES",
    "PHASES",
    "PULSES",
    "Ddr3Core",
    "Ddr3Error",
    "Ddr3Init",
    "Ddr3Port",
    "PhyFactory",
    "core_verilog",
]

CORE = "ddr3_core"  #: name of the module
RELEASE = "2024.12"  #: of LiteDRAM: its registers and its signals within are used
LANES = 2  #: bytes with a strobe of their own
PHASES = 2  #: clock cycles of the chip per cycle of the controller
BURST_BITS = 128  #: eight columns
PULSES = ("rdly_dq_rst", "rdly_dq_inc", "rdly_dq_bitslip_rst", "rdly_dq_bitslip", "burstdet_clr")  #: to the PHY

#: the PHY for a chip, the settings of the controller, and its clock in Hz
PhyFactory = Callable[["SDRAMModule", "PhySettings", float], "Module"]


class Ddr3Error(RuntimeError):
    """LiteDRAM is missing, or another release is installed; the message says what to do."""


class Ddr3Port(wiring.Signature):
    """A port of the controller, for bursts of 16 bytes; commands are executed in order.

    Members
    -------
    cmd_valid, cmd_ready, cmd_we, cmd_addr : a burst to read or to write; the address counts bursts
    wdata_ready : a cycle in which the data of the next write are taken, whether they are there or not; never in the
        cycle of its command
    wdata_data, wdata_mask : what is written, and which bytes
    rdata_valid, rdata_data : what was read; cannot be refused
    """

    def __init__(self, chip: Ddr3Chip) -> None:
        super().__init__(
            {
                "cmd_valid": Out(1),
                "cmd_ready": In(1),
                "cmd_we": Out(1),
                "cmd_addr": Out((chip.size * 8 // BURST_BITS).bit_length() - 1),
                "wdata_ready": In(1),
                "wdata_data": Out(BURST_BITS),
                "wdata_mask": Out(BURST_BITS // 8),
                "rdata_valid": In(1),
                "rdata_data": In(BURST_BITS),
            }
        )


class Ddr3Init(wiring.Signature):
    """Commands in place of the controller's, and the tuning of reads.

    Members
    -------
    select : the chip gets the commands below
    cke, reset_n : pins of the chip; the termination follows `cke`
    ras, cas, we, bank, address : a command per cycle, active high
    wdata : what writes write
    rdata_valid, rdata : what reads read
    dly_sel : byte lanes that are paused, so that the next four can change their settings
    rdly_dq_rst, rdly_dq_inc : pulses: the delay of the strobe becomes 0, the next of 8
    rdly_dq_bitslip_rst, rdly_dq_bitslip : pulses: the alignment to columns becomes 0, the next of 4
    burstdet_clr : pulse: forget the strobes
    burstdet_seen : byte lanes that have seen the strobe of a read
    """

    def __init__(self, chip: Ddr3Chip) -> None:
        super().__init__(
            {
                "select": Out(1, init=1),
                "cke": Out(1),
                "reset_n": Out(1),
                "ras": Out(1),
                "cas": Out(1),
                "we": Out(1),
                "bank": Out(chip.bank_bits),
                "address": Out(chip.row_bits),
                "wdata": Out(BURST_BITS),
                "rdata_valid": In(1),
                "rdata": In(BURST_BITS),
                "dly_sel": Out(LANES),
                **{name: Out(1) for name in PULSES},
                "burstdet_seen": In(LANES),
            }
        )


class Ddr3Core(wiring.Signature):
    """The core's ports towards the board's logic.

    Members
    -------
    port : Out(Ddr3Port)
    init : Out(Ddr3Init)
    """

    def __init__(self, chip: Ddr3Chip) -> None:
        super().__init__({"port": Out(Ddr3Port(chip)), "init": Out(Ddr3Init(chip))})


def core_verilog(chip: Ddr3Chip, frequency: float, phy: PhyFactory | None = None) -> str:
    """Verilog of the module `CORE` for a clock in Hz, half of the chip's; the same arguments give the same text.

    Its ports are those of `Ddr3Core`, the clock `sys_clk`, `sys_rst`, and `phy_rst`, a reset of the pins alone, which
    keep their levels while the rest is reset. Unless `phy` is given, the pins are those of an ECP5, with more ports:
    the chip's pins; clocks `sys2x_clk`, of twice the frequency, and `init_clk` with `init_rst`, a slow one;
    `clock_stop` and `clock_reset`, by which the first two clocks are started.

    Raises `Ddr3Error` if there is no LiteDRAM.
    """
    try:
        installed = version("litedram")
    except PackageNotFoundError:
        installed = None
    if installed != RELEASE:
        found = f"LiteDRAM {installed} is installed" if installed else "LiteDRAM is missing"
        raise Ddr3Error(f"{found}, but the DDR3 controller is made by release {RELEASE}; pip install vitsmith[ddr3]")
    from boards.memory.ddr3.generator import convert

    return convert(chip, frequency, phy)
