"""Reports on long work: how much of it is done, 0..1, and what is going on."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "part_of"]

Progress = Callable[[float, str], None]


def part_of(progress: Progress | None, start: float, end: float) -> Progress:
    """Reports on a part of the work, which goes from `start` to `end` of the whole."""

    def report(done: float, text: str) -> None:
        if progress:
            progress(start + (end - start) * done, text)

    return report
