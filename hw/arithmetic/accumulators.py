"""Accumulators of partial sums behind a multiplier array, with a double-buffered output memory."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.memory.ram import Ram
from hw.shared import place

__all__ = ["AccumulatorLane", "Accumulators"]


class AccumulatorLane(wiring.Component):
    """One accumulator per address: a memory of running sums, an adder, and an output memory of two banks.

    The control signals are those of `Accumulators`, decoded once for all lanes and named by pipeline stage:
    `read` fetches a running sum; a cycle later `add` adds `psum` to it (to 0 if `first`); a cycle later the sum goes
    to the running sums (`store`) or to the output memory (`finish`).

    Members
    -------
    drain_data : Out(signed(acc_bits))
        The entry `drain_address` of the output memory, one cycle after `drain`.
    """

    def __init__(self, *, depth: int, acc_bits: int, psum_bits: int) -> None:
        self.depth = depth
        self.acc_bits = acc_bits
        super().__init__(
            {
                "read": In(1),
                "read_address": In(range(depth)),
                "add": In(1),
                "first": In(1),
                "psum": In(signed(psum_bits)),
                "store": In(1),
                "finish": In(1),
                "write_address": In(range(depth)),
                "write_bank": In(1),
                "drain": In(1),
                "drain_address": In(range(2 * depth)),
                "drain_data": Out(signed(acc_bits)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sums = sums = Ram(width=self.acc_bits, depth=self.depth)
        m.submodules.outputs = outputs = Ram(width=self.acc_bits, depth=2 * self.depth)

        total = Signal(signed(self.acc_bits), reset_less=True)
        with m.If(self.add):
            m.d.sync += total.eq(self.psum + Mux(self.first, 0, sums.read_data.as_signed()))
        m.d.comb += [
            sums.read_enable.eq(self.read),
            sums.read_address.eq(self.read_address),
            sums.write_enable.eq(self.store),
            sums.write_address.eq(self.write_address),
            sums.write_data.eq(total),
            outputs.write_enable.eq(self.finish),
            outputs.write_address.eq(Cat(self.write_address, self.write_bank)),
            outputs.write_data.eq(total),
            outputs.read_enable.eq(self.drain),
            outputs.read_address.eq(self.drain_address),
            self.drain_data.eq(outputs.read_data),
        ]
        return m


class Accumulators(wiring.Component):
    """`lanes` accumulators for each of `depth` addresses, and two banks of results.

    Each operation adds a vector of partial sums at an address:

        value = psum + (0 if first else sums[address])
        outputs[bank][address] = value    if last, else    sums[address] = value

    One operation per cycle. `psum` is sampled `PSUM_DELAY` cycles after the operation it belongs to (the time of the
    memory read). The same address may come again `MIN_REVISIT` cycles later at the earliest. A result may be read with
    a request `OUTPUT_LATENCY` cycles after its operation or later. Sums wrap at `acc_bits`.

    Lanes are ordered [group][lane of the group]; a drain reads one group at a time: `read_data` shows it exactly
    `READ_LATENCY` cycles after `read`, and keeps it until the next one. The drain and the operations may use different
    banks, or different addresses, in the same cycle.
    """

    PSUM_DELAY = 1
    MIN_REVISIT = 3
    OUTPUT_LATENCY = 3
    READ_LATENCY = 2

    def __init__(self, *, depth: int, lanes: int, acc_bits: int, psum_bits: int, groups: int = 1) -> None:
        if lanes % groups:
            raise ValueError(f"lanes = {lanes} is not a multiple of groups = {groups}")
        self.depth = depth
        self.lanes = lanes
        self.acc_bits = acc_bits
        self.psum_bits = psum_bits
        self.groups = groups
        super().__init__(
            {
                "valid": In(1),
                "address": In(range(depth)),
                "first": In(1),
                "last": In(1),
                "bank": In(1),
                "psum": In(data.ArrayLayout(signed(psum_bits), lanes)),
                "read": In(1),
                "read_bank": In(1),
                "read_address": In(range(depth)),
                "read_group": In(range(max(groups, 2))),
                "read_data": Out(data.ArrayLayout(signed(acc_bits), lanes // groups)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # stage 1 adds, stage 2 writes
        add = Signal()
        first = Signal()
        last = Signal()
        bank = Signal()
        address = Signal.like(self.address)
        store = Signal()
        finish = Signal()
        write_bank = Signal()
        write_address = Signal.like(self.address)
        m.d.sync += [add.eq(self.valid), store.eq(add & ~last), finish.eq(add & last)]
        with m.If(self.valid):
            m.d.sync += [first.eq(self.first), last.eq(self.last), bank.eq(self.bank), address.eq(self.address)]
        with m.If(add):
            m.d.sync += [write_bank.eq(bank), write_address.eq(address)]

        shape = {"depth": self.depth, "acc_bits": self.acc_bits, "psum_bits": self.psum_bits}
        group_lanes = self.lanes // self.groups
        lanes = [place(m, platform, f"lane_{i}", AccumulatorLane, **shape) for i in range(self.lanes)]
        for i, lane in enumerate(lanes):
            m.d.comb += [
                lane.read.eq(self.valid & ~self.first),
                lane.read_address.eq(self.address),
                lane.add.eq(add),
                lane.first.eq(first),
                lane.psum.eq(self.psum[i]),
                lane.store.eq(store),
                lane.finish.eq(finish),
                lane.write_address.eq(write_address),
                lane.write_bank.eq(write_bank),
                lane.drain.eq(self.read & (self.read_group == i // group_lanes)),
                lane.drain_address.eq(Cat(self.read_address, self.read_bank)),
            ]
        self._select_group(m, lanes)
        return m

    def _select_group(self, m: Module, lanes: list[AccumulatorLane]) -> None:
        """Register the lanes of the group that was read."""
        read = Signal()
        group = Signal.like(self.read_group)
        selected = Signal(self.read_data.shape(), reset_less=True)
        m.d.sync += read.eq(self.read)
        with m.If(self.read):
            m.d.sync += group.eq(self.read_group)
        group_lanes = self.lanes // self.groups
        with m.If(read), m.Switch(group):
            for g in range(self.groups):
                with m.Case(g):
                    chosen = lanes[g * group_lanes : (g + 1) * group_lanes]
                    m.d.sync += selected.eq(Cat(lane.drain_data for lane in chosen))
        m.d.comb += self.read_data.eq(selected)
