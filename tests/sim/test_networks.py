"""Whole networks in RTL: every class score and every layer boundary equals the integer network, bit for bit."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from compiler.compile import compile_network
from compiler.program import PACKET_BYTES, Program, ProgramHeader, seal
from hw.config import CONFIGS, AcceleratorConfig
from hw.control.registers import ErrorCode
from hw.verilog import generate_verilog
from quant.integer_network import IntegerNetwork
from sim.compare import compare_frame, first_mismatch
from sim.runner import MemoryModel, SimulationError, simulate
from tests.configs import NARROW, ODD, SMALL, TALL, WIDE, quantizer_settings
from tests.quant.support import tiny_network

verilog = cache(generate_verilog)


def check(
    config: AcceleratorConfig, network: IntegerNetwork, images: torch.Tensor, memory: MemoryModel, work_dir: Path
) -> None:
    """Run the images with and without storing every layer; compare everything."""
    reference = network.run(images, trace=True)
    for trace in (True, False):
        program = compile_network(network, config, trace=trace)
        result = simulate(config, verilog(config), program, images.numpy(), memory=memory, work_dir=work_dir)
        assert result.stray_writes == 0
        for index in range(len(images)):
            codes = {name: tensor[index].numpy() for name, tensor in reference.items()}
            boundaries = compare_frame(config, program, result.results[index], codes, result.write_cycles[index])
            if trace:
                assert {b.node for b in boundaries} == {node.name for node in network.nodes[1:]}
            assert first_mismatch(boundaries) is None
        np.testing.assert_array_equal(result.scores, network.run(images).numpy())


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("seed", [1, 2])
def test_small_networks(size: int, seed: int, tmp_path: Path) -> None:
    network, images = tiny_network(size, seed=seed, name="odd" if seed == 2 else "tiny", **quantizer_settings(SMALL))
    memory = MemoryModel(latency=10 * seed, stall=0.2 * (seed - 1), seed=seed)
    check(SMALL, network, images[:2], memory, tmp_path)


@pytest.mark.parametrize(
    "config", [SMALL, pytest.param(WIDE, marks=pytest.mark.slow), pytest.param(NARROW, marks=pytest.mark.slow)],
    ids=lambda c: c.name,
)  # fmt: skip
def test_maps_of_different_bits(config: AcceleratorConfig, tmp_path: Path) -> None:
    """Every map has its own number of bits, from 2 to the accelerator's."""
    names = [node.name for node in tiny_network(64, **quantizer_settings(config))[0].nodes[1:-1]]
    bits = {name: 2 + index % (config.act_bits - 1) for index, name in enumerate(names)}
    network, images = tiny_network.__wrapped__(64, layer_act_bits=bits, **quantizer_settings(config))
    assert set(bits.values()) == set(range(2, config.act_bits + 1))
    check(config, network, images[:1], MemoryModel(latency=20, stall=0.1, seed=4), tmp_path)


def test_frames_of_a_batch(tmp_path: Path) -> None:
    """Two runs of three frames, of which the last two are repetitions; two words hold the pixels of three frames."""
    network, images = tiny_network(64, **quantizer_settings(SMALL))
    reference = network.run(images[:4], trace=True)
    program = compile_network(network, SMALL, trace=True, batch=3)
    memory = MemoryModel(latency=20, stall=0.1, seed=3)
    result = simulate(SMALL, verilog(SMALL), program, images[:4].numpy(), memory=memory, work_dir=tmp_path)
    assert (len(result.runs), len(result.scores), result.stray_writes) == (2, 4, 0)
    for image in range(4):
        run, frame = divmod(image, 3)
        codes = {name: tensor[image].numpy() for name, tensor in reference.items()}
        boundaries = compare_frame(SMALL, program, result.results[run], codes, frame=frame)
        assert {b.node for b in boundaries} == {node.name for node in network.nodes[1:]}
        assert first_mismatch(boundaries) is None
    np.testing.assert_array_equal(result.scores, network.run(images[:4]).numpy())


@pytest.mark.slow
def test_maps_in_parts(tmp_path: Path) -> None:
    """Scratchpads in which maps have no room but in parts."""
    network, images = tiny_network(96, **quantizer_settings(SMALL))
    short = SMALL.replace(pad_words=(352,) * 4)
    check(short, network, images[:2], MemoryModel(latency=20, stall=0.1, seed=5), tmp_path)


@pytest.mark.parametrize(
    ("config", "size", "words"),
    [
        (SMALL, 64, 200),
        pytest.param(WIDE, 64, 104, marks=pytest.mark.slow),
        pytest.param(TALL, 64, 30, marks=pytest.mark.slow),
        pytest.param(ODD, 64, 120, marks=pytest.mark.slow),
        pytest.param(NARROW, 96, 160, marks=pytest.mark.slow),
    ],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_maps_in_external_memory(config: AcceleratorConfig, size: int, words: int, tmp_path: Path) -> None:
    """Scratchpads in which maps have no room even in parts."""
    network, images = tiny_network(size, **quantizer_settings(config))
    short = config.replace(pad_words=(words,) * 4)
    check(short, network, images[:2], MemoryModel(latency=20, stall=0.1, seed=6), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [SMALL, WIDE, TALL, ODD, NARROW, CONFIGS["base"], CONFIGS["nano"], CONFIGS["pico"], CONFIGS["femto"]],
    ids=lambda c: c.name,
)
@pytest.mark.parametrize("size", [64, 96, 160])
def test_every_configuration(config: AcceleratorConfig, size: int, tmp_path: Path) -> None:
    """B0 with random weights on configurations that differ in every parameter, under random memory stalls."""
    # The memories of the small configurations are made for smaller images.
    words = 4096 if config.in_lanes > 2 else 16384
    config = config.replace(pad_words=(words,) * 4, acc_depth=128 if config.pixels == 1 else 64)
    network, images = tiny_network(size, seed=size, name="b0", **quantizer_settings(config))
    check(config, network, images[:1], MemoryModel(latency=40, stall=0.1, seed=size), tmp_path)


def small_program() -> tuple[Program, np.ndarray]:
    network, images = tiny_network(32, **quantizer_settings(SMALL))
    return compile_network(network, SMALL), images[:1].numpy()


def patched(program: Program, position: int, *, reseal: bool) -> Program:
    """Flip a bit of byte `position`; with `reseal`, make the packet's checksum right again."""
    image = bytearray(program.image)
    image[position] ^= 1
    if reseal:
        start = position // PACKET_BYTES * PACKET_BYTES
        content = int.from_bytes(image[start : start + PACKET_BYTES - 4], "little")
        image[start : start + PACKET_BYTES] = seal(content)
    return dataclasses.replace(program, image=bytes(image))


def header_byte(name: str) -> int:
    return ProgramHeader.as_shape()[name].offset // 8


@pytest.mark.parametrize(
    ("position", "reseal", "code"),
    [
        (header_byte("magic"), True, ErrorCode.BAD_MAGIC),
        (header_byte("abi"), True, ErrorCode.BAD_ABI),
        (header_byte("config_hash"), True, ErrorCode.BAD_CONFIG),
        (header_byte("data_bytes"), False, ErrorCode.BAD_CRC),
        (5 * PACKET_BYTES + 40, False, ErrorCode.BAD_CRC),
    ],
)
def test_damaged_programs_are_refused(position: int, reseal: bool, code: ErrorCode, tmp_path: Path) -> None:
    program, images = small_program()
    with pytest.raises(SimulationError, match=code.name):
        simulate(SMALL, verilog(SMALL), patched(program, position, reseal=reseal), images, work_dir=tmp_path)
    memory = json.loads((tmp_path / "memory.json").read_text())
    assert all(frame["stray_writes"] == frame["written_bytes"] == 0 for frame in memory["frames"].values())


def test_bus_errors_stop_the_frame(tmp_path: Path) -> None:
    program, images = small_program()
    memory = MemoryModel(error=(len(program.image) // 2, 64))
    with pytest.raises(SimulationError, match=ErrorCode.BUS_READ.name):
        simulate(SMALL, verilog(SMALL), program, images, memory=memory, work_dir=tmp_path)


def test_results_never_leave_their_area(tmp_path: Path) -> None:
    program, images = small_program()
    short = dataclasses.replace(program, result_bytes=8)
    with pytest.raises(SimulationError, match=ErrorCode.RESULT_RANGE.name):
        simulate(SMALL, verilog(SMALL), short, images, work_dir=tmp_path)
    memory = json.loads((tmp_path / "memory.json").read_text())
    assert all(frame["stray_writes"] == frame["written_bytes"] == 0 for frame in memory["frames"].values())
