"""The whole run: the sequencer hands instructions to the engines, which wait for each other and for the memory."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from compiler.instructions import Instruction
from compiler.rehearsal import engines
from compiler.rehearsal.clock import Clock, Flag, Process
from compiler.rehearsal.depthwise import Depthwise
from compiler.rehearsal.matmul import Matmul
from compiler.rehearsal.memory import Memory, MemoryTiming, Stream
from compiler.rehearsal.ports import PadPorts
from hw.config import AcceleratorConfig
from hw.control.descriptors import PACKET_BYTES, Engine
from hw.control.sequencer import PREFETCHED_PACKETS

__all__ = ["EngineQueue", "Rehearsal", "Stage", "rehearse"]

OFFER = 3  #: cycles from a dispatched instruction to its engine; 2 without a FIFO between
NOTICE = 2  #: cycles from `done` of an instruction to the start of one that waits for it
HEADER = 6  #: cycles from the start of a run to the request of its header, and from a header to the request behind it
END = 5  #: cycles from the last `done` to the end of the run


@dataclass(frozen=True)
class Rehearsal:
    """Predicted cycles, from the start of the run, in which each instruction starts and is done."""

    start: list[int]
    done: list[int]
    cycles: int


class EngineQueue:
    """The instructions of one engine, on their way through its queue."""

    def __init__(self, clock: Clock) -> None:
        self.instructions: list[Instruction] = []
        self.waits: list[Sequence[int]] = []
        self.came: list[int] = []
        self.started: list[int] = []
        self.done: list[int] = []
        self.arrival, self.departure, self.completion = Flag(clock), Flag(clock), Flag(clock)

    def start(self, time: int) -> None:
        """The engine takes the next instruction."""
        self.started.append(time)
        self.departure.raised()

    def complete(self, time: int) -> None:
        """The next instruction is done, now or at a time in the future."""
        self.done.append(time)
        self.completion.raised()


class Stage:
    """Everything that the engines share."""

    def __init__(self, config: AcceleratorConfig, timing: MemoryTiming) -> None:
        self.config, self.clock = config, Clock()
        self.memory = Memory(config, timing)
        self.queues = {engine: EngineQueue(self.clock) for engine in Engine}
        self.reads = PadPorts(self.clock, ("matmul", "residual", "depthwise", "attention"))
        self.writes = PadPorts(self.clock, ("matmul", "depthwise", "load"))
        beats = config.stream_bits // (config.bus_bits * config.bus_ports)
        self.streams = {
            Engine.MATMUL: self.stream(config.weight_buffer_words, beats=beats, every_port=True),
            Engine.DEPTHWISE: self.stream(config.parameter_buffer_words),
            Engine.NORM: self.stream(config.parameter_buffer_words),
        }

    def stream(self, words: int, **options: object) -> Stream:
        """A new reader of the memory, with a buffer of so many words."""
        return Stream(self.clock, self.memory, words=words, **options)

    def ready(self, engine: Engine, index: int) -> Generator[Flag, None, int]:
        """When an engine's instruction may start, as far as its queue is concerned."""
        queue = self.queues[engine]
        while len(queue.came) <= index:
            yield queue.arrival
        ready = queue.came[index] + OFFER - (not self.config.queue_depth)
        for other, count in zip(Engine, queue.waits[index], strict=True):
            awaited = self.queues[other]
            while len(awaited.done) < count:
                yield awaited.completion
            if count:
                ready = max(ready, awaited.done[count - 1] + NOTICE)
        return ready


def rehearse(
    instructions: Sequence[Instruction],
    waits: Sequence[Sequence[int]],
    config: AcceleratorConfig,
    timing: MemoryTiming,
) -> Rehearsal:
    """Predict the run of a program: its instructions in the order of dispatch, and the event counts they wait for."""
    stage = Stage(config, timing)
    for instruction, counts in zip(instructions, waits, strict=True):
        queue = stage.queues[instruction.engine]
        queue.instructions.append(instruction)
        queue.waits.append(counts)
    processes = [
        _dispatch(stage, instructions), *Matmul(stage).processes(), *Depthwise(stage).processes(),
        *engines.Loader(stage).processes(), engines.attention(stage), engines.norm(stage), engines.store(stage),
    ]  # fmt: skip
    for process in processes:
        stage.clock.start(process)
    stage.clock.run()
    positions = dict.fromkeys(Engine, 0)
    start, done = [], []
    for instruction in instructions:
        queue, position = stage.queues[instruction.engine], positions[instruction.engine]
        assert position < len(queue.done), "the rehearsal came to a standstill"
        start.append(queue.started[position])
        done.append(queue.done[position])
        positions[instruction.engine] += 1
    return Rehearsal(start, done, max(done, default=0) + END)


def _dispatch(stage: Stage, instructions: Sequence[Instruction]) -> Process:
    """The sequencer: packets come one after the other, and wait for room in the queue of their engine."""
    config, clock = stage.config, stage.clock
    beats = PACKET_BYTES // config.bus_bytes
    stream = stage.stream(PREFETCHED_PACKETS * beats)
    yield HEADER
    stream.fetch(beats)
    yield (yield from stream.arrival(beats - 1)) + HEADER
    stream.take(beats)
    stream.fetch(beats * (len(instructions) + 1))
    begin, depth = clock.now, config.queue_depth + 1
    for index, instruction in enumerate(instructions):
        queue = stage.queues[instruction.engine]
        last = yield from stream.arrival(beats * (index + 2) - 1)
        yield max(begin + beats, last + 1)
        while len(queue.came) - len(queue.started) >= depth:
            yield queue.departure
        begin = clock.now + 1
        stream.take(beats)
        queue.came.append(clock.now)
        queue.arrival.raised()
        words = instruction.fields.get("stream_words", 0)
        if words:
            stage.streams[instruction.engine].fetch(words)
