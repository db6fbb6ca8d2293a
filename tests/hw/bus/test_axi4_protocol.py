"""The bus masters against cocotbext-axi, which checks the protocol: a copy machine with a second reader beside it."""

from pathlib import Path

from amaranth.back import verilog
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.arbiter import ReadArbiter
from hw.bus.axi4 import Axi4
from hw.bus.bursts import burst_command
from hw.bus.reader import AxiReader
from hw.bus.writer import AxiWriter
from hw.memory.initial import compact_zero_memories
from sim.verilator import build

DATA_WIDTH = 64


class Copier(wiring.Component):
    """Copies memory; a second reader sums the words of a region of its own."""

    def __init__(self) -> None:
        command = In(stream.Signature(burst_command()))
        super().__init__(
            {
                "source": command,
                "destination": command,
                "summed": command,
                "sum": Out(DATA_WIDTH),
                "copied": Out(16),
                "halt": In(1),
                "outstanding": Out(1),
                "errors": Out(8),
                "bus": Out(Axi4(DATA_WIDTH)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.arbiter = arbiter = ReadArbiter(data_width=DATA_WIDTH, readers=2)
        m.submodules.reader = reader = AxiReader(data_width=DATA_WIDTH, fifo_depth=64)
        m.submodules.summer = summer = AxiReader(data_width=DATA_WIDTH, fifo_depth=32)
        m.submodules.writer = writer = AxiWriter(data_width=DATA_WIDTH)
        wiring.connect(m, reader.bus, arbiter.readers[0])
        wiring.connect(m, summer.bus, arbiter.readers[1])
        wiring.connect(m, arbiter.bus, wiring.flipped(self.bus.read))
        wiring.connect(m, writer.bus, wiring.flipped(self.bus.write))
        wiring.connect(m, wiring.flipped(self.source), reader.command)
        wiring.connect(m, wiring.flipped(self.summed), summer.command)
        wiring.connect(m, wiring.flipped(self.destination), writer.command)
        wiring.connect(m, reader.data, writer.data)
        units = (reader, summer, writer)
        m.d.comb += [unit.halt.eq(self.halt) for unit in units]
        m.d.comb += [
            summer.data.ready.eq(1),
            self.outstanding.eq(reader.outstanding | summer.outstanding | writer.outstanding),
        ]
        with m.If(summer.data.valid):
            m.d.sync += self.sum.eq(self.sum + summer.data.payload)
        m.d.sync += [
            self.copied.eq(self.copied + writer.done),
            self.errors.eq(self.errors + reader.error + summer.error + writer.error),
        ]
        return m


def flat_top() -> tuple[Module, list[Signal]]:
    """`Copier` with the flat port names that cocotbext-axi expects, identifiers included."""
    m = Module()
    m.submodules.copier = copier = Copier()
    ports = [Signal(4, name=name) for name in ("axi_awid", "axi_bid", "axi_arid", "axi_rid")]
    for path, member, value in copier.signature.flatten(copier):
        name = f"axi_{path[-1]}" if path[0] == "bus" else "_".join(part for part in path if part != "payload")
        value = Value.cast(value)
        port = Signal(len(value), name=name)
        m.d.comb += value.eq(port) if member.flow == In else port.eq(value)
        ports.append(port)
    return m, ports


def test_protocol(tmp_path: Path):
    module, ports = flat_top()
    text = compact_zero_memories(verilog.convert(module, name="copier_top", ports=ports))
    build({"copier_top.v": text}, "copier_top", jobs=1).run("tests.hw.bus.axi4_protocol", tmp_path)
