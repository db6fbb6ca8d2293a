"""Which instruction runs when: dependencies from what instructions read and write, then list scheduling.

The instructions come in a valid sequential order. Dependencies are found word by word (read after write, write after
read, write after write); a greedy list scheduler then gives every engine its order, by the predicted cycles; and what
an instruction depends on becomes the event counts that it waits for.
"""

from bisect import insort
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from compiler.cycles import Timing
from compiler.instructions import MEMORY_BUFFER, Access, Instruction
from hw.config import AcceleratorConfig
from hw.control.descriptors import Engine

__all__ = ["PATIENCE", "Scheduled", "dependencies", "schedule"]

PATIENCE = 40  #: default of `schedule`


@dataclass(frozen=True)
class Needs:
    """Indices of the instructions that one instruction depends on."""

    done: set[int]  #: that must be completed before it starts
    begun: set[int]  #: of its own engine, that must only come before it


def dependencies(instructions: list[Instruction], config: AcceleratorConfig) -> list[Needs]:
    """What each instruction depends on."""
    spilled = [words for i in instructions for pad, words in i.writes if pad == MEMORY_BUFFER]
    sizes = [*config.pad_words, config.state_tiles, 1 + max((int(words[-1]) for words in spilled), default=0)]
    assert len(sizes) == MEMORY_BUFFER + 1
    writer = [np.full(size, -1, np.int32) for size in sizes]
    readers = [np.full((len(Engine), size), -1, np.int32) for size in sizes]
    result: list[Needs] = []
    for index, instruction in enumerate(instructions):
        needs: set[int] = set()
        begun: set[int] = set()
        for pad, words in instruction.reads:
            needs.update(np.unique(writer[pad][words]).tolist())
            # Readers of one engine keep their order, so that its last reader stands for all of them.
            begun.update(np.unique(readers[pad][instruction.engine, words]).tolist())
        for pad, words in instruction.writes:
            needs.update(np.unique(writer[pad][words]).tolist())
            needs.update(np.unique(readers[pad][:, words]).tolist())
        _mark(instruction.reads, index, [r[instruction.engine] for r in readers])
        _mark(instruction.writes, index, writer)
        for pad, words in instruction.writes:
            readers[pad][:, words] = -1
        result.append(Needs(needs - {-1, index}, begun - needs - {-1, index}))
    return result


def _mark(accesses: Access, index: int, columns: list[np.ndarray]) -> None:
    for pad, words in accesses:
        columns[pad][words] = index


@dataclass(frozen=True)
class Scheduled:
    """Indices of the instructions in dispatch order, the event counts each waits for, and the predicted times."""

    order: list[int]
    waits: list[list[int]]  #: by instruction index, by engine
    start: list[int]
    end: list[int]

    @property
    def cycles(self) -> int:
        """Predicted end of the last instruction."""
        return max(self.end, default=0)


def schedule(
    instructions: list[Instruction], needs: list[Needs], timings: list[Timing], patience: int = PATIENCE
) -> Scheduled:
    """List scheduling: a free engine takes the first instruction (in the given order) that is ready, and that the drain
    of the ones before does not hold up for more than `patience` cycles, if there is one.

    The dispatch order is that of the start times, so everything that an instruction waits for is dispatched before it.
    """
    count = len(instructions)
    missing = [len(n.done) + len(n.begun) for n in needs]
    users: list[list[int]] = [[] for _ in range(count)]  # of a completed instruction
    followers: list[list[int]] = [[] for _ in range(count)]  # of one that has begun
    for index, needed in enumerate(needs):
        for n in needed.done:
            users[n].append(index)
        for n in needed.begun:
            followers[n].append(index)
    ready: dict[Engine, list[int]] = {engine: [] for engine in Engine}  # in order
    for index in range(count):
        if not missing[index]:
            ready[instructions[index].engine].append(index)
    drained = dict.fromkeys(Engine, 0)  # when all results have left the engine
    start, end = [0] * count, [0] * count
    events: list[tuple[int, int, int]] = []  # (time, kind: 0 finished, 1 engine free, index)
    idle = set(Engine)
    order: list[int] = []
    now = 0

    def satisfy(waiting: list[int]) -> None:
        for index in waiting:
            missing[index] -= 1
            if not missing[index]:
                insort(ready[instructions[index].engine], index)

    def take(engine: Engine) -> int:
        """Take the first instruction that is ready and not held up, or the first one."""
        for position, index in enumerate(ready[engine]):
            timing = timings[index]
            if _streamed(timing, now, drained[engine]) - _streamed(timing, now, now) <= patience:
                return ready[engine].pop(position)
        return ready[engine].pop(0)

    while True:
        for engine in Engine:
            if engine in idle and ready[engine]:
                index = take(engine)
                timing = timings[index]
                free = _streamed(timing, now, drained[engine])
                drained[engine] = max(drained[engine] + timing.drain, free + timing.last_drain)
                start[index] = now
                end[index] = drained[engine] + timing.latency - timing.busy - timing.last_drain
                heappush(events, (free, 1, index))
                heappush(events, (end[index], 0, index))
                idle.discard(engine)
                order.append(index)
                satisfy(followers[index])
        if not events:
            break
        now = events[0][0]
        while events and events[0][0] == now:
            _, kind, index = heappop(events)
            if kind:
                idle.add(instructions[index].engine)
            else:
                satisfy(users[index])
    return Scheduled(order, _waits(instructions, needs, order), start, end)


def _streamed(timing: Timing, now: int, drained: int) -> int:
    """When an instruction that begins now is through its engine, whose drain is busy until `drained`: the output memory
    holds two tiles."""
    return max(now + timing.busy, drained + timing.drain - 2 * timing.last_drain)


def _waits(instructions: list[Instruction], needs: list[Needs], order: list[int]) -> list[list[int]]:
    position: dict[int, int] = {}
    counts = dict.fromkeys(Engine, 0)
    for index in order:
        counts[instructions[index].engine] += 1
        position[index] = counts[instructions[index].engine]
    waits = [[0] * len(Engine) for _ in instructions]
    for index, needed in enumerate(needs):
        for n in needed.done:
            engine = instructions[n].engine
            waits[index][engine] = max(waits[index][engine], position[n])
    return waits
