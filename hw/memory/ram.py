"""Memories in blocks of RAM."""

from amaranth import Cat, ClockSignal, Instance, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.shared import ModuleLibrary

__all__ = ["Ram"]

VERILOG = """
module {name}(clk, write_enable, write_address, write_data, read_enable, read_address, read_data);
  input clk;
  input [{lanes}-1:0] write_enable;
  input [{address_bits}-1:0] write_address;
  input [{width}-1:0] write_data;
  input read_enable;
  input [{address_bits}-1:0] read_address;
  output reg [{width}-1:0] read_data;
  reg [{width}-1:0] words [0:{depth}-1];
  integer i, j;
  always @(posedge clk) begin
    if (|write_enable)
      for (i = 0; i < {lanes}; i = i + 1)
        if (write_enable[i])
          words[write_address][i*{granularity} +: {granularity}] <= write_data[i*{granularity} +: {granularity}];
  end
  always @(posedge clk)
    if (read_enable) begin
      read_data <= words[read_address];
      for (j = 0; j < {lanes}; j = j + 1)
        if (write_enable[j] && write_address == read_address)
`ifdef VERILATOR
          read_data[j*{granularity} +: {granularity}] <= ~words[read_address][j*{granularity} +: {granularity}];
`else
          read_data[j*{granularity} +: {granularity}] <= {{{granularity}{{1'bx}}}};
`endif
    end
endmodule
"""


class Ram(wiring.Component):
    """`depth` words of `width` bits with a write port, enabled per `granularity` bits, and a read port.

    Data stands on `read_data` in the cycle after `read_enable`, and holds until the next read. A read sees the writes
    of earlier cycles. What is being written in the cycle of the read returns anything: many devices have no memories
    that return the old data, and synthesis would add a register for every bit and its way around the memory. In
    simulation it is the complement of the old data, so that relying on it shows. Contents are undefined before they
    are written; reads beyond `depth` return anything.

    In Verilog it is a module of the library: Amaranth's memories return the old data, and their initial contents take
    one statement per word.
    """

    def __init__(self, *, width: int, depth: int, granularity: int | None = None) -> None:
        self._width = width
        self._depth = depth
        self._granularity = granularity = granularity or width
        super().__init__(
            {
                "write_enable": In(width // granularity),
                "write_address": In(range(depth)),
                "write_data": In(width),
                "read_enable": In(1),
                "read_address": In(range(depth)),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if isinstance(platform, ModuleLibrary):
            m.submodules.memory = self._instance(platform)
            return m
        m.submodules.memory = memory = Memory(shape=self._width, depth=self._depth, init=[])
        write, read = memory.write_port(granularity=self._granularity), memory.read_port()
        hit = Signal.like(self.write_enable)
        m.d.comb += [
            write.en.eq(self.write_enable),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
            read.en.eq(self.read_enable),
            read.addr.eq(self.read_address),
            self.read_data.eq(read.data ^ Cat(bit.replicate(self._granularity) for bit in hit)),
        ]
        with m.If(self.read_enable):
            m.d.sync += hit.eq(Mux(self.write_address == self.read_address, self.write_enable, 0))
        return m

    def _instance(self, library: ModuleLibrary) -> Instance:
        name = f"ram_{self._depth}x{self._width}_{self._granularity}"
        library.include(
            name,
            VERILOG.format(
                name=name,
                lanes=len(self.write_enable),
                address_bits=len(self.write_address),
                width=self._width,
                depth=self._depth,
                granularity=self._granularity,
            ),
        )
        return Instance(
            name,
            i_clk=ClockSignal(),
            i_write_enable=self.write_enable,
            i_write_address=self.write_address,
            i_write_data=self.write_data,
            i_read_enable=self.read_enable,
            i_read_address=self.read_address,
            o_read_data=self.read_data,
        )
