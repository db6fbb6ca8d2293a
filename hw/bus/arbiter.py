"""Several readers on one AXI4 read port."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import ADDRESS_BITS, Axi4Read, drive_read_constants
from hw.memory.fifo import Fifo

__all__ = ["ReadArbiter"]


class ReadArbiter(wiring.Component):
    """Share an AXI4 read port between `readers` initiators, burst by burst in round robin.

    Bursts are answered in the order of their grants, which a small FIFO remembers; responses follow it. Initiators must
    take data at any time (`AxiReader` reserves room before it asks).

    Latency: 1 cycle for addresses, 1 for data. Throughput: one burst per cycle.

    Parameters
    ----------
    data_width, address_bits : of the bus.
    readers : number of initiators.
    bursts_in_flight : depth of the order FIFO.

    Members
    -------
    readers : array of In(Axi4Read)
    bus : Out(Axi4Read)
    """

    def __init__(
        self, *, data_width: int, readers: int, bursts_in_flight: int = 16, address_bits: int = ADDRESS_BITS
    ) -> None:
        self._bursts_in_flight = bursts_in_flight
        bus = Axi4Read(data_width, address_bits)
        super().__init__({"readers": In(bus).array(readers), "bus": Out(bus)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        readers = list(self.readers)
        m.submodules.order = order = Fifo(width=max(1, (len(readers) - 1).bit_length()), depth=self._bursts_in_flight)
        m.d.comb += drive_read_constants(self.bus)

        # AR: the next initiator after the last granted one that asks
        granted = Signal(range(len(readers)))
        choice = Signal(range(len(readers)))
        requested = Signal()
        m.d.comb += [choice.eq(granted), requested.eq(Cat(r.arvalid for r in readers).any())]
        with m.Switch(granted):
            for last in range(len(readers)):
                with m.Case(last):
                    for step in range(len(readers) - 1, 0, -1):
                        candidate = (last + step) % len(readers)
                        with m.If(readers[candidate].arvalid):
                            m.d.comb += choice.eq(candidate)

        arvalid = Signal()
        take = Signal()
        m.d.comb += [self.bus.arvalid.eq(arvalid), take.eq((~arvalid | self.bus.arready) & order.i.ready)]
        with m.If(self.bus.arready):
            m.d.sync += arvalid.eq(0)
        with m.If(take & requested):
            m.d.sync += [arvalid.eq(1), granted.eq(choice)]
        with m.Switch(choice):
            for index, reader in enumerate(readers):
                with m.Case(index):
                    m.d.comb += reader.arready.eq(take)
                    with m.If(take):
                        m.d.sync += [self.bus.araddr.eq(reader.araddr), self.bus.arlen.eq(reader.arlen)]
        m.d.comb += [order.i.payload.eq(choice), order.i.valid.eq(take & requested)]

        # R: to the initiator of the oldest burst
        m.d.comb += [self.bus.rready.eq(1), order.o.ready.eq(self.bus.rvalid & self.bus.rlast)]
        response = {name: Signal.like(getattr(self.bus, name), name=name) for name in ("rdata", "rresp", "rlast")}
        m.d.sync += [register.eq(getattr(self.bus, name)) for name, register in response.items()]
        for index, reader in enumerate(readers):
            m.d.comb += [getattr(reader, name).eq(register) for name, register in response.items()]
            m.d.sync += reader.rvalid.eq(self.bus.rvalid & (order.o.payload == index))
        return m
