"""The matmul engine: 1x1 convolutions, unrolled convolutions, fully connected layers, and attention.

    instruction --> MatmulTasks --+--> TileLoader --> tables, records, weight tiles
                                  +--> FrontEnd --> source words --> MacArray --> Accumulators
                                  +--> Drain <-- accumulators, reciprocals, residual words
                                         +--> Requantizer --> ResultWriter --> destination

The stages work on different output tiles, and different instructions, at the same time.
"""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.accumulators import Accumulators
from hw.arithmetic.requantizer import Requantizer
from hw.config import AcceleratorConfig
from hw.control.descriptors import MatmulBody
from hw.engines.mac_array import MacArray
from hw.engines.matmul_divisors import Divisors
from hw.engines.matmul_drain import Drain
from hw.engines.matmul_front import FrontEnd
from hw.engines.matmul_records import RecordQueue
from hw.engines.matmul_table import TableLoader
from hw.engines.matmul_tasks import MatmulTasks
from hw.engines.matmul_writer import ResultWriter
from hw.engines.tile_loader import Phase, TileLoader
from hw.interfaces import MATMUL_READ_LATENCY, EngineStatus, InstructionPort, PadRead, PadWrite, StateRead

__all__ = ["MatmulActivity", "MatmulEngine"]

IN_FLIGHT_BITS = 4


class MatmulActivity(data.Struct):
    """What the stages do in a cycle; for traces."""

    issue: 1  #: a word goes to the array
    active: 1  #: the front end has an instruction
    tile_ready: 1  #: and a weight tile for its next pass
    bank_taken: 1  #: which waits for its bank of the output memory
    held: 2  #: not 0: an instruction is being prepared for the front end
    phase: Phase  #: of the loader
    words_valid: 1  #: the stream has a word for the loader
    words_ready: 1  #: which takes it
    read: 1  #: a beat is drained
    offered: 1  #: or could be, but for its residual word


class MatmulEngine(wiring.Component):
    """Executes `MatmulBody` instructions: see there for what they compute.

    Cycles, with T = rows * groups_per_row, and R, W stream words of the records and of a weight tile:

    - A pass of T words begins max(T, MIN_REVISIT, W) cycles after the one before, and the first one of an output tile
      max(T, MIN_REVISIT, R + W), while parameters come without a pause; after the last one of an instruction,
      T + 1 cycles in place of T.
    - An output tile is drained while the next one is computed, in T * b cycles per channel group, at least 2, and at
      least R + 2 for the last group; b = `slices` if `wide`, else 1.
    - The first pass begins max(4, 2 + R + W) cycles after the instruction was taken; the first beat of the drain
      follows 6 + the latency of `DotProducts` cycles after the last word of its tile; `done` comes 16 + b cycles after
      the last beat.
    - A table takes its words from the stream, one per cycle, and is written in 2**table_index_bits / 4 cycles from the
      moment when its bank is free; only the first beat of its instruction waits for that.

    Members
    -------
    source : Out(PadRead)
        Must never be refused. `destination`: Out(PadWrite), must never be refused. `residual`: Out(PadRead).
    parameters : In
        The stream of all instructions.
    status : Out
        `stall`: the front end has an instruction, but no words to stream.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "instruction": In(InstructionPort(MatmulBody)),
                "source": Out(PadRead(config)),
                "residual": Out(PadRead(config)),
                "destination": Out(PadWrite(config)),
                "parameters": In(stream.Signature(config.stream_bits)),
                "state": Out(StateRead(config)),
                "status": Out(EngineStatus()),
                "activity": Out(MatmulActivity),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.tasks = tasks = MatmulTasks(config)
        m.submodules.loader = loader = TileLoader(config)
        m.submodules.table = table = TableLoader(config)
        m.submodules.records = records = RecordQueue(config)
        m.submodules.front = front = FrontEnd(config)
        m.submodules.drain = drain = Drain(config)
        m.submodules.array = array = MacArray(config)
        m.submodules.accumulators = accumulators = Accumulators(
            depth=config.acc_depth,
            lanes=config.pixels * config.out_lanes,
            acc_bits=config.acc_bits,
            psum_bits=array.psum_bits,
            groups=config.out_lanes // config.requant_channels,
        )
        m.d.comb += [
            tasks.instruction.payload.eq(self.instruction.body.payload),
            tasks.instruction.valid.eq(self.instruction.body.valid),
            self.instruction.body.ready.eq(tasks.instruction.ready),
        ]
        wiring.connect(m, tasks.load, loader.task)
        wiring.connect(m, tasks.table, table.task)
        wiring.connect(m, tasks.stream, front.task)
        wiring.connect(m, tasks.drain, drain.task)
        wiring.connect(m, wiring.flipped(self.parameters), loader.words)
        wiring.connect(m, loader.state, wiring.flipped(self.state))
        wiring.connect(m, loader.table, table.words)
        wiring.connect(m, loader.records, records.words)
        wiring.connect(m, records.groups, drain.groups)
        wiring.connect(m, drain.residual, wiring.flipped(self.residual))
        wiring.connect(m, loader.write, array.tile)
        m.d.comb += [
            front.tile_ready.eq(loader.tile_ready),
            loader.take.eq(front.take),
            front.release.eq(drain.release),
            records.drop.eq(drain.drop),
            drain.loaded.eq(table.loaded),
            table.use_loaded.eq(drain.use_loaded),
        ]
        self._compute(m, front, array, accumulators, drain)
        self._requantize(m, accumulators, drain, table)
        self._count_instructions(m, front)
        m.d.comb += [
            self.activity.issue.eq(front.issue),
            self.activity.active.eq(front.active),
            self.activity.tile_ready.eq(loader.tile_ready),
            self.activity.bank_taken.eq(front.bank_taken),
            self.activity.held.eq(tasks.held),
            self.activity.phase.eq(loader.phase),
            self.activity.words_valid.eq(loader.words.valid),
            self.activity.words_ready.eq(loader.words.ready),
            self.activity.read.eq(drain.read),
            self.activity.offered.eq(drain.offered),
        ]
        return m

    def _compute(self, m: Module, front: FrontEnd, array: MacArray, accumulators: Accumulators, drain: Drain) -> None:
        """Words go through the array to the accumulators; what belongs to them waits as long."""
        assert TileLoader.WRITE_DELAY == MATMUL_READ_LATENCY  # the tile and its first word meet at the array
        m.d.comb += [
            self.source.valid.eq(front.issue),
            self.source.pad.eq(front.pad),
            self.source.address.eq(front.address),
            array.word.eq(self.source.data),
            array.valid.eq(self.source.data_valid),
        ]
        valid, take, zero, slot = front.issue, front.take, front.zero, front.slot
        for stage in range(MATMUL_READ_LATENCY):
            valid, take, zero, slot = self._delay(m, f"read{stage}", valid, take, zero, slot)
        m.d.comb += [array.swap.eq(valid & take), array.zero.eq(zero)]
        for stage in range(array.latency - Accumulators.PSUM_DELAY):
            valid, slot = self._delay(m, f"array{stage}", valid, slot)
        m.d.comb += [
            accumulators.valid.eq(valid),
            accumulators.address.eq(slot.address),
            accumulators.first.eq(slot.first),
            accumulators.last.eq(slot.last),
            accumulators.bank.eq(slot.bank),
            accumulators.psum.eq(array.psum),
        ]
        fill = Signal(2)
        m.d.comb += fill.eq((valid & slot.tile_end) << slot.bank)
        for stage in range(Accumulators.OUTPUT_LATENCY - 2):  # `fill` takes one more to be seen, and reads one to come
            next_fill = Signal(2, name=f"fill_{stage}")
            m.d.sync += next_fill.eq(fill)
            fill = next_fill
        m.d.comb += drain.fill.eq(fill)

    def _delay(self, m: Module, name: str, valid: Signal, *values: Signal) -> list[Signal]:
        """One pipeline stage of `valid`, and of `values` where it is 1."""
        registers = [Signal.like(value, name=f"{name}_{i}") for i, value in enumerate((valid, *values))]
        m.d.sync += registers[0].eq(valid)
        with m.If(valid):
            m.d.sync += [register.eq(value) for register, value in zip(registers[1:], values)]
        return registers

    def _requantize(self, m: Module, accumulators: Accumulators, drain: Drain, table: TableLoader) -> None:
        """The beats of the drain through the requantizer to the destination."""
        config = self._config
        m.submodules.requantizer = requantizer = Requantizer(
            config, pixels=config.pixels, channels=config.requant_channels, word_bits=config.stream_bits, matmul=True
        )
        in_flight = Drain.LATENCY + requantizer.latency + 1
        m.submodules.writer = writer = ResultWriter(config, in_flight)
        m.submodules.divisors = divisors = Divisors(config)
        wiring.connect(m, table.write, requantizer.table_write)
        wiring.connect(m, writer.write, wiring.flipped(self.destination))
        divisor_beats = Signal(Drain.LATENCY)
        m.d.sync += divisor_beats.eq((divisor_beats << 1) | drain.divisor)
        # residual words are requested through a register, and take a cycle longer than accumulators
        read, divide, bank, address, group = self._delay(
            m, "drain", drain.read, drain.divide, drain.read_bank, drain.read_address, drain.read_group
        )
        m.d.comb += [
            accumulators.read.eq(read),
            accumulators.read_bank.eq(bank),
            accumulators.read_address.eq(address),
            accumulators.read_group.eq(group),
            divisors.issue.eq(drain.divisor),
            divisors.valid.eq(divisor_beats[-1]),
            divisors.read.eq(read & divide),
            divisors.address.eq(address),
            drain.divisors_ready.eq(divisors.ready),
            requantizer.valid.eq(drain.valid),
            requantizer.acc.eq(accumulators.read_data),
            requantizer.records.eq(drain.records),
            requantizer.reciprocal.eq(divisors.reciprocal),
            requantizer.residual.eq(drain.residual_codes),
            requantizer.mode.eq(drain.mode),
            writer.ticket.eq(drain.ticket),
            writer.ticket_valid.eq(drain.ticket_valid),
            writer.valid.eq(requantizer.out_valid),
            writer.y.eq(requantizer.y),
            self.instruction.done.eq(writer.done),
            table.release.eq(writer.release),
        ]
        for p in range(config.pixels):  # column 0 of the divisor tile
            m.d.comb += divisors.divisor[p].eq(accumulators.read_data[p * config.requant_channels])

    def _count_instructions(self, m: Module, front: FrontEnd) -> None:
        in_flight = Signal(IN_FLIGHT_BITS)
        body = self.instruction.body
        m.d.sync += in_flight.eq(in_flight + (body.valid & body.ready) - self.instruction.done)
        m.d.comb += [self.status.busy.eq(in_flight != 0), self.status.stall.eq(front.stall)]
