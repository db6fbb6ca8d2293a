"""Maps in parts compute what whole maps do, one by one and as programs in scratchpads that are too small for others."""

import dataclasses

import numpy as np
import pytest
import torch

from compiler.compile import compile_network
from compiler.parts import in_parts
from hw.config import AcceleratorConfig
from quant.integer_network import LinearAttention
from sim.compare import compare_frame, first_mismatch
from sim.interpreter import Interpreter
from tests.compiler.support import batch_of, run_nodes
from tests.configs import ALL, NARROW, ODD, SMALL, WIDE, quantizer_settings
from tests.quant.support import tiny_network


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.name)
def test_parts_compute_what_the_whole_does(config: AcceleratorConfig) -> None:
    network, images = tiny_network(64, **quantizer_settings(config))
    whole = network.run(images[:2], trace=True)
    parts = in_parts(batch_of(network), config)
    for node, codes in run_nodes(parts, whole[network.input.name]):
        first, shape = parts.first_channel[node.name], parts.shapes[node.name]
        expected = whole[parts.names[node.name]][:, first : first + shape.channels]
        torch.testing.assert_close(codes, expected, rtol=0, atol=0)
    heads = {node.name: len(node.state_multiplier) for node in network.nodes if isinstance(node, LinearAttention)}
    assert heads
    for node in parts.nodes:
        if isinstance(node, LinearAttention):
            assert len(node.inputs) == heads[node.name]
            assert all(parts.shapes[name].channels == 3 * node.head_dim for name in node.inputs)


def test_maps_that_others_read_stay_whole() -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    attention = next(node for node in network.nodes if isinstance(node, LinearAttention))
    batch = batch_of(network)
    reader = dataclasses.replace(next(n for n in batch.nodes if n.name == attention.inputs[0]), name="other")
    reader = dataclasses.replace(reader, inputs=(attention.inputs[0],))
    batch = dataclasses.replace(
        batch,
        nodes=(*batch.nodes, reader),
        shapes=batch.shapes | {"other": batch.shapes[attention.inputs[0]]},
        names=batch.names | {"other": "other"},
        frame_of=batch.frame_of | {"other": 0},
    )
    parts = in_parts(batch, SMALL)
    assert next(node for node in parts.nodes if node.name == attention.name) == attention


@pytest.mark.parametrize(
    ("config", "size", "frames", "words"),
    [(SMALL, 96, 1, 352), (WIDE, 96, 3, 192), (ODD, 64, 1, 320), (NARROW, 96, 1, 384)],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_small_scratchpads(config: AcceleratorConfig, size: int, frames: int, words: int) -> None:
    network, images = tiny_network(size, **quantizer_settings(config))
    config = config.replace(pad_words=(words,) * 4)
    program = compile_network(network, config, trace=True, batch=frames)
    assert any(stored.channel for stored in program.stored), "the maps have room as they are"
    area = np.frombuffer(Interpreter(config, program, seed=size).run(images[:frames].numpy()), np.uint8)
    reference = network.run(images[:frames], trace=True)
    for frame in range(frames):
        codes = {name: tensor[frame].numpy() for name, tensor in reference.items()}
        boundaries = compare_frame(config, program, area, codes, frame=frame)
        assert {b.node for b in boundaries} == {node.name for node in network.nodes[1:]}
        assert sum(b.elements for b in boundaries) == sum(codes[n.name].size for n in network.nodes[1:])
        assert first_mismatch(boundaries) is None
