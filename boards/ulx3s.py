"""ULX3S: pins, clocks, and the design around `boards.top`.

The memory chip's clock lags the accelerator's by a quarter of a period: commands and written data are stable around its
edges, and what it sends arrives in time for the accelerator's edge that `SdramController` expects.
"""

from amaranth.build import Platform
from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, ResetSignal, Signal
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In
from amaranth_boards.ulx3s import ULX3S_25F_Platform, ULX3S_45F_Platform, ULX3S_85F_Platform

from boards.board import Board, BoardError
from boards.memory.chips import SLOWEST_256_MBIT
from boards.memory.sdram import SdramMemory
from boards.top import BOARD, BoardSignature

__all__ = ["BOARDS", "Ulx3sTop", "pll_divisors"]

OSCILLATOR = 25e6
VCO_RANGE = (400e6, 800e6)
PHASE_DETECTOR_RANGE = (3.125e6, 400e6)


def pll_divisors(frequency: float) -> tuple[int, int, int]:
    """CLKI_DIV, CLKFB_DIV, and CLKOP_DIV, a multiple of 4, of an EHXPLLL that makes a frequency from the oscillator's.

    Raises `BoardError` if it cannot be made exactly.
    """
    for clki in range(1, int(OSCILLATOR / PHASE_DETECTOR_RANGE[0]) + 1):
        for clkop in range(4, 129, 4):
            clkfb = round(frequency * clki / OSCILLATOR)
            exact = abs(OSCILLATOR * clkfb / clki - frequency) < 1
            if 1 <= clkfb <= 80 and exact and VCO_RANGE[0] <= frequency * clkop <= VCO_RANGE[1]:
                return clki, clkfb, clkop
    raise BoardError(f"{frequency / 1e6:g} MHz cannot be made from {OSCILLATOR / 1e6:g} MHz; try multiples of 5 MHz")


class Ulx3sTop(Elaboratable):
    """The module `boards.top.BOARD`, which `board_verilog` writes, with the board's clocks and pins.

    Button FIRE 1 resets; lamp 0 shines while a program runs, lamp 7 while the clock is stable.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        locked = self._clocks(m, platform)
        signature = BoardSignature(self._board.memory)
        ports = signature.create()
        m.submodules.board = Instance(
            BOARD,
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            **{
                f"{'i' if member.flow == In else 'o'}_{'_'.join(map(str, path))}": value
                for path, member, value in signature.flatten(ports)
            },
        )
        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.d.comb += ports.rx.eq(rx.i)
        esp32 = platform.request("esp32", 0, dir="-").gpio0  # low, it takes over the FPGA's configuration
        lamps = [platform.request("led", index, dir="-") for index in (0, 7)]
        for pin, value in ((uart.tx, ports.tx), (lamps[0], ports.busy), (lamps[1], locked), (esp32, Const(1))):
            m.submodules += (buffer := io.Buffer("o", pin))
            m.d.comb += buffer.o.eq(value)
        self._memory(m, platform, ports.sdram)
        return m

    def _clocks(self, m: Module, platform: Platform) -> Signal:
        """Domains `sync` and, a quarter of a period later, `sdram`; returns whether they are stable."""
        locked = Signal()
        m.submodules.oscillator = oscillator = io.Buffer("i", platform.request("clk25", 0, dir="-"))
        m.submodules.button = button = io.Buffer("i", platform.request("button_fire", 0, dir="-"))
        frequency = self._board.frequency
        clki, clkfb, clkop = pll_divisors(frequency)
        m.domains.sync = sync = ClockDomain()
        m.domains.sdram = ClockDomain(reset_less=True)
        m.submodules.pll = Instance(
            "EHXPLLL",
            p_CLKI_DIV=clki, p_CLKFB_DIV=clkfb, p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=clkop, p_CLKOP_CPHASE=clkop // 2 - 1, p_CLKOP_FPHASE=0,
            p_CLKOS_ENABLE="ENABLED", p_CLKOS_DIV=clkop, p_CLKOS_CPHASE=clkop // 2 - 1 + clkop // 4, p_CLKOS_FPHASE=0,
            p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB", p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            i_CLKI=oscillator.i, i_CLKFB=ClockSignal("sync"), i_RST=Const(0), i_STDBY=Const(0), i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0), i_PHASEDIR=Const(1), i_PHASESTEP=Const(1), i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0), i_ENCLKOS=Const(0),
            o_CLKOP=ClockSignal("sync"), o_CLKOS=ClockSignal("sdram"), o_LOCK=locked,
        )  # fmt: skip
        platform.add_clock_constraint(sync.clk, frequency)
        m.submodules.reset = ResetSynchronizer(~locked | button.i, domain="sync")
        return locked

    def _memory(self, m: Module, platform: Platform, pins: wiring.PureInterface) -> None:
        """Registers in the pins, and the chip's clock."""
        resource = platform.request("sdram", 0, dir="-")
        for name in ("clk_en", "cs", "ras", "cas", "we", "ba", "a", "dqm"):
            m.submodules[name] = buffer = io.FFBuffer("o", getattr(resource, name))
            m.d.comb += buffer.o.eq(getattr(pins, name))
        m.submodules.dq = dq = io.FFBuffer("io", resource.dq)
        m.d.comb += [dq.o.eq(pins.dq_o), dq.oe.eq(pins.dq_oe), pins.dq_i.eq(dq.i)]
        m.submodules.clk = clk = io.DDRBuffer("o", resource.clk, o_domain="sdram")
        m.d.comb += [clk.o[0].eq(1), clk.o[1].eq(0)]


def _board(size: str, platform: type[Platform], *, config: str, seed: int | None = None) -> Board:
    return Board(
        name=f"ulx3s-{size.lower()}",
        title=f"ULX3S with LFE5U-{size}",
        platform=platform,
        top=Ulx3sTop,
        config=config,
        memory=SdramMemory(chip=SLOWEST_256_MBIT),
        frequency=60e6,
        baud=2e6,  # the FT231X has 3 Mbaud too, with which the 25F has not been routed
        cable="ulx3s",
        seed=seed,
        whole=size == "25F",  # where every LUT counts
        status="simulated as a whole; placed and routed; not yet run on hardware",
    )


BOARDS = (
    _board("25F", ULX3S_25F_Platform, config="femto"),
    _board("45F", ULX3S_45F_Platform, config="pico"),
    _board("85F", ULX3S_85F_Platform, config="nano", seed=3),
)
