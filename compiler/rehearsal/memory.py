"""External memory and the buffers in front of it, burst by burst."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from compiler.rehearsal.clock import Clock, Flag, Process
from hw.bus.axi4 import MAX_BURST_BEATS
from hw.config import AcceleratorConfig

__all__ = ["Memory", "MemoryTiming", "Stream"]

REQUEST = 3  #: cycles from a burst that may be issued to its address at the memory: two registers, the arbiter
BUFFER = 2  #: cycles from a beat to its word
OUTSTANDING = 8  #: bursts that the memory accepts before it answers the first


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """What the prediction assumes of the external memory."""

    latency: int = 60  #: cycles from a read request to its first data
    write_latency: int = 8  #: cycles from the last data of a burst to its response
    bytes_per_cycle: float = 64.0  #: peak rate of all ports together


class Memory:
    """Answers bursts in the order in which they come: each port a beat per cycle, all together at the memory's rate."""

    def __init__(self, config: AcceleratorConfig, timing: MemoryTiming) -> None:
        self.timing = timing
        self._beat = config.bus_bytes / timing.bytes_per_cycle  # cycles that a beat takes of the common rate
        self._ports = config.bus_ports
        self._free = [0, 0]  # port 0, and the others, which do the same
        self._budget = 0.0

    def read(self, now: int, beats: int, *, every_port: bool) -> tuple[int, float]:
        """Request a burst (on every port at once): the cycle of its first beat, and cycles per beat."""
        ports = self._ports if every_port else 1
        first = max(now + REQUEST + self.timing.latency, self._free[0], self._free[1] if ports > 1 else 0, self._budget)
        pace = max(1.0, self._beat * ports)
        self._free[0] = first + beats * pace
        if ports > 1:
            self._free[1] = self._free[0]
        self._budget = max(self._budget, first) + beats * ports * self._beat
        return first, pace


class Stream:
    """Words that are fetched ahead into a buffer, in order: see `hw.bus.reader.AxiReader`."""

    def __init__(self, clock: Clock, memory: Memory, *, words: int, beats: int = 1, every_port: bool = False) -> None:
        self._clock, self._memory = clock, memory
        self._words, self._beats, self._every_port = words, beats, every_port
        self._commands: deque[int] = deque()
        self._asked, self._requested, self._freed = Flag(clock), Flag(clock), Flag(clock)
        self._bursts: deque[tuple[int, float, float]] = deque()  # words before its end, first beat, cycles per beat
        self._sent = self._taken = self._begun = self._word = 0
        self._ends: deque[float] = deque(maxlen=OUTSTANDING)
        clock.start(self._fetch())

    def fetch(self, words: int) -> None:
        """Queue a command."""
        self._commands.append(words)
        self._asked.raised()

    def take(self, words: int) -> None:
        """Room for so many words again."""
        self._taken += words
        self._freed.raised()

    def arrival(self, index: int) -> Generator[Flag, None, int]:
        """The cycle in which word `index` may be taken; indices must not decrease."""
        while True:
            while self._bursts and self._bursts[0][0] <= index:
                self._begun = self._bursts.popleft()[0]
            if self._bursts:
                _, first, pace = self._bursts[0]
                return int(first + ((index - self._begun + 1) * self._beats - 1) * pace) + BUFFER
            yield self._requested

    def first_arrival(self) -> Generator[Flag, None, int]:
        """The cycle in which the next word that is not consumed may be taken."""
        return (yield from self.arrival(self._word))

    def consume(self, words: int, begin: int) -> Generator[int | Flag, None, int]:
        """Take the next words as they come, one per cycle from `begin` on; returns the cycle of the last one. There may
        be more of them than the buffer holds."""
        last = begin - 1
        while True:
            some = min(words, MAX_BURST_BEATS)
            self._word += some
            last = max(last + some, (yield from self.arrival(self._word - 1)))
            self.take(some)
            words -= some
            if not words:
                return last
            yield last

    def _fetch(self) -> Process:
        most = max(1, MAX_BURST_BEATS // self._beats)
        while True:
            while not self._commands:
                yield self._asked
            left = self._commands.popleft()
            while left:
                words = min(left, most)
                while self._sent + words > self._taken + self._words:
                    yield self._freed
                if len(self._ends) == OUTSTANDING:
                    yield int(self._ends[0])
                beats = words * self._beats
                first, pace = self._memory.read(self._clock.now, beats, every_port=self._every_port)
                self._sent += words
                self._bursts.append((self._sent, first, pace))
                self._ends.append(first + beats * pace)
                self._requested.raised()
                left -= words
                yield self._clock.now + 1
