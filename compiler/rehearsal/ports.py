"""Ports of the scratchpads: who used them when, so that those of less priority know how long they have to wait."""

from bisect import bisect_right
from collections.abc import Generator, Iterable

from compiler.rehearsal.clock import Clock
from hw.config import PADS

__all__ = ["PadPorts", "Usage"]


class Usage:
    """Stretches of time in which a requester uses a port, in order, and how many cycles of them."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        self._before: list[float] = []  # cycles used before each stretch
        self._total = 0.0

    def add(self, begin: int, end: int, cycles: int) -> None:
        """Use `cycles` of the cycles from `begin` to `end`; stretches that touch and are used completely are joined."""
        begin = max(begin, self._ends[-1]) if self._ends else begin
        end = max(end, begin + cycles)
        whole = end - begin == cycles
        if whole and self._ends and self._ends[-1] == begin and self._is_whole():
            self._ends[-1] = end
        else:
            self._begins.append(begin)
            self._ends.append(end)
            self._before.append(self._total)
        self._total += cycles

    def _is_whole(self) -> bool:
        return self._ends[-1] - self._begins[-1] == self._total - self._before[-1]

    def until(self, time: int) -> float:
        """Cycles used before `time`."""
        index = bisect_right(self._begins, time) - 1
        if index < 0:
            return 0.0
        after = self._before[index + 1] if index + 1 < len(self._before) else self._total
        begin, end = self._begins[index], self._ends[index]
        if time >= end:
            return after
        return self._before[index] + (after - self._before[index]) * (time - begin) / (end - begin)


class PadPorts:
    """The read ports, or the write ports, of all pads; requesters in the order of their priority."""

    def __init__(self, clock: Clock, requesters: Iterable[str]) -> None:
        self._clock = clock
        self._usages = {name: [Usage() for _ in range(PADS)] for name in requesters}

    def use(self, name: str, pad: int, begin: int, end: int, cycles: int) -> None:
        """A requester uses the port of a pad."""
        self._usages[name][pad].add(begin, end, cycles)

    def _before(self, name: str, pad: int) -> list[Usage]:
        names = list(self._usages)
        return [self._usages[other][pad] for other in names[: names.index(name)]]

    def finish(self, name: str, pad: int, begin: int, end: int, cycles: int) -> Generator[int, None, int]:
        """When a requester that would use `cycles` of the cycles from `begin` to `end` is done with them, given all who
        go before it; goes on in that cycle."""
        others = self._before(name, pad)
        self.use(name, pad, begin, end, cycles)
        while True:
            yield end
            used = sum(usage.until(end) - usage.until(begin) for usage in others)
            later = max(end, begin + cycles + round(used))
            if later == end:
                return end
            self.use(name, pad, end, later, later - end)
            end = later

    def grant(self, name: str, pad: int, time: int) -> Generator[int, None, int]:
        """The first cycle from `time` on in which a requester gets the port; goes on in that cycle."""
        others = self._before(name, pad)
        end = time + 1
        while True:
            yield end - 1
            used = sum(usage.until(end) - usage.until(time) for usage in others)
            later = time + 1 + round(used)
            if later <= end:
                self.use(name, pad, end - 1, end, 1)
                return end - 1
            end = later
