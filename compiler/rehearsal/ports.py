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
        self._used: list[int] = []  # in each stretch
        self._before: list[int] = []  # before each stretch
        self._whole_before: list[int] = []  # of these, in stretches that are used completely
        self._total = self._whole_total = 0

    def add(self, begin: int, end: int, cycles: int, *, join: bool = True) -> None:
        """Use `cycles` of the cycles from `begin` to `end`; stretches that touch and are used completely are joined."""
        begin = max(begin, self._ends[-1]) if self._ends else begin
        end = max(end, begin + cycles)
        whole = end - begin == cycles
        if join and whole and self._ends and self._ends[-1] == begin and self._is_whole(-1):
            self._ends[-1] = end
            self._used[-1] += cycles
        else:
            self._begins.append(begin)
            self._ends.append(end)
            self._used.append(cycles)
            self._before.append(self._total)
            self._whole_before.append(self._whole_total)
        self._total += cycles
        self._whole_total += cycles * whole

    def extend(self, end: int) -> None:
        """The cycles of the last stretch are spread up to a later `end`."""
        if self._is_whole(-1):
            self._whole_total -= self._used[-1]
        self._ends[-1] = end

    def _is_whole(self, index: int) -> bool:
        return self._ends[index] - self._begins[index] == self._used[index]

    def until(self, time: int, share: float = 1.0) -> float:
        """Cycles used before `time`; only a `share` of those in stretches that are not used completely."""
        index = bisect_right(self._begins, time) - 1
        if index < 0:
            return 0.0
        whole, total = self._whole_before[index], self._before[index]
        begin, length = self._begins[index], self._ends[index] - self._begins[index]
        used = self._used[index] * min(1.0, (time - begin) / length) if length else 0.0
        return whole + share * (total - whole) + used * (1.0 if self._is_whole(index) else share)


class PadPorts:
    """The read ports, or the write ports, of all pads; requesters in the order of their priority."""

    def __init__(self, clock: Clock, requesters: Iterable[str]) -> None:
        self._clock = clock
        self._usages = {name: [Usage() for _ in range(PADS)] for name in requesters}
        # the last cycle granted, and what part of a cycle was left free up to there: others use parts of cycles
        self._granted: dict[tuple[str, int], tuple[int, float]] = {}

    def use(self, name: str, pad: int, begin: int, end: int, cycles: int) -> None:
        """A requester uses the port of a pad."""
        self._usages[name][pad].add(begin, end, cycles)

    def _before(self, name: str, pad: int) -> list[Usage]:
        names = list(self._usages)
        return [self._usages[other][pad] for other in names[: names.index(name)]]

    def finish(
        self, name: str, pad: int, begin: int, end: int, cycles: int, *, rigid: bool = False
    ) -> Generator[int, None, int]:
        """When a requester that would use `cycles` of the cycles from `begin` to `end` is done with them, given all who
        go before it; goes on in that cycle.

        A rigid one cannot make up for refusals in the cycles that it leaves; but it falls in step with others who leave
        some, too, so that only stretches that are used completely hold it up.
        """
        others = self._before(name, pad)
        least = end if rigid else begin + cycles
        share = 0.0 if rigid else 1.0
        own = self._usages[name][pad]
        own.add(begin, end, cycles, join=False)
        while True:
            yield end
            used = sum(usage.until(end, share) - usage.until(begin, share) for usage in others)
            later = max(end, least + round(used))
            if later == end:
                return end
            own.extend(later)
            end = later

    def grant(self, name: str, pad: int, time: int) -> Generator[int, None, int]:
        """The first cycle from `time` on in which a requester gets the port; goes on in that cycle."""
        others = self._before(name, pad)
        last, left = self._granted.get((name, pad), (0, 0.0))
        if last != time - 1:
            left = 0.0
        end = time + 1
        while True:
            yield end - 1
            used = sum(usage.until(end) - usage.until(time) for usage in others) - left
            later = time + 1 + round(used)
            if later <= end:
                self._granted[name, pad] = end - 1, end - time - 1 - used
                self.use(name, pad, end - 1, end, 1)
                return end - 1
            end = later
