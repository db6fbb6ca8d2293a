"""The small engines: linear attention, LayerNorm, loader, storer."""

from typing import TYPE_CHECKING

from compiler.cycles import LOAD_TAIL, timing
from compiler.instructions import Instruction
from compiler.rehearsal.clock import Flag, Process
from hw.config import KERNEL_ROWS, AcceleratorConfig
from hw.control.descriptors import Engine, record_words
from hw.engines.load import FIFO_BEATS, ROWS_AHEAD
from hw.engines.token_reader import SLOTS
from hw.interfaces import PAD_READ_LATENCY

if TYPE_CHECKING:
    from compiler.rehearsal.stage import Stage

__all__ = ["Loader", "attention", "norm", "store"]

RECORDS = 10  #: cycles from the last word of a group's records to the group's results
LOCATE = 2  #: cycles from a taken load instruction to its first command, beside a bit of `first_row` each
TAKEN_BEFORE_DRAIN = 5  #: cycles from a taken attention instruction to the last drain of the one before
ATTENTION_TAIL = 14  #: cycles of an attention instruction beside those of its passes
FIRST_REQUEST = 3  #: cycles from a taken attention instruction to its first read


def attention(stage: "Stage") -> Process:
    """Tokens are read ahead as far as there are slots; an instruction is taken when the last drain of the one before
    begins, and may add its tokens when that is over."""
    config, clock, queue = stage.config, stage.clock, stage.queues[Engine.ATTENTION]
    free = begin = 0
    for index, instruction in enumerate(queue.instructions):
        f, nominal = instruction.fields, timing(instruction, config)
        ready = yield from stage.ready(Engine.ATTENTION, index)
        yield max(ready, free)
        queue.start(clock.now)
        begin = max(clock.now, begin)
        done = begin + nominal.latency
        reads, passes = (1, f["blocks"]) if f.get("pool") else (2, f["blocks"] ** 2)
        length = (nominal.latency - ATTENTION_TAIL) // passes
        request, start = clock.now + FIRST_REQUEST, begin + FIRST_REQUEST
        for _ in range(passes):
            late = yield from _tokens(stage, f, max(request, start - config.pixels * SLOTS), start, reads)
            done += late
            start += length + late
            request = start
        queue.complete(done)
        begin = done - (nominal.latency - nominal.busy)
        free = begin if f.get("pool") else done - last_drain(f, config) - TAKEN_BEFORE_DRAIN


def last_drain(f: dict, config: AcceleratorConfig) -> int:
    """Cycles in which the states of the last pass are written."""
    return config.in_lanes * (config.in_lanes // config.state_group + (f["blocks"] == 1))


def _tokens(stage: "Stage", f: dict, request: int, begin: int, reads: int) -> Process:
    """Read the words of a pass, from `request` on, and add its tokens, from `begin` on as if they had been requested
    then; returns the cycles by which its last token is late."""
    config, groups = stage.config, f["groups_per_row"]
    consumed: list[int] = []
    steps = 1 if f.get("pool") else config.in_lanes // config.key_group
    time, spent = request, begin + reads + PAD_READ_LATENCY
    nominal = spent
    for number in range(f["rows"] * groups):
        if number >= SLOTS:
            time = max(time, consumed[number - SLOTS])
        for _ in range(reads):
            time = (yield from stage.reads.grant("attention", f["source"]["pad"], time)) + 1
        tokens = steps * (f["last_pixels"] if number % groups == groups - 1 else config.pixels)
        spent = max(spent, time + PAD_READ_LATENCY) + max(tokens, reads)
        nominal += max(tokens, reads)
        consumed.append(spent)
    return max(0, spent - nominal)


def norm(stage: "Stage") -> Process:
    """One row at a time; its records may be late."""
    config, queue, stream = stage.config, stage.queues[Engine.NORM], stage.streams[Engine.NORM]
    free = 0
    for index, instruction in enumerate(queue.instructions):
        ready = yield from stage.ready(Engine.NORM, index)
        yield max(ready, free)
        queue.start(stage.clock.now)
        words = record_words(config.norm_group, config.bus_bits)
        groups = instruction.fields["stream_words"] // words
        pace = max(words, 3)
        free = stage.clock.now + timing(instruction, config).busy - (groups - 1) * pace
        for _ in range(groups):
            free = max(free, (yield from stream.consume(words, 0)) + RECORDS) + pace
            yield free
        free -= pace
        queue.complete(free)


class Loader:
    """Two processes: one asks for rows, up to an instruction ahead of the other, which takes them."""

    def __init__(self, stage: "Stage") -> None:
        self._stage = stage
        self._queue = stage.queues[Engine.LOAD]
        self._stream = stage.stream(FIFO_BEATS)
        self._asked = 0  # rows
        self._begun = 0
        self._handed_on = 0  # when the last instruction went to the unroller
        self._row_asked, self._row_begun, self._hand = (Flag(stage.clock) for _ in range(3))
        self._handed = 0

    def processes(self) -> list[Process]:
        """To start on the clock."""
        return [self._fetch(), self._take()]

    def _rows(self, f: dict) -> list[bool]:
        """Whether each row exists."""
        if f.get("stored"):
            return [True] * f["rows"]
        rows = (f["first_row"] + 2 * row + ky for row in range(f["rows"]) for ky in range(KERNEL_ROWS))
        return [0 <= row < f["image_rows"] for row in rows]

    def _fetch(self) -> Process:
        stage, clock = self._stage, self._stage.clock
        for index, instruction in enumerate(self._queue.instructions):
            f = instruction.fields
            while self._handed < index:
                yield self._hand
            ready = yield from stage.ready(Engine.LOAD, index)
            yield max(ready, self._handed_on + 1)
            self._queue.start(clock.now)
            yield clock.now + max(f.get("first_row", 0), 0).bit_length() + LOCATE
            for exists in self._rows(f):
                while self._asked - self._begun >= ROWS_AHEAD:
                    yield self._row_begun
                if exists:
                    self._stream.fetch(f["row_bytes"] // stage.config.bus_bytes)
                self._asked += 1
                self._row_asked.raised()
                yield clock.now + 1

    def _take(self) -> Process:
        done = 0
        for index, instruction in enumerate(self._queue.instructions):
            while len(self._queue.started) <= index:
                yield self._queue.departure
            end = max(self._queue.started[index] + 1, done)
            self._handed_on, self._handed = end, index + 1
            self._hand.raised()
            take = self._collect if instruction.fields.get("stored") else self._unroll
            done = yield from take(instruction, end)
            self._queue.complete(done)

    def _begin_row(self) -> Process:
        """Wait until a row was asked for."""
        while self._asked <= self._begun:
            yield self._row_asked
        self._begun += 1
        self._row_begun.raised()

    def _collect(self, instruction: Instruction, end: int) -> Process:
        """Rows of a stored map, a beat per cycle; returns when the instruction is done."""
        f, stage = instruction.fields, self._stage
        begin, words = end, f["rows"] * f["words_per_row"]
        for _ in range(f["rows"]):
            yield from self._begin_row()
            end = yield from self._stream.consume(
                f["row_bytes"] // stage.config.bus_bytes, max(end, stage.clock.now) + 1
            )
            yield end
        begin = max(begin, end - words * stage.config.pad_word_beats)
        end = yield from stage.writes.finish("load", f["destination"]["pad"], begin, end, words, rigid=True)
        return end + LOAD_TAIL

    def _unroll(self, instruction: Instruction, end: int) -> Process:
        """Image rows; returns when the instruction is done."""
        f, rows = instruction.fields, self._rows(instruction.fields)
        stage, config, clock = self._stage, self._stage.config, self._stage.clock
        beats = f["row_bytes"] // config.bus_bytes
        nominal = timing(instruction, config).busy
        pace = (nominal - row_tail(config)) // len(rows)
        begin = None  # of the first row's words
        for exists in rows:
            yield from self._begin_row()
            end = max(end, clock.now)
            if exists:
                end = max(end, (yield from self._stream.first_arrival()) - 1)
                last = yield from self._stream.consume(beats, end + 1)
                end = max(end + pace, last + 2)
                yield end
            else:
                end += pace
                yield end
            begin = end - pace if begin is None else begin
        words = len(rows) * f["groups_per_row"] * config.stem_blocks
        end = yield from stage.writes.finish("load", f["destination"]["pad"], begin, end, words, rigid=True)
        return end + row_tail(config)


def row_tail(config: AcceleratorConfig) -> int:
    """Cycles of a load instruction beside those of its rows."""
    fill = -(-6 * config.pixels // config.bus_bytes)
    return fill + 1 - max(fill + 1, config.stem_blocks) + config.stem_blocks + 3


def store(stage: "Stage") -> Process:
    """Rows of words, written in bursts."""
    config, clock, queue = stage.config, stage.clock, stage.queues[Engine.STORE]
    free = 0
    for index, instruction in enumerate(queue.instructions):
        ready = yield from stage.ready(Engine.STORE, index)
        yield max(ready, free)
        queue.start(clock.now)
        free = clock.now + timing(instruction, config).busy
        queue.complete(free)
