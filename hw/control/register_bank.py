"""Control registers behind an AXI4-Lite port."""

from amaranth import Cat, Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import Response
from hw.bus.axi4lite import Axi4Lite
from hw.config import ABI_VERSION, AcceleratorConfig
from hw.control.counters import COUNTER_BITS, COUNTERS
from hw.control.registers import ADDRESS_WIDTH, IDENTITY, REGISTERS, Access, Register

__all__ = ["RegisterBank"]


def constants(config: AcceleratorConfig) -> dict[str, int]:
    """Values of the registers that never change."""
    return {
        "IDENTITY": IDENTITY,
        "ABI_VERSION": ABI_VERSION,
        "CONFIG_HASH_LO": config.hash & 0xFFFFFFFF,
        "CONFIG_HASH_HI": config.hash >> 32,
    }


class RegisterBank(wiring.Component):
    """The registers of `hw.control.registers` as an AXI4-Lite target.

    Addresses are used from bit 2 on. Byte strobes are honoured. A write takes effect one cycle after both its address
    and its data have come, a read samples its register one cycle after its address, or when it is the counter's turn.
    One transfer of each direction at a time; no response or ready depends on an input of the same cycle.

    Members
    -------
    bus : the AXI4-Lite port
    locked : a program runs; registers declared as locked ignore writes
    turn, count : the counter that is shown, see `PerformanceCounters`
    <name> : In for each read-only register (but constants and counters), Out for each writable one
    <name>_<field> : Out, one-cycle pulse when 1 is written to a command field
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._constants = constants(config)
        ports = {}
        for register in REGISTERS:
            if register.name not in (*self._constants, *COUNTERS):
                writable = register.access is Access.RW
                ports[register.name.lower()] = Out(32, init=register.reset) if writable else In(32)
            for field in register.fields:
                if field.command:
                    ports[f"{register.name}_{field.name}".lower()] = Out(1)
        ports |= {"turn": In(range(len(COUNTERS))), "count": In(COUNTER_BITS)}
        super().__init__({"bus": In(Axi4Lite(ADDRESS_WIDTH)), "locked": In(1), **ports})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._read(m)
        self._write(m)
        return m

    def _read(self, m: Module) -> None:
        bus = self.bus
        pending = Signal()
        address = Signal(ADDRESS_WIDTH - 2)
        m.d.comb += [bus.arready.eq(~pending), bus.rresp.eq(Response.OKAY)]
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [pending.eq(1), address.eq(bus.araddr[2:])]
        with m.If(bus.rvalid):
            with m.If(bus.rready):
                m.d.sync += [bus.rvalid.eq(0), pending.eq(0)]
        with m.Elif(pending):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(0)]
            with m.Switch(address):
                for register in REGISTERS:
                    with m.Case(register.offset >> 2):
                        m.d.sync += bus.rdata.eq(self._value(register))
                        if register.name in COUNTERS:
                            m.d.sync += bus.rvalid.eq(self.turn == COUNTERS.index(register.name))

    def _value(self, register: Register) -> Value:
        if register.name in self._constants:
            return Const(self._constants[register.name], 32)
        if register.name in COUNTERS:
            return self.count
        return getattr(self, register.name.lower())

    def _write(self, m: Module) -> None:
        bus = self.bus
        address, has_address = Signal(ADDRESS_WIDTH - 2), Signal()
        data, strobes, has_data = Signal(32), Signal(4), Signal()
        write = Signal()
        m.d.comb += [
            bus.awready.eq(~has_address),
            bus.wready.eq(~has_data),
            bus.bresp.eq(Response.OKAY),
            write.eq(has_address & has_data & ~bus.bvalid),
        ]
        with m.If(bus.awvalid & bus.awready):
            m.d.sync += [address.eq(bus.awaddr[2:]), has_address.eq(1)]
        with m.If(bus.wvalid & bus.wready):
            m.d.sync += [data.eq(bus.wdata), strobes.eq(bus.wstrb), has_data.eq(1)]
        with m.If(write):
            m.d.sync += [has_address.eq(0), has_data.eq(0), bus.bvalid.eq(1)]
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += bus.bvalid.eq(0)

        enables = Cat(strobe.replicate(8) for strobe in strobes)
        for register in REGISTERS:
            hit = write & (address == register.offset >> 2)
            for field in register.fields:
                if field.command:
                    pulse = getattr(self, f"{register.name}_{field.name}".lower())
                    m.d.comb += pulse.eq(hit & (data & enables)[field.bit])
            if register.access is Access.RW:
                value = getattr(self, register.name.lower())
                for byte, strobe in enumerate(strobes):
                    # a write enable per byte, without a choice before each bit
                    with m.If(hit & strobe & ~(self.locked & register.locked)):
                        m.d.sync += value.word_select(byte, 8).eq(data.word_select(byte, 8) & register.mask >> 8 * byte)
