"""The matmul engine: weight tiles, passes, and drains, one after the other."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.instructions import Instruction
from compiler.rehearsal.clock import Flag, Process
from hw.arithmetic.accumulators import Accumulators
from hw.arithmetic.reciprocal import reciprocal_latency
from hw.arithmetic.requantizer import LATENCY, ROW_BITS
from hw.control.descriptors import Engine, record_words, table_words
from hw.engines.mac_array import mac_format
from quant import numerics

if TYPE_CHECKING:
    from compiler.rehearsal.stage import Stage

__all__ = ["Matmul"]

PREPARE = 3  #: cycles from a taken instruction to the front end
LAST_WORD = 6  #: cycles from the last word of an output tile to its first beat, beside the latency of the products
BANKS = 2  #: of the output memory
RECORDS_LEAVE = 2  #: cycles from the first beat of a tile's last group until the next tile's records leave the queue
RECORD_TILES = 3  #: output tiles whose records are held, that of the drain included
NEXT_TASK = 2  #: cycles from the last beat of an instruction to the first one of the next at the earliest
LAST_BEAT = LATENCY + 3  #: cycles from the last beat to `done`
RECIPROCAL = 5  #: cycles from the last divisor to the first numerator, beside the latency of the reciprocals


@dataclass(frozen=True)
class _Tile:
    """An output tile for the drain. `earliest`: when its accumulators, and its table, are there."""

    fields: dict
    earliest: int
    groups: int  #: of channels; 0: divisors
    last: bool  #: of its instruction


class Matmul:
    """Two processes: loader and front end, and the drain (see `hw.engines.matmul`). All times are cycles."""

    def __init__(self, stage: "Stage") -> None:
        config = stage.config
        self._stage, self._config = stage, config
        self._queue, self._stream = stage.queues[Engine.MATMUL], stage.streams[Engine.MATMUL]
        self._records = record_words(config.out_lanes, config.stream_bits)
        self._table = table_words(config, config.stream_bits)
        self._table_writes = self._table * -(-config.stream_bits // ROW_BITS)
        self._products = mac_format(config).latency
        self._loaded = -1  # the loader's last word
        self._take, self._pass = -1 << 20, 0  # the last pass: its first word, and how many
        self._table_free, self._bank_users = 0, [0, 0]  # bank_users: instructions
        self._tiles: list[_Tile] = []
        self._drained: list[int] = []  # the last beat of each tile
        self._last_groups: list[int] = []  # the first beat of the last group of each tile with records
        self._filled, self._emptied = Flag(stage.clock), Flag(stage.clock)

    def processes(self) -> list[Process]:
        """To start on the clock."""
        return [self._run(), self._drain()]

    def _run(self) -> Process:
        prepared = 0
        for index, instruction in enumerate(self._queue.instructions):
            ready = yield from self._stage.ready(Engine.MATMUL, index)
            taken = max(ready, prepared, self._loaded + 1)
            if instruction.fields["requant"].get("table_load"):
                taken = max(taken, self._table_free)
            yield taken
            self._queue.start(taken)
            front = max(taken + PREPARE, self._take + self._pass)
            prepared = front + 1
            yield from self._passes(instruction, index, taken + 2, front + 1)

    def _passes(self, instruction: Instruction, index: int, begin: int, front: int) -> Process:
        """All passes of an instruction; `begin`, `front`: when the loader and the first pass may begin."""
        config, f, stage = self._config, instruction.fields, self._stage
        words, from_state = f["rows"] * f["groups_per_row"], bool(f.get("from_state"))
        subblocks, tile_words = config.out_lanes // config.requant_channels, config.tile_words
        self._loaded = max(self._loaded, begin - 1)
        table = yield from self._load_table(f["requant"], index)
        with_records = len(self._last_groups) + sum(tile.groups > 0 for tile in self._tiles[len(self._drained) :])
        for tile in range(f["out_tiles"]):
            has_records = not (from_state and tile == 0)
            if has_records:
                if with_records >= RECORD_TILES and with_records - RECORD_TILES < len(self._last_groups):
                    room = self._last_groups[with_records - RECORD_TILES] + RECORDS_LEAVE
                    self._loaded = max(self._loaded, room)
                with_records += 1
                yield from self._load(self._records)
            for block in range(f["in_blocks"]):
                self._loaded = max(self._loaded, self._take - 1)
                if from_state:
                    self._loaded += tile_words
                else:
                    yield from self._load(tile_words)
                take = max(self._loaded + 1, front, self._take + max(self._pass, Accumulators.MIN_REVISIT))
                bank = len(self._tiles) - BANKS
                if block == f["in_blocks"] - 1 and bank >= 0:
                    while len(self._drained) <= bank:
                        yield self._emptied
                    take = max(take, self._drained[bank] + 1)
                if take > stage.clock.now:
                    yield take
                self._take, self._pass = take, words
                stage.reads.use("matmul", f["source"]["pad"], take, take + words, words)
            groups = min(f["out_subblocks"] - (tile - from_state) * subblocks, subblocks) if has_records else 0
            earliest = max(take + words + LAST_WORD - 1 + self._products, table)
            self._tiles.append(_Tile(f, earliest, groups, tile == f["out_tiles"] - 1))
            self._filled.raised()

    def _load(self, words: int) -> Process:
        """The loader takes so many words, one per cycle."""
        self._loaded = yield from self._stream.consume(words, self._loaded + 1)

    def _load_table(self, requant: dict, index: int) -> Process:
        """Load the table of an instruction, if it has one; returns when its first beat may come."""
        bank, users = requant.get("table_bank", 0), self._bank_users
        before = users[bank]
        if requant["operand"] == numerics.Operand.TABLE:
            users[bank] = index + 1
        if not requant.get("table_load"):
            return 0
        begin = self._loaded + 1
        yield from self._load(self._table)
        while len(self._queue.done) < before:
            yield self._queue.completion
        free = self._queue.done[before - 1] if before else 0
        self._table_free = max(self._loaded + 3, free + self._table_writes + 2, begin + self._table_writes)
        return self._table_free

    def _drain(self) -> Process:
        """Beats of the output tiles, one after the other."""
        config, stage, number, end, divisors = self._config, self._stage, 0, -1, 0
        while True:
            while number == len(self._tiles):
                yield self._filled
            tile = self._tiles[number]
            f, words = tile.fields, tile.fields["rows"] * tile.fields["groups_per_row"]
            slices = config.slices if f["requant"].get("wide") else 1
            begin = max(tile.earliest, end + 1)
            if not tile.groups:
                end = begin + words - 1
                divisors = end + RECIPROCAL + reciprocal_latency(config)
            else:
                length = max(words * slices, 2)
                records = self._last_groups[-1] + self._records + 2 if self._last_groups else 0
                begin = max(begin, divisors, records)
                end = begin + tile.groups * length
                pad = f["destination"]["pad"]
                stage.writes.use("matmul", pad, begin + LAST_BEAT, end + LAST_BEAT, tile.groups * words * slices)
                if "residual" in f:
                    beats = tile.groups * words
                    end = yield from stage.reads.finish("residual", f["residual"]["pad"], begin, end, beats)
                end -= 1
                self._last_groups.append(end + 1 - length)
            self._drained.append(end)
            self._emptied.raised()
            if tile.last:
                divisors = 0
                self._queue.complete(end + LAST_BEAT + slices)
                end = max(end, end + NEXT_TASK - slices)  # slices leave meanwhile
            number += 1
