"""Programs do what the integer network does: executed by the instruction-level model, whole and at every boundary."""

import dataclasses

import numpy as np
import pytest
import torch

from compiler.compile import compile_network
from compiler.errors import CompileError
from compiler.program import PACKET_BYTES, Program, ProgramError, header_field
from hw.config import CONFIGS, AcceleratorConfig
from sim.compare import compare_frame, first_mismatch
from sim.interpreter import Interpreter
from tests.configs import ALL, NARROW, ODD, SMALL, TALL, WIDE, quantizer_settings
from tests.quant.support import tiny_network
from tests.quant.test_transformer_nodes import transformer

CASES = [(SMALL, 32), (SMALL, 96), (WIDE, 64), (TALL, 160), (ODD, 32), (NARROW, 64), (CONFIGS["base"], 96)]


def network_for(config: AcceleratorConfig, size: int):
    return tiny_network(size, **quantizer_settings(config))


@pytest.mark.parametrize(("config", "size"), CASES, ids=lambda x: getattr(x, "name", str(x)))
@pytest.mark.parametrize("seed", [0, 1])
def test_every_boundary_equals_the_integer_network(config: AcceleratorConfig, size: int, seed: int) -> None:
    network, images = network_for(config, size)
    program = compile_network(network, config, trace=True)
    image = images[seed : seed + 1]
    area = np.frombuffer(Interpreter(config, program, seed=seed).run(image[0].numpy()), np.uint8)
    reference = {name: codes[0].numpy() for name, codes in network.run(image, trace=True).items()}
    boundaries = compare_frame(config, program, area, reference)
    assert {b.node for b in boundaries} == {node.name for node in network.nodes[1:]}
    assert first_mismatch(boundaries) is None


@pytest.mark.parametrize(
    ("config", "size"), [(SMALL, 32), (ODD, 32), (CONFIGS["base"], 64)], ids=lambda x: getattr(x, "name", str(x))
)
def test_a_batch_gives_what_its_frames_give(config: AcceleratorConfig, size: int) -> None:
    network, images = network_for(config, size)
    program = compile_network(network, config, trace=True, batch=3)
    area = np.frombuffer(Interpreter(config, program).run(images[:3].numpy()), np.uint8)
    reference = network.run(images[:3], trace=True)
    for frame in range(3):
        codes = {name: tensor[frame].numpy() for name, tensor in reference.items()}
        boundaries = compare_frame(config, program, area, codes, frame=frame)
        assert {b.node for b in boundaries} == {node.name for node in network.nodes[1:]}
        assert first_mismatch(boundaries) is None


def test_frames_of_a_batch_overlap() -> None:
    network, _ = network_for(SMALL, 64)
    single, batch = (compile_network(network, SMALL, batch=n) for n in (1, 4))
    assert batch.input_bytes == 4 * single.input_bytes
    assert batch.predicted_cycles < 3.6 * single.predicted_cycles


def test_trace_changes_no_score() -> None:
    network, images = network_for(SMALL, 64)
    areas = []
    for trace in (False, True):
        program = compile_network(network, SMALL, trace=trace)
        area = Interpreter(SMALL, program).run(images[0].numpy())
        areas.append(area[program.scores[0].offset :][: 2 * SMALL.pad_word_beats * SMALL.bus_bytes])
    assert areas[0] == areas[1]


def test_a_missing_wait_is_noticed() -> None:
    """The random order of the instruction-level model catches programs whose order is only accidentally right."""
    network, images = network_for(SMALL, 32)
    program = compile_network(network, SMALL)
    right = Interpreter(SMALL, program).run(images[0].numpy())
    image = bytearray(program.image)
    for index in range(header_field(program.image, "descriptors")):
        start = PACKET_BYTES * (1 + index) + 4
        image[start : start + 12] = bytes(12)
    careless = dataclasses.replace(program, image=bytes(image))
    results = {Interpreter(SMALL, careless, seed=seed).run(images[0].numpy()) for seed in range(3)}
    assert results != {right}


def test_compilation_is_deterministic() -> None:
    network, _ = network_for(WIDE, 64)
    assert compile_network(network, WIDE).image == compile_network(network, WIDE).image


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pad_words": (64, 64, 64, 64)}, "no scratchpad has room"),
        ({"acc_bits": 16}, "raise acc_bits"),
        ({"state_tiles": 2}, "raise state_tiles"),
        ({"state_tiles": 2, "out_lanes": 32, "stream_bits": 256}, "takes 4 tiles, but state_tiles is 2"),
        ({"acc_depth": 8}, "raise acc_depth"),
        ({"weight_bits": 4}, "quantize with weight_bits <= 4"),
        ({"act_bits": 7}, "change act_bits"),
        ({"table_index_bits": 8}, "table_index_bits = 8"),
        ({"divisor_mantissa_bits": 3}, "divisor_mantissa_bits is 8 in the network, 3 in hardware"),
        ({"state_bits": 6}, "state_bits is 8 in the network, 6 in hardware"),
    ],
)
def test_obstacles_are_named(changes: dict[str, int], why: str) -> None:
    network, _ = network_for(SMALL, 64)
    with pytest.raises(CompileError, match=why) as caught:
        compile_network(network, SMALL.replace(**changes))
    assert caught.value.obstacles[0].node


def test_heads_that_do_not_fill_words_are_named() -> None:
    network, _ = network_for(SMALL, 32)
    config = SMALL.replace(in_lanes=32, out_lanes=32, stream_bits=512)
    with pytest.raises(CompileError, match="do not fill whole words"):
        compile_network(network, config)


def test_transformers_are_refused_node_by_node() -> None:
    with pytest.raises(CompileError, match="accelerators run EfficientViT") as caught:
        compile_network(transformer(), SMALL)
    reasons = {o.node: o.why for o in caught.value.obstacles}
    assert reasons["a"] == "no engine for softmax attention" and "16 signed bits" in reasons["proj"]
    assert set(reasons) >= {"patch", "tokens", "norm", "rectify", "select", "merge"}


def test_saved_programs_are_checked(tmp_path) -> None:
    network, _ = network_for(SMALL, 32)
    program = compile_network(network, SMALL)
    path = tmp_path / "program.bin"
    program.save(path)
    assert Program.load(path) == program
    image = program.image
    damages = {
        "not a vitsmith program": b"\0" + image[1:],
        "corrupted header": image[:20] + bytes([image[20] ^ 1]) + image[21:],
        "corrupted content": image[:-1] + bytes([image[-1] ^ 1]),
        "bytes, but the header says": image[:-5],
    }
    for message, damaged in damages.items():
        path.write_bytes(damaged)
        with pytest.raises(ProgramError, match=message):
            Program.load(path)
    path.write_bytes(image)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ProgramError, match="malformed metadata"):
        Program.load(path)
    path.unlink()
    with pytest.raises(ProgramError, match="cannot be read"):
        Program.load(path)


def test_configurations_have_different_hashes() -> None:
    assert len({config.hash for config in (*ALL, *CONFIGS.values())}) == len(ALL) + len(CONFIGS)
    assert SMALL.replace(name="other").hash == SMALL.hash


def test_scores_are_useful() -> None:
    """The comparison above means something: scores differ between classes and images."""
    network, images = network_for(SMALL, 32)
    scores = network.run(images)
    assert len(torch.unique(scores)) > scores.numel() // 2
