"""Simulated time: processes are generators that say when, or for what, they go on."""

from collections.abc import Generator
from heapq import heappop, heappush

__all__ = ["Clock", "Flag", "Process"]


class Flag:
    """Something that processes wait for; `raised` lets all of them go on."""

    def __init__(self, clock: "Clock") -> None:
        self._clock = clock
        self._waiting: list[Process] = []

    def raised(self) -> None:
        """Let everyone who waits go on, in this cycle."""
        waiting, self._waiting = self._waiting, []
        for process in waiting:
            self._clock.start(process)

    def wait(self, process: "Process") -> None:
        """Put a process on the list."""
        self._waiting.append(process)


Process = Generator[int | Flag, None, None]  #: yields the cycle in which it goes on, or the flag that it waits for


class Clock:
    """Runs processes in the order of time."""

    def __init__(self) -> None:
        self.now = 0
        self._queue: list[tuple[int, int, Process]] = []
        self._started = 0  # breaks ties, in order

    def start(self, process: Process, at: int | None = None) -> None:
        """Let a process go on at a cycle; now, if it is past."""
        self._started += 1
        heappush(self._queue, (max(at or 0, self.now), self._started, process))

    def run(self) -> None:
        """Until no process has anything left to do but to wait for flags."""
        while self._queue:
            self.now, _, process = heappop(self._queue)
            wait = next(process, None)
            if isinstance(wait, Flag):
                wait.wait(process)
            elif wait is not None:
                self.start(process, wait)
