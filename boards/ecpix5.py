"""ECPIX-5: pins, clocks, and the design around `boards.top`.

The memory's clock is the oscillator's, and the accelerator's is half of it.
"""

from amaranth.build import Platform
from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Const,
    Elaboratable,
    Instance,
    IOValue,
    Module,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import io, wiring
from amaranth.lib.cdc import AsyncFFSynchronizer, ResetSynchronizer
from amaranth.lib.wiring import In
from amaranth_boards.ecpix5 import ECPIX585Platform

from boards.board import Board, BoardError
from boards.memory.ddr3.chip import MT41K256M16
from boards.memory.ddr3.controller import Ddr3Memory
from boards.memory.ddr3.core import CORE, Ddr3Error, core_verilog
from boards.top import BOARD, BoardSignature

__all__ = ["BOARDS", "Ecpix5Top"]

OSCILLATOR = 100e6
VCO_DIVIDER = 6  #: the oscillator's frequency times this must be in 400 to 800 MHz
INIT_DIVIDER = 24  #: of the same, for the clock that starts the pins' delays: 25 MHz


class Ecpix5Top(Elaboratable):
    """The module `boards.top.BOARD`, which `board_verilog` writes, and the memory's core, with clocks and pins.

    The reset button resets; lamp 0 is green while a program runs, lamp 1 when the memory is ready.
    """

    def __init__(self, board: Board) -> None:
        if board.frequency != OSCILLATOR / 2:
            raise BoardError(f"{board.name} runs at {OSCILLATOR / 2e6:g} MHz, not at {board.frequency / 1e6:g} MHz")
        self._board = board

    def elaborate(self, platform: Platform) -> Module:
        board = self._board
        try:
            platform.add_file(f"{CORE}.v", core_verilog(board.memory.chip, board.frequency))
        except Ddr3Error as error:
            raise BoardError(str(error)) from error
        m = Module()
        ports = BoardSignature(board.memory).create()
        clocks = self._clocks(m, platform)
        m.submodules.board = Instance(
            BOARD, i_clk=ClockSignal(), i_rst=ResetSignal(), **_connections(ports, BoardSignature(board.memory))
        )
        m.submodules.core = Instance(
            CORE,
            **clocks,
            **_connections(ports.sdram, board.memory.pins(), flip=True),
            **self._memory_pins(m, platform),
        )
        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx = rx = io.Buffer("i", uart.rx)
        m.d.comb += ports.rx.eq(rx.i)
        lamps = [platform.request("rgb_led", index, dir="-").g for index in (0, 1)]
        for pin, value in ((uart.tx, ports.tx), (lamps[0], ports.busy), (lamps[1], ~ports.sdram.init.select)):
            m.submodules += (buffer := io.Buffer("o", pin))
            m.d.comb += buffer.o.eq(value)
        return m

    def _clocks(self, m: Module, platform: Platform) -> dict[str, Value]:
        """Domain `sync`; returns the connections of the core to clocks and resets.

        The core stops the memory's clock, `sys2x`, and restarts its divider when it starts. nextpnr derives the
        frequencies of all clocks from the oscillator's.
        """
        m.submodules.oscillator = oscillator = io.Buffer("i", platform.request("clk100", 0, dir="-"))
        m.submodules.button = button = io.Buffer("i", platform.request("rst", 0, dir="-"))
        m.domains.sync = sync = ClockDomain()
        m.domains.init = init = ClockDomain()
        fast, sys2x, locked, stop, restart, pins_reset = (
            Signal(name=name) for name in ("fast", "sys2x", "locked", "stop", "restart", "pins_reset")
        )
        m.submodules.pll = Instance(
            "EHXPLLL",
            p_CLKI_DIV=1, p_CLKFB_DIV=1, p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=VCO_DIVIDER, p_CLKOP_CPHASE=VCO_DIVIDER - 1, p_CLKOP_FPHASE=0,
            p_CLKOS_ENABLE="ENABLED", p_CLKOS_DIV=INIT_DIVIDER, p_CLKOS_CPHASE=INIT_DIVIDER - 1, p_CLKOS_FPHASE=0,
            p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB", p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            a_ICP_CURRENT="12", a_LPF_RESISTOR="8", a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            i_CLKI=oscillator.i, i_CLKFB=fast, i_RST=Const(0), i_STDBY=Const(0), i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0), i_PHASEDIR=Const(1), i_PHASESTEP=Const(1), i_PHASELOADREG=Const(1),
            i_PLLWAKESYNC=Const(0), i_ENCLKOP=Const(0), i_ENCLKOS=Const(0),
            o_CLKOP=fast, o_CLKOS=init.clk, o_LOCK=locked,
        )  # fmt: skip
        m.submodules.stopper = Instance("ECLKSYNCB", i_ECLKI=fast, i_STOP=stop, o_ECLKO=sys2x)
        m.submodules.divider = Instance(
            "CLKDIVF", p_DIV="2.0", i_CLKI=sys2x, i_RST=restart, i_ALIGNWD=Const(0), o_CDIVX=sync.clk
        )
        m.submodules.init_reset = ResetSynchronizer(~locked, domain="init")
        m.submodules.reset = ResetSynchronizer(~locked | restart | button.i, domain="sync")
        m.submodules.pins_reset = AsyncFFSynchronizer(~locked | restart, pins_reset, o_domain="sync")
        return {
            "i_sys_clk": sync.clk, "i_sys_rst": sync.rst, "i_phy_rst": pins_reset, "i_sys2x_clk": sys2x,
            "i_init_clk": init.clk, "i_init_rst": init.rst, "o_clock_stop": stop, "o_clock_reset": restart,
        }  # fmt: skip

    def _memory_pins(self, m: Module, platform: Platform) -> dict[str, Value | IOValue]:
        """Connections of the core to the chip's pins, through buffers that never invert."""
        pins = platform.request("ddr3", 0, dir="-")
        outputs = {
            "a": pins.a.io, "ba": pins.ba.io, "dm": pins.dm.io, "cke": pins.clk_en.io, "odt": pins.odt.io,
            "ras_n": pins.ras.io, "cas_n": pins.cas.io, "we_n": pins.we.io, "clk_p": pins.clk.p,
        }  # fmt: skip
        connections = {"io_ddr3_dq": pins.dq.io, "io_ddr3_dqs_p": pins.dqs.p}
        for name, port in outputs.items():
            connections[f"o_ddr3_{name}"] = value = Signal(len(port), name=name)
            for bit in range(len(port)):
                m.submodules[f"{name}_{bit}"] = Instance("OB", i_I=value[bit], io_O=port[bit])
        return connections


def _connections(ports: wiring.PureInterface, signature: wiring.Signature, *, flip: bool = False) -> dict[str, Value]:
    """Connections of an instance that has the ports of a signature, or the other side of it."""
    return {
        f"{'i' if (member.flow == In) != flip else 'o'}_{'_'.join(map(str, path))}": Value.cast(value)
        for path, member, value in signature.flatten(ports)
    }


BOARDS = (
    Board(
        name="ecpix5-85f",
        title="ECPIX-5 with LFE5UM5G-85F",
        platform=ECPIX585Platform,
        top=Ecpix5Top,
        config="pico",
        memory=Ddr3Memory(MT41K256M16),
        frequency=50e6,
        baud=2e6,  # a rate that the FT2232H makes exactly, as does the clock
        cable="ecpix5",
        status="simulated as a whole but for the memory's pins; placed and routed; not yet run on hardware",
    ),
)
