"""Placed buffers never overlap while both live."""

import random

from compiler.buffers import Buffer, Lifetime, allocate
from hw.control.descriptors import Engine

PADS = (300, 200)


def random_lifetimes(seed: int) -> list[Lifetime]:
    rng = random.Random(seed)
    result = []
    for index in range(40):
        first = rng.randrange(100)
        buffer = Buffer(f"b{index}", rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 8))
        traffic = {("read", rng.choice(list(Engine))): rng.randint(1, 100)}
        result.append(Lifetime(buffer, first, first + rng.randrange(8), rng.choice([(0, 1), (1, 0)]), traffic))
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


def test_maps_that_different_engines_read_get_different_pads() -> None:
    def lifetime(name: str, engine: Engine, port: str = "read") -> Lifetime:
        return Lifetime(Buffer(name, 1, 1, 8), 0, 9, (0, 1), {(port, engine): 50})

    apart = allocate([lifetime("a", Engine.MATMUL), lifetime("b", Engine.DEPTHWISE)], PADS)
    assert apart["a"].pad != apart["b"].pad
    for other in (lifetime("b", Engine.MATMUL), lifetime("b", Engine.DEPTHWISE, "write")):
        together = allocate([lifetime("a", Engine.MATMUL), other], PADS)
        assert together["a"].pad == together["b"].pad == 0


def test_rows_wrap_in_the_ring() -> None:
    buffer = Buffer("ring", blocks=2, groups=3, ring=4, pad=1, base=10)
    assert buffer.view(5, 1) == {"pad": 1, "base": 13, "limit": 37, "start": 19, "row_stride": 6}
    assert buffer.addresses(range(3, 5), range(1, 2)).tolist() == [31, 32, 33, 13, 14, 15]
