"""Placed buffers never overlap while both live."""

import random

import pytest

from compiler.buffers import Buffer, Lifetime, Reads, allocate

PADS = (300, 200)


def random_lifetimes(seed: int) -> list[Lifetime]:
    rng = random.Random(seed)
    result = []
    for index in range(40):
        first = rng.randrange(100)
        buffer = Buffer(f"b{index}", rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 8))
        last = first + rng.randrange(8)
        reads = {rng.choice(["matmul", "residual", "depthwise"]): Reads(rng.randint(1, 100), 100 * first, 100 * last)}
        result.append(Lifetime(buffer, first, last, rng.choice([(0, 1), (1, 0)]), reads))
    return result


def test_nothing_overlaps() -> None:
    for seed in range(50):
        lifetimes = random_lifetimes(seed)
        placed = allocate(lifetimes, PADS)
        if isinstance(placed, str):
            assert placed in {x.buffer.name for x in lifetimes}
            continue
        for a in lifetimes:
            x = placed[a.buffer.name]
            assert 0 <= x.base and x.base + x.words <= PADS[x.pad]
            for b in lifetimes:
                y = placed[b.buffer.name]
                if a is not b and a.first <= b.last and b.first <= a.last and x.pad == y.pad:
                    assert x.base + x.words <= y.base or y.base + y.words <= x.base


def read_by(name: str, port: str, first: int, size: int = 8) -> Lifetime:
    return Lifetime(Buffer(name, 1, 1, size), 0, 9, (0, 1), {port: Reads(5000, first, first + 10_000)})


def test_maps_that_different_ports_read_at_once_get_different_pads() -> None:
    placed = allocate([read_by("a", "matmul", 0), read_by("b", "residual", 0)], PADS)
    assert placed["a"].pad != placed["b"].pad
    for other in (read_by("b", "matmul", 0), read_by("b", "residual", 20_000)):
        placed = allocate([read_by("a", "matmul", 0), other], PADS)
        assert placed["a"].pad == placed["b"].pad == 0


def test_small_maps_with_conflicts_go_before_a_large_one_without() -> None:
    """By size alone, `c` takes pad 0, `a` too, and `b`, for which pad 1 is too small, has to join them."""
    large = Lifetime(Buffer("c", 1, 1, 200), 0, 9, (0, 1), {})
    lifetimes = [large, read_by("a", "matmul", 0, 80), read_by("b", "depthwise", 0, 120)]
    placed = allocate(lifetimes, (330, 200))
    assert placed["a"].pad != placed["b"].pad


def test_words_that_are_read_at_once() -> None:
    whole = Reads(10_000, 0, 9_500)  # a word in every cycle, also of those in which engines lag behind
    assert whole.at_once(whole) == 10_000
    assert whole.at_once(Reads(1_000, 0, 9_500)) == pytest.approx(1_000)
    assert whole.at_once(Reads(1_000, 20_000, 30_000)) == 0


def test_rows_wrap_in_the_ring() -> None:
    buffer = Buffer("ring", blocks=2, groups=3, ring=4, pad=1, base=10)
    assert buffer.view(5, 1) == {"pad": 1, "base": 13, "limit": 37, "start": 19, "row_stride": 6}
    assert buffer.addresses(range(3, 5), range(1, 2)).tolist() == [31, 32, 33, 13, 14, 15]
