import re

from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from hw.shared import ModuleLibrary, place


class Delay(wiring.Component):
    def __init__(self, bits):
        super().__init__({"i": In(bits), "o": Out(bits)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.i)
        return m


class Pair(wiring.Component):
    """Two delays in a row: shared modules within a shared module."""

    def __init__(self, bits):
        self.bits = bits
        super().__init__({"bus": Out(wiring.Signature({"i": In(bits), "o": Out(bits)}))})

    def elaborate(self, platform):
        m = Module()
        value = self.bus.i
        for k in range(2):
            delay = place(m, platform, f"delay_{k}", Delay, self.bits)
            m.d.comb += delay.i.eq(value)
            value = delay.o
        m.d.comb += self.bus.o.eq(value)
        return m


class Top(wiring.Component):
    def __init__(self):
        super().__init__({"i": In(4), "o": Out(4)})

    def elaborate(self, platform):
        m = Module()
        value = self.i
        for k, bits in enumerate((4, 5, 4)):
            pair = place(m, platform, f"pair_{k}", Pair, bits)
            m.d.comb += pair.bus.i.eq(value)
            value = pair.bus.o
        m.d.comb += self.o.eq(value)
        return m


def test_verilog_has_each_module_once():
    def generate():
        library = ModuleLibrary()
        top = verilog.convert(Top(), name="top", platform=library, emit_src=False, strip_internal_attrs=True)
        return top + library.verilog()

    text = generate()
    assert re.findall(r"^module (\w+)", text, re.M) == ["top", "pair", "pair_1", "delay", "delay_1"]
    assert len(re.findall(r"^  pair \w+", text, re.M)) == 2
    assert len(re.findall(r"^  pair_1 \w+", text, re.M)) == 1
    assert len(re.findall(r"^  delay_1 \w+", text, re.M)) == 2
    assert text == generate()


def test_simulation_uses_submodules():
    dut = Top()

    async def bench(ctx):
        seen = []
        for cycle in range(12):
            ctx.set(dut.i, cycle + 1)
            seen.append(ctx.get(dut.o))
            await ctx.tick()
        assert seen == [0] * 6 + [1, 2, 3, 4, 5, 6]

    sim = Simulator(dut)
    sim.add_clock(1e-6)
    sim.add_testbench(bench)
    sim.run()
