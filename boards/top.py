"""What every board with a memory and a serial line has inside: link, memory controller, accelerator."""

import functools
import re
from dataclasses import dataclass

from amaranth.back import verilog
from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from boards.link.bridge import Link
from boards.link.frames import WORD_BITS
from boards.link.uart import line_divider
from boards.memory.interface import BoardMemory
from boards.memory.ports import MemoryPorts
from boards.memory.widener import HALF_BITS, BusWidener
from hw.accelerator import AcceleratorSignature
from hw.config import AcceleratorConfig, ConfigError
from hw.verilog import TOP as ACCELERATOR
from hw.verilog import top_ports

__all__ = ["BOARD", "BoardParameters", "BoardSignature", "BoardTop", "board_verilog"]

LINK_ADDRESS_BITS = 32  #: of a request
LAMP_CYCLES = 1 << 22  #: about a tenth of a second
BOARD = "board"  #: name of the top module of `board_verilog`


@dataclass(frozen=True, kw_only=True)
class BoardParameters:
    """What a board's logic depends on. Raises `ConfigError` for an accelerator that does not fit the memory."""

    config: AcceleratorConfig
    memory: BoardMemory
    frequency: float  #: of the only clock, in Hz
    baud: float  #: of the serial line

    def __post_init__(self) -> None:
        if self.config.bus_ports != 1 or self.config.bus_bits not in (HALF_BITS, WORD_BITS):
            raise ConfigError(
                f"bus_ports = {self.config.bus_ports} and bus_bits = {self.config.bus_bits} do not fit the board's "
                f"memory; use 1 port of {HALF_BITS} or {WORD_BITS} bits"
            )
        needed = (self.memory.size - 1).bit_length()
        if self.config.address_bits < needed:
            raise ConfigError(
                f"address_bits = {self.config.address_bits} do not reach all of the board's memory; use {needed}"
            )


class BoardSignature(wiring.Signature):
    """Ports of a board's logic.

    Members
    -------
    rx, tx : serial line, seen from the board
    sdram : pins of the memory's controller
    busy : a program runs, or did a moment ago; for a lamp
    """

    def __init__(self, memory: BoardMemory) -> None:
        super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1), "sdram": Out(memory.pins()), "busy": Out(1)})


class BoardTop(wiring.Component):
    """Link and accelerator on one memory, the link on the accelerator's registers. Ports are those of `BoardSignature`.

    The accelerator is an instance of the module that `hw.verilog.generate_verilog` writes, which has to be added.
    """

    def __init__(self, parameters: BoardParameters) -> None:
        self._parameters = parameters
        super().__init__(BoardSignature(parameters.memory))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        parameters = self._parameters
        kind, frequency = parameters.memory, parameters.frequency
        address_bits = max(parameters.config.address_bits, LINK_ADDRESS_BITS)
        m.submodules.link = link = Link(line_divider(frequency, parameters.baud), address_bits)
        m.submodules.memory = memory = kind.controller(frequency)
        m.submodules.ports = ports = MemoryPorts(
            ports=2, words=kind.size * 8 // WORD_BITS, read_depth=kind.read_depth, address_bits=address_bits
        )
        accelerator = AcceleratorSignature(parameters.config).create()
        m.submodules.accelerator = Instance(
            ACCELERATOR,
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            **{
                f"{'i' if flow == In else 'o'}_{name}": Value.cast(value)
                for name, flow, value in top_ports(accelerator)
            },
        )
        self._attach(m, accelerator.m[0], ports.ports[0])
        connect(m, link.memory, ports.ports[1])
        connect(m, link.registers, accelerator.s)
        connect(m, ports.access, memory.access)
        connect(m, memory.pins, flipped(self.sdram))
        m.d.comb += [
            ports.read_data.eq(memory.read_data),
            ports.read_valid.eq(memory.read_valid),
            link.rx.eq(self.rx),
            self.tx.eq(link.tx),
        ]
        self._lamp(m, accelerator.monitor)
        return m

    def _attach(self, m: Module, initiator: wiring.PureInterface, port: wiring.PureInterface) -> None:
        """The accelerator's bus, which may have half the width and fewer address bits, to a port of the memory."""
        if self._parameters.config.bus_bits == HALF_BITS:
            m.submodules.widener = widener = BusWidener(self._parameters.config.address_bits)
            connect(m, initiator, widener.i)
            initiator = widener.o
        for path, member, target in port.signature.flatten(port):
            source = functools.reduce(getattr, path, initiator)
            m.d.comb += target.eq(source) if member.flow is In else source.eq(target)

    def _lamp(self, m: Module, monitor: wiring.PureInterface) -> None:
        """Shines from the beginning of an instruction on, until none has begun for `LAMP_CYCLES` cycles."""
        left = Signal(range(LAMP_CYCLES + 1))
        m.d.comb += self.busy.eq(left != 0)
        with m.If(self.busy):
            m.d.sync += left.eq(left - 1)
        with m.If(monitor.started != 0):
            m.d.sync += left.eq(LAMP_CYCLES)


def board_verilog(parameters: BoardParameters) -> str:
    """Verilog of everything but the accelerator, the pins, and the clock: module `BOARD`, with `clk`, a synchronous
    `rst`, and the ports of `BoardTop`."""
    top = BoardTop(parameters)
    ports = {"_".join(map(str, path)): (Value.cast(value), None) for path, _, value in top.signature.flatten(top)}
    text = verilog.convert(top, name=BOARD, ports=ports, emit_src=False, strip_internal_attrs=True)
    return re.sub(r"/\* Generated by .*? \*/\n", "", text)
