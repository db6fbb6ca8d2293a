"""Memories of zeros become loops; other contents stay."""

from amaranth.back import verilog
from amaranth.hdl import Module, Signal
from amaranth.lib.memory import Memory

from hw.memory.initial import compact_zero_memories


def test_compact_zero_memories():
    m = Module()
    ports = []
    for name, init in (("zeros", []), ("mem ory", []), ("table", [3, 0, 0, 0])):
        memory = Memory(shape=100, depth=4 if init else 300, init=init)
        m.submodules[name.replace(" ", "$")] = memory
        write, read = memory.write_port(), memory.read_port()
        data = Signal(100, name=f"data_{len(ports)}")
        m.d.comb += [write.data.eq(data), write.en.eq(1), write.addr.eq(data), read.addr.eq(data), read.en.eq(1)]
        ports += [data, read.data]
    text = verilog.convert(m, ports=ports)
    short = compact_zero_memories(text)
    assert "for (i = 0; i < 300; i = i + 1) zeros[i] = 100'h0;" in short
    assert "zero_memory_1" in short and "zero_memory_2" not in short
    assert text.count("table[") == short.count("table[")
    assert len(short) < len(text) / 3
