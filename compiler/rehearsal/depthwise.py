"""The depthwise engine: parameters of a block are loaded while the one before is computed, and a third is drained."""

from typing import TYPE_CHECKING

from compiler.cycles import depthwise_passes, kernel_passes
from compiler.rehearsal.clock import Flag, Process
from hw.arithmetic.requantizer import LATENCY, ROW_BITS
from hw.config import DW_TAPS, AcceleratorConfig
from hw.control.descriptors import Engine, record_words, table_words, words_for
from hw.engines.depthwise_parameters import BANKS, PAD_CODE_BITS
from quant import numerics

if TYPE_CHECKING:
    from compiler.rehearsal.stage import Stage

__all__ = ["Depthwise"]

LOAD = 3  #: cycles from a taken instruction to the first word of its parameters
BEGIN = 4  #: cycles from the last word of a block to its first operands
FIRST_BEAT = 7  #: cycles from an output word's last operands to its beat
LAST_BEAT = LATENCY + 1  #: cycles from the last beat to `done`


class Depthwise:
    """See `hw.engines.depthwise`; all times are cycles."""

    def __init__(self, stage: "Stage") -> None:
        config = stage.config
        self._stage, self._config = stage, config
        self._queue, self._stream = stage.queues[Engine.DEPTHWISE], stage.streams[Engine.DEPTHWISE]
        self._chunks = -(-config.pixels // config.dw_pixels)
        self._loaded: list[int] = []  # blocks
        self._computed: list[int] = []
        self._handed_on: list[int] = []  # instructions, to the reader
        self._load_flag, self._compute_flag, self._hand_flag = (Flag(stage.clock) for _ in range(3))

    def processes(self) -> list[Process]:
        """To start on the clock."""
        return [self._load_parameters(), self._compute()]

    def _block_words(self, f: dict) -> int:
        config = self._config
        weights = words_for(DW_TAPS * config.in_lanes * config.dw_weight_bits, config.bus_bits)
        codes = words_for(PAD_CODE_BITS * config.in_lanes, config.bus_bits)
        return record_words(config.in_lanes, config.bus_bits) + codes + kernel_passes(f) * weights

    def _load_parameters(self) -> Process:
        config, stage = self._config, self._stage
        table = table_words(config, config.bus_bits)
        writes = table * -(-config.bus_bits // ROW_BITS)
        time, users = 0, [0, 0]
        for index, instruction in enumerate(self._queue.instructions):
            f = instruction.fields
            ready = yield from stage.ready(Engine.DEPTHWISE, index)
            while len(self._handed_on) < index - 1:
                yield self._hand_flag
            yield max(ready, time + 1, self._handed_on[index - 2] + 1 if index > 1 else 0)
            self._queue.start(stage.clock.now)
            time = stage.clock.now + LOAD - 1
            requant, bank = f["requant"], f["requant"].get("table_bank", 0)
            if requant.get("table_load"):
                while len(self._queue.done) < users[bank]:
                    yield self._queue.completion
                free = self._queue.done[users[bank] - 1] + 1 if users[bank] else 0
                time = max(time, free)
                time = max((yield from self._stream.consume(table, time + 1)), time + writes) + 1
            if requant["operand"] == numerics.Operand.TABLE:
                users[bank] = index + 1
            for _ in range(f["blocks"]):
                block = len(self._loaded)
                if block >= BANKS:
                    while len(self._computed) <= block - BANKS:
                        yield self._compute_flag
                    time = max(time, self._computed[block - BANKS] + 1)
                time = yield from self._stream.consume(self._block_words(f), time + 1)
                yield time
                self._loaded.append(time)
                self._load_flag.raised()

    def _compute(self) -> Process:
        config, stage = self._config, self._stage
        end, drained, earlier = 0, 0, 0
        for index, instruction in enumerate(self._queue.instructions):
            f = instruction.fields
            words = f["rows"] * f["groups_per_row"]
            passes, reads = depthwise_passes(f, config), _reads(f, config)
            while len(self._queue.started) <= index:
                yield self._queue.departure
            for block in range(f["blocks"]):
                number = len(self._computed)
                while len(self._loaded) <= number:
                    yield self._load_flag
                begin = max(self._loaded[number] + BEGIN, end)
                if block == 0:
                    self._handed_on.append(max(self._queue.started[index] + 1, end))
                    self._hand_flag.raised()
                    begin = max(begin, self._handed_on[-1] + BEGIN)
                end = begin + sum(passes)
                end = max(end, earlier + passes[-1])  # the last pass needs a bank
                end = yield from stage.reads.finish("depthwise", f["source"]["pad"], begin, end, reads)
                self._computed.append(end)
                self._compute_flag.raised()
                beats = words * self._chunks
                first = max(end + FIRST_BEAT, drained + beats + (block == 0))  # the drain takes an instruction
                pad, others = f["destination"]["pad"], (config.dw_subblocks - 1) * beats
                earlier, drained = drained, first + others
                # the first group of channels as its sums come, the others after that
                stage.writes.use("depthwise", pad, max(first - passes[-1], earlier), first, beats)
                stage.writes.use("depthwise", pad, first, drained, others)
            self._queue.complete(drained + LAST_BEAT)


def _reads(f: dict, config: AcceleratorConfig) -> int:
    """Words that a block reads: those of rows that exist, for each pass."""
    kernel, stride = 5 if f["kernel5"] else 3, 2 if f["stride2"] else 1
    rows = [row * stride + ky for row in range(f["rows"]) for ky in range(kernel)]
    if stride == 2 and kernel == 3 and config.dw_shares_rows:
        rows = range(2 * f["rows"] + 1)
    rows = sum(0 <= row - f["top"] < f["source_rows"] for row in rows)
    return rows * -(-kernel // DW_TAPS) * min(f["source_groups"], f["groups_per_row"] * stride)
