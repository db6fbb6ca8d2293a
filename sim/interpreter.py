"""Instruction-level model of the accelerator: executes a program image word for word, without clocks.

It reads the same packets and parameter streams as the hardware and calls the same integer operations as the golden
network, so it tells a wrong program from a wrong circuit in seconds. Engines advance in a random order that the waits
allow (by seed), so a missing wait shows up as a wrong result.
"""

import random
from collections import deque
from collections.abc import Callable
from math import ceil

import numpy as np
import torch
from torch import Tensor

from compiler.program import Program, descriptors, header_field
from compiler.results import word_bytes
from hw.config import DW_TAPS, KERNEL_ROWS, PADS, STEM_TAPS, AcceleratorConfig
from hw.control.descriptors import Engine, record_layout, unpack, words_for
from quant import numerics
from quant.numerics import Operand

__all__ = ["Interpreter", "InterpreterError"]


class InterpreterError(RuntimeError):
    """A program that deadlocks or uses a stream wrongly."""


def _column(view: dict, blocks: int) -> Tensor:
    """Word addresses of channel blocks that lie `row_stride` apart."""
    return view["start"] + view["row_stride"] * torch.arange(blocks)


def signed(value: int, bits: int) -> int:
    """Two's complement of `bits` bits."""
    return value - (1 << bits) if value >> (bits - 1) else value


class Stream:
    """Words of a parameter stream, consumed block by block."""

    def __init__(self, content: bytes, word_bits: int) -> None:
        self.content, self.word, self.position = content, word_bits // 8, 0

    def take(self, bits: int) -> bytes:
        """The next block of `bits` bits, padded to whole words in the stream."""
        size = words_for(bits, self.word * 8) * self.word
        block = self.content[self.position : self.position + size]
        self.position += size
        if len(block) < size:
            raise InterpreterError("a parameter stream is shorter than its instruction needs")
        return block

    def elements(self, count: int, bits: int, *, is_signed: bool = True) -> Tensor:
        """The next block as `count` integers of `bits` bits."""
        values = int.from_bytes(self.take(count * bits), "little")
        raw = [values >> (i * bits) & ((1 << bits) - 1) for i in range(count)]
        return torch.tensor([signed(v, bits) if is_signed else v for v in raw], dtype=torch.int64)


class Interpreter:
    """Pads, state, and tables of one accelerator; `run` executes a frame."""

    def __init__(self, config: AcceleratorConfig, program: Program, *, seed: int = 0) -> None:
        self.config, self.program = config, program
        self.random = random.Random(seed)
        shape = (config.pixels, config.in_lanes)
        self.pads = [torch.zeros((words, *shape), dtype=torch.int64) for words in config.pad_words]
        self.state = torch.zeros((config.state_tiles, config.in_lanes, config.out_lanes), dtype=torch.int64)
        self.tables: dict[tuple[Engine, int], Tensor] = {}
        assert len(self.pads) == PADS

    def run(self, image: np.ndarray) -> bytes:
        """Execute one frame of an (H, W, 3) uint8 image; return the result area."""
        self.image = np.ascontiguousarray(image).reshape(-1)
        self.result = bytearray(self.program.result_bytes)
        queues: dict[Engine, deque] = {engine: deque() for engine in Engine}
        for descriptor in descriptors(self.program.image):
            queues[descriptor.engine].append((descriptor.waits, descriptor.body))
        events = dict.fromkeys(Engine, 0)
        execute: dict[Engine, Callable[[dict], None]] = {
            Engine.MATMUL: self._matmul,
            Engine.DEPTHWISE: self._depthwise,
            Engine.ATTENTION: self._attention,
            Engine.NORM: self._norm,
            Engine.LOAD: self._load,
            Engine.STORE: self._store,
        }
        while any(queues.values()):
            ready = [
                e for e, q in queues.items() if q and all((events[o] - q[0][0][o]) & 0xFFFF < 0x8000 for o in Engine)
            ]
            if not ready:
                raise InterpreterError(f"deadlock: every engine waits; events {dict(events)}")
            engine = self.random.choice(ready)
            execute[engine](queues[engine].popleft()[1])
            events[engine] = (events[engine] + 1) & 0xFFFF
        return bytes(self.result)

    # -- memories --

    def _addresses(self, view: dict, rows: int, blocks: range, groups: int) -> Tensor:
        """Word addresses (rows, blocks, groups) of a view."""
        result, row = torch.zeros((rows, len(blocks), groups), dtype=torch.int64), view["start"]
        offsets = torch.tensor([b * groups for b in blocks])[:, None] + torch.arange(groups)
        for r in range(rows):
            result[r] = row + offsets
            row += view["row_stride"]
            row = view["base"] if row == view["limit"] else row
        return result

    def _parameters(self, f: dict, engine: Engine) -> Stream:
        config, image = self.config, self.program.image
        if engine != Engine.MATMUL:
            size = f["stream_words"] * config.bus_bytes
            return Stream(image[f["stream_address"] : f["stream_address"] + size], config.bus_bits)
        size = f["stream_words"] * config.stream_bits // 8 // config.bus_ports
        stride = header_field(image, "port_stride")
        starts = [f["stream_address"] + port * stride for port in range(config.bus_ports)]
        beats = [np.frombuffer(image[s : s + size], np.uint8).reshape(-1, config.bus_bytes) for s in starts]
        return Stream(np.stack(beats, 1).tobytes(), config.stream_bits)

    def _load_table(self, f: dict, engine: Engine, stream: Stream) -> None:
        if f["requant"]["table_load"]:
            table = stream.elements(1 << self.config.table_index_bits, numerics.OPERAND_BITS)
            self.tables[engine, f["requant"]["table_bank"]] = table

    def _records(self, stream: Stream, channels: int) -> dict[str, Tensor]:
        layout = record_layout()
        content = int.from_bytes(stream.take(layout.size * channels), "little")
        rows = [unpack(layout, content >> (layout.size * c) & ((1 << layout.size) - 1)) for c in range(channels)]
        columns = {name: torch.tensor([row[name] for row in rows]) for name, _ in layout}
        for name, bits in (("bias", numerics.BIAS_BITS), ("multiplier", numerics.MULTIPLIER_BITS)):
            columns[name] = torch.where(columns[name] >> (bits - 1) > 0, columns[name] - (1 << bits), columns[name])
        return columns

    def _requantize(
        self,
        acc: Tensor,
        r: dict[str, Tensor],
        mode: dict,
        engine: Engine,
        residual: Tensor | None = None,
        reciprocal: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Requantize (..., channels) accumulators with records of these channels."""
        multiplier, shift = r["multiplier"], r["shift"]
        if reciprocal is not None:
            multiplier, shift = reciprocal[0], shift + reciprocal[1]
        stage = numerics.first_stage(acc, r["bias"], multiplier, shift)
        y = numerics.second_stage(
            stage,
            Operand(mode["operand"]),
            r["multiplier2"],
            mode["shift2"],
            table=self.tables.get((engine, mode["table_bank"])),
            index_zero=signed(mode["index_zero"], numerics.INDEX_ZERO_BITS),
            residual=residual,
            residual_zero=mode["residual_zero"],
        )
        scores = numerics.code_range(numerics.OPERAND_BITS, signed=True)
        return (y + r["zero_point"]).clamp(*(scores if mode["wide"] else (0, mode["limit"])))

    # -- engines --

    def _matmul(self, f: dict) -> None:
        config, mode = self.config, f["requant"]
        ti, to, rows, groups = config.in_lanes, config.out_lanes, f["rows"], f["groups_per_row"]
        stream = self._parameters(f, Engine.MATMUL)
        self._load_table(f, Engine.MATMUL, stream)
        in_blocks = f["in_blocks"]
        reciprocal = None
        for tile in range(f["out_tiles"]):
            group = tile // f["tiles_per_group"] if f["tiles_per_group"] else 0
            blocks = range(group * in_blocks, (group + 1) * in_blocks)
            x = self.pads[f["source"]["pad"]][self._addresses(f["source"], rows, blocks, groups)]
            if f["relu"]:
                x = (x - f["input_zero"]).clamp(min=0)
            divisors = f["from_state"] and tile == 0
            records = None if divisors else self._records(stream, to)
            if f["from_state"]:
                first = f["state_tile"] + tile * in_blocks
                weights = self.state[first : first + in_blocks]
            else:
                weights = torch.stack(
                    [stream.elements(ti * to, config.operand_bits).reshape(ti, to) for _ in range(in_blocks)]
                )
            acc = torch.einsum("rbgpi,bio->rgpo", x, weights)
            if divisors:
                r, e = numerics.reciprocal(acc[..., 0], config.divisor_mantissa_bits)
                reciprocal = (r[..., None], e[..., None])
                continue
            out_tile = tile - 1 if f["from_state"] else tile
            self._write_tile(f, acc, records, out_tile, reciprocal if mode["divide"] else None)

    def _write_tile(
        self, f: dict, acc: Tensor, records: dict, tile: int, reciprocal: tuple[Tensor, Tensor] | None
    ) -> None:
        config, mode, rc = self.config, f["requant"], self.config.requant_channels
        for sub in range(config.out_lanes // rc):
            index = tile * (config.out_lanes // rc) + sub
            if index >= f["out_subblocks"]:
                return
            block, lane = divmod(index * rc, config.in_lanes)
            lanes = slice(lane, lane + rc)
            chosen = slice(sub * rc, sub * rc + rc)
            residual = None
            if mode["operand"] == Operand.RESIDUAL:
                where = self._addresses(f["residual"], f["rows"], range(block, block + 1), f["groups_per_row"])[:, 0]
                residual = self.pads[f["residual"]["pad"]][where][..., lanes]
            y = self._requantize(
                acc[..., chosen], {k: v[chosen] for k, v in records.items()}, mode, Engine.MATMUL, residual, reciprocal
            )
            where = self._addresses(f["destination"], f["rows"], range(block, block + 1), f["groups_per_row"])[:, 0]
            pad = self.pads[f["destination"]["pad"]]
            for part in range(config.slices if mode["wide"] else 1):
                code = y >> (part * config.act_bits) & ((1 << config.act_bits) - 1)
                word = pad[where + part * f["slice_stride"]]
                word[..., lanes] = code
                pad[where + part * f["slice_stride"]] = word

    def _depthwise(self, f: dict) -> None:
        config, p, ti = self.config, self.config.pixels, self.config.in_lanes
        kernel, stride = 5 if f["kernel5"] else 3, 2 if f["stride2"] else 1
        stream = self._parameters(f, Engine.DEPTHWISE)
        self._load_table(f, Engine.DEPTHWISE, stream)
        reach, tap_groups = kernel // 2, ceil(kernel / DW_TAPS)
        real = (f["source_groups"] - 1) * p + f["last_pixels"]
        width = f["groups_per_row"] * p * stride + kernel
        for block in range(f["blocks"]):
            records = self._records(stream, ti)
            codes = stream.elements(ti, 8, is_signed=False)
            passes = [stream.elements(DW_TAPS * ti, config.dw_weight_bits) for _ in range(kernel * tap_groups)]
            weights = torch.stack(passes).reshape(kernel, tap_groups * DW_TAPS, ti)[:, :kernel]
            needed = (f["rows"] - 1) * stride + kernel - f["top"]
            rows = min(needed, f["source_rows"])
            words = self.pads[f["source"]["pad"]][
                self._addresses(f["source"], rows, range(block, block + 1), f["source_groups"])[:, 0]
            ]
            padded = codes.repeat(f["top"] + needed, width, 1)
            padded[f["top"] : f["top"] + rows, reach : reach + real] = words.reshape(rows, -1, ti)[:, :real]
            acc = torch.zeros((f["rows"], f["groups_per_row"] * p, ti), dtype=torch.int64)
            for ky in range(kernel):
                for kx in range(kernel):
                    window = padded[ky : ky + stride * f["rows"] : stride, kx : kx + stride * acc.shape[1] : stride]
                    acc += window[: f["rows"], : acc.shape[1]] * weights[ky, kx]
            y = self._requantize(acc, records, f["requant"], Engine.DEPTHWISE)
            where = self._addresses(f["destination"], f["rows"], range(block, block + 1), f["groups_per_row"])[:, 0]
            self.pads[f["destination"]["pad"]][where] = y.reshape(f["rows"], f["groups_per_row"], p, ti)

    def _attention(self, f: dict) -> None:
        config, ti, to = self.config, self.config.in_lanes, self.config.out_lanes
        real = (f["groups_per_row"] - 1) * config.pixels + f["last_pixels"]

        def tokens(first: int, count: int) -> Tensor:
            where = self._addresses(f["source"], f["rows"], range(first, first + count), f["groups_per_row"])
            words = self.pads[f["source"]["pad"]][where]  # (rows, blocks, groups, P, Ti)
            pixels = words.permute(0, 2, 3, 1, 4).reshape(f["rows"], -1, count * ti)[:, :real]
            return pixels.reshape(-1, count * ti)

        n = f["blocks"]
        if f["pool"]:
            total = tokens(0, n).sum(0) + signed(f["sum_bias"], numerics.BIAS_BITS)
            y = numerics.round_shift(total * f["sum_multiplier"], f["sum_shift"]) + f["out_zero"]
            codes = y.clamp(0, f["out_limit"]).reshape(n, ti)
            self.pads[f["destination"]["pad"]][_column(f["destination"], n), f["pixel"]] = codes
            return
        k = (tokens(f["key_block"], n) - f["input_zero"]).clamp(min=0)
        v = tokens(f["value_block"], n) - f["input_zero"]
        low_high = numerics.weight_range(config.state_bits)
        state = numerics.round_shift(k.t() @ v * f["state_multiplier"], f["state_shift"]).clamp(*low_high)
        sums = numerics.round_shift(k.sum(0) * f["sum_multiplier"], f["sum_shift"]).clamp(*low_high)
        first = f["state_tile"]
        self.state[first : first + n] = 0
        self.state[first : first + n, :, 0] = sums.reshape(n, ti)
        for column, values in enumerate(state.split(to, dim=1)):  # the rest of the last tile stays
            tiles = first + n * (1 + column)
            self.state[tiles : tiles + n, :, : values.shape[1]] = values.reshape(n, ti, -1)

    def _norm(self, f: dict) -> None:
        ti, rc = self.config.in_lanes, self.config.norm_group
        stream = self._parameters(f, Engine.NORM)
        self._load_table(f, Engine.NORM, stream)
        channels = f["channels"]
        blocks = ceil(channels / ti)
        x = self.pads[f["source"]["pad"]][_column(f["source"], blocks), f["pixel"]].reshape(-1)[:channels]
        normalised = torch.zeros(blocks * ti, dtype=torch.int64)
        normalised[:channels] = numerics.normalise(x[None], f["epsilon"])[0]
        target, words = self.pads[f["destination"]["pad"]], _column(f["destination"], blocks)
        for first in range(0, channels, rc):
            records = self._records(stream, rc)
            y = self._requantize(normalised[first : first + rc], records, f["requant"], Engine.NORM)
            target[words[first // ti], f["pixel"], first % ti : first % ti + rc] = y

    def _load(self, f: dict) -> None:
        if f["stored"]:
            self._load_stored(f)
            return
        config, p, ti = self.config, self.config.pixels, self.config.in_lanes
        codes = [f[f"pad_code{c}"] for c in range(3)]
        groups = f["groups_per_row"]
        target = self.pads[f["destination"]["pad"]]
        where = self._addresses(f["destination"], f["rows"], range(KERNEL_ROWS * config.stem_blocks), groups)
        span = 6 * (groups * p - 1) + STEM_TAPS
        for i in range(f["rows"]):
            for ky in range(KERNEL_ROWS):
                row = signed(f["first_row"], 16) + 2 * i + ky
                line = torch.tensor(codes * ceil((span + f["row_bytes"]) / 3 + 1))
                if 0 <= row < f["image_rows"]:
                    begin = f["address"] + row * f["row_bytes"]
                    content = torch.from_numpy(self.image[begin : begin + f["row_bytes"]].astype(np.int64))
                    line[3 : 3 + f["row_bytes"]] = content >> (8 - config.act_bits)
                windows = torch.stack([line[6 * x : 6 * x + STEM_TAPS] for x in range(groups * p)])
                lanes = torch.zeros((groups * p, config.stem_blocks * ti), dtype=torch.int64)
                lanes[:, :STEM_TAPS] = windows
                words = lanes.reshape(groups, p, config.stem_blocks, ti).permute(2, 0, 1, 3)
                target[where[i, ky * config.stem_blocks : (ky + 1) * config.stem_blocks]] = words

    def _load_stored(self, f: dict) -> None:
        config, size = self.config, word_bytes(self.config)
        where = self._addresses(f["destination"], f["rows"], range(f["words_per_row"]), 1)[..., 0].reshape(-1)
        for i, address in enumerate(where):
            offset = f["address"] + i * size
            if offset + size > len(self.result):
                raise InterpreterError(f"a load goes beyond the result area ({offset + size} > {len(self.result)})")
            bits = int.from_bytes(self.result[offset : offset + size], "little")
            codes = [
                bits >> (j * config.act_bits) & ((1 << config.act_bits) - 1)
                for j in range(config.pixels * config.in_lanes)
            ]
            self.pads[f["destination"]["pad"]][address] = torch.tensor(codes).reshape(config.pixels, config.in_lanes)

    def _store(self, f: dict) -> None:
        config = self.config
        where = self._addresses(f["source"], f["rows"], range(f["words_per_row"]), 1)[..., 0].reshape(-1)
        words = self.pads[f["source"]["pad"]][where].reshape(len(where), -1)
        size = word_bytes(config)
        for i, word in enumerate(words.tolist()):
            bits = sum(code << (j * config.act_bits) for j, code in enumerate(word))
            offset = f["address"] + i * size
            if offset + size > len(self.result):
                raise InterpreterError(f"a store goes beyond the result area ({offset + size} > {len(self.result)})")
            self.result[offset : offset + size] = bits.to_bytes(size, "little")
