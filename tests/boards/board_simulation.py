"""The board's Verilog with a chip and a serial line around it, and that line as a stream for the host driver."""

from dataclasses import replace
from pathlib import Path
from random import Random

from cocotb.handle import SimHandleBase
from cocotb.task import resume
from cocotb.triggers import ClockCycles, RisingEdge, Timer, ValueChange

from boards.link.uart import FRAME_BITS, line_divider
from boards.memory.chips import SLOWEST_256_MBIT
from boards.memory.ddr3.chip import MT41K256M16
from boards.memory.ddr3.controller import Ddr3Memory
from boards.memory.ddr3.core import CORE, core_verilog
from boards.memory.sdram import SdramMemory
from boards.top import BoardParameters

CLOCK_STEPS = 2  #: nanoseconds per clock cycle of testbench.sv
RESET_CYCLES = 8
SDRAM_MODEL = Path(__file__).with_name("sdram_model.sv")

SYSTEM = """
module system #(parameter int DIVIDER = 4) (
    input wire clk, input wire rst, input wire rx, output wire tx, output wire busy, output wire fault
);
  wire clk_en, cs, ras, cas, we, dq_oe;
  wire [1:0] ba, dqm;
  wire [{row_bits}-1:0] a;
  wire [15:0] dq_o, chip_dq;
  reg [15:0] dq_i;

  // Registers in the pins; the chip's clock rises between the board's clock edges.
  reg [{width}-1:0] pins = 0;
  always @(posedge clk) begin
    pins <= {{clk_en, cs, ras, cas, we, ba, a, dqm, dq_o, dq_oe}};
    dq_i <= chip_dq;
  end
  sdram_model #(
      .PERIOD({period}), .ROW_BITS({row_bits}), .COLUMN_BITS({column_bits}), .CAS_LATENCY({cas_latency}),
      .T_RCD({t_rcd}), .T_RP({t_rp}), .T_RAS({t_ras}), .T_RC({t_rc}), .T_RRD({t_rrd}), .T_RFC({t_rfc}), .T_WR({t_wr}),
      .T_REFRESH({t_refresh}), .T_INIT({t_init})
  ) chip (
      .clk(~clk), .clk_en(pins[{width}-1]), .cs(pins[{width}-2]), .ras(pins[{width}-3]), .cas(pins[{width}-4]),
      .we(pins[{width}-5]), .ba(pins[{width}-6-:2]), .a(pins[19+:{row_bits}]), .dqm(pins[18:17]), .dq_o(pins[16:1]),
      .dq_oe(pins[0]), .dq_i(chip_dq), .fault(fault)
  );
  board board (
      .clk(clk), .rst(rst), .rx(rx), .tx(tx), .busy(busy), .sdram_clk_en(clk_en), .sdram_cs(cs), .sdram_ras(ras),
      .sdram_cas(cas), .sdram_we(we), .sdram_ba(ba), .sdram_a(a), .sdram_dqm(dqm), .sdram_dq_o(dq_o),
      .sdram_dq_oe(dq_oe), .sdram_dq_i(dq_i)
  );
endmodule
"""
#: by name; of DDR3, a chip with fewer rows, as the model keeps all of them
MEMORIES = {
    "sdram": SdramMemory(chip=SLOWEST_256_MBIT),
    "ddr3": Ddr3Memory(replace(MT41K256M16, row_bits=12)),
}

DDR3_SYSTEM = """
module system #(parameter int DIVIDER = 4) (
    input wire clk, input wire rst, input wire rx, output wire tx, output wire busy, output wire fault
);
{wires}
  assign fault = 0;  // the model writes violations into the log
  {core} core (.sys_clk(clk), .sys_rst(rst), .phy_rst(1'b0){core_ports});
  board board (.clk(clk), .rst(rst), .rx(rx), .tx(tx), .busy(busy){board_ports});
endmodule
"""
TIMES = ("t_rcd", "t_rp", "t_ras", "t_rc", "t_rrd", "t_rfc", "t_wr", "t_refresh", "t_init")


def system(parameters: BoardParameters) -> dict[str, str]:
    """Verilog files of what lies around the board's own: its memory chip, and the module `system` that has both."""
    if isinstance(parameters.memory, Ddr3Memory):
        return _ddr3_system(parameters.memory, parameters.frequency)
    return {"system.v": _sdram_system(parameters), "sdram_model.sv": SDRAM_MODEL.read_text()}


def _ddr3_system(memory: Ddr3Memory, frequency: float) -> dict[str, str]:
    from tests.boards.ddr3_model import ModelPhy

    pins = memory.pins()
    widths = {"_".join(path): len(signal) for path, _, signal in pins.flatten(pins.create())}
    text = DDR3_SYSTEM.format(
        core=CORE,
        wires="\n".join(f"  wire [{width - 1}:0] {name};" for name, width in widths.items()),
        core_ports="".join(f", .{name}({name})" for name in widths),
        board_ports="".join(f", .sdram_{name}({name})" for name in widths),
    )
    return {"system.v": text, "ddr3_core.v": core_verilog(memory.chip, frequency, ModelPhy)}


def _sdram_system(parameters: BoardParameters) -> str:
    chip = parameters.memory.chip
    return SYSTEM.format(
        row_bits=chip.row_bits,
        column_bits=chip.column_bits,
        width=5 + chip.bank_bits + chip.row_bits + 2 + 16 + 1,
        period=round(1e12 / parameters.frequency),
        cas_latency=chip.timing(parameters.frequency).cas_latency,
        **{name: round(1000 * getattr(chip, name)) for name in TIMES},
    )


class SimulatedLine:
    """A `ByteStream` to the simulated board, for a driver that runs in a thread of its own (`cocotb.task.bridge`).

    Each byte of either direction is damaged with probability `noise`.
    """

    name = "simulated line"
    latency = 0.0

    def __init__(self, dut: SimHandleBase, parameters: BoardParameters, seed: int = 1) -> None:
        self.dut = dut
        self.noise = 0.0
        self.damaged = 0  #: bytes
        self._rng = Random(seed)
        self._frequency = parameters.frequency
        self._divider = line_divider(parameters.frequency, parameters.baud)
        self.byte_seconds = FRAME_BITS * self._divider / self._frequency
        self._taken = 0
        self._outbox_bytes = len(dut.outbox) // 8
        self._inbox_bytes = len(dut.inbox)

    def _disturbed(self, data: bytes) -> bytes:
        disturbed = bytearray(data)
        for index in range(len(disturbed)):
            if self._rng.random() < self.noise:
                disturbed[index] ^= 1 << self._rng.randrange(8)
                self.damaged += 1
        return bytes(disturbed)

    @resume
    async def write(self, data: bytes) -> None:
        """Send bytes; returns when they have left."""
        dut = self.dut
        assert len(data) <= self._outbox_bytes
        dut.outbox.value = int.from_bytes(self._disturbed(data), "little")
        dut.outbox_bytes.value = len(data)
        dut.send.value = 1 - int(dut.send.value)
        await ValueChange(dut.sent)

    @resume
    async def read(self, count: int, seconds: float) -> bytes:
        """Up to `count` bytes; fewer if no more come within `seconds` of simulated time."""
        dut = self.dut
        dut.wanted.value = self._taken + count
        dut.deadline.value = int(dut.cycle.value) + round(seconds * self._frequency)
        dut.armed.value = 1
        await RisingEdge(dut.wake)
        dut.armed.value = 0
        available = min(int(dut.inbox_count.value) - self._taken, count)
        received = bytes(int(dut.inbox[(self._taken + i) % self._inbox_bytes].value) for i in range(available))
        self._taken += available
        await ClockCycles(dut.clk, 2)  # `wake` falls
        return self._disturbed(received)

    @resume
    async def reset_board(self) -> None:
        """Press the board's reset button."""
        for level in (1, 0):
            self.dut.reset.value = level
            await Timer(RESET_CYCLES * CLOCK_STEPS, "ns")

    @resume
    async def wait_cycles(self, count: int) -> None:
        """Let time pass."""
        await Timer(count * CLOCK_STEPS, "ns")

    def close(self) -> None:
        """Nothing to release."""
