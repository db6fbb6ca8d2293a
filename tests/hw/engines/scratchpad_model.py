"""Scratchpads for engine tests: memories behind `PadRead` and `PadWrite` ports that may refuse."""

from collections import deque
from random import Random

from hw.config import PADS, AcceleratorConfig
from hw.interfaces import PAD_READ_LATENCY, pad_word_layout


class ScratchpadModel:
    """Memories of random words, and background test benches that serve ports of an engine.

    `words[pad][address]` is [pixel][channel]. Ports refuse with probability `stall` per cycle.
    """

    def __init__(self, config: AcceleratorConfig, rng: Random, *, words: int = 512, stall: float = 0.0) -> None:
        self.config, self.rng, self.stall = config, rng, stall
        self.words = [[self._random_word() for _ in range(words)] for _ in range(PADS)]

    def _random_word(self) -> list[list[int]]:
        c = self.config
        return [[self.rng.randrange(1 << c.act_bits) for _ in range(c.in_lanes)] for _ in range(c.pixels)]

    def place(self, codes: list[list[list[int]]], *, pad: int, base: int, limit: int, start: int) -> dict[str, int]:
        """Store a map, [channel][row][x], in rows that wrap from `limit` to `base`. Returns the fields of its view."""
        lanes, pixels = self.config.in_lanes, self.config.pixels
        groups = -(-len(codes[0][0]) // pixels)
        stride = -(-len(codes) // lanes) * groups
        address = start
        for row in range(len(codes[0])):
            for channel, plane in enumerate(codes):
                for x, code in enumerate(plane[row]):
                    word = self.words[pad][address + channel // lanes * groups + x // pixels]
                    word[x % pixels][channel % lanes] = code
            address = address + stride if address + stride != limit else base
        return dict(pad=pad, base=base, limit=limit, start=start, row_stride=stride)

    def _ready(self) -> bool:
        return self.rng.random() >= self.stall

    async def serve_reads(self, ctx, port) -> None:
        layout = pad_word_layout(self.config)
        pending = deque([None] * (PAD_READ_LATENCY - 1))
        while True:
            ready = self._ready()
            ctx.set(port.ready, ready)
            *_, valid, pad, address = await ctx.tick().sample(port.valid, port.pad, port.address)
            pending.append(self.words[pad][address] if valid and ready else None)
            word = pending.popleft()
            ctx.set(port.data_valid, word is not None)
            # Data counts in its cycle only.
            ctx.set(port.data, layout.const(word or self._random_word()))

    async def serve_writes(self, ctx, port) -> None:
        c = self.config
        waiting = None
        while True:
            ready = self._ready()
            ctx.set(port.ready, ready)
            *_, valid, pad, address, word, mask = await ctx.tick().sample(
                port.valid, port.pad, port.address, port.data, port.mask
            )
            request = (pad, address, word.as_bits(), mask.as_bits())
            assert waiting is None or (valid and request == waiting), "a refused write changed"
            waiting = request if valid and not ready else None
            if valid and ready:
                for p in range(c.pixels):
                    for channel in range(c.in_lanes):
                        if mask[p] >> (channel // c.write_group) & 1:
                            self.words[pad][address][p][channel] = word[p][channel]
