"""Maps in external memory: they compute what others do, and let networks run in scratchpads that are too small for
their parts."""

import numpy as np
import pytest
import torch

from compiler.batch import Batch
from compiler.buffers import Buffer, buffer_for
from compiler.compile import compile_network
from compiler.errors import CompileError
from compiler.parts import in_parts
from compiler.program import descriptors
from compiler.spill import Reload, Spill, cheapest_cut, spilled
from hw.config import AcceleratorConfig
from hw.control.descriptors import Engine
from quant.integer_network import Conv, LinearAttention
from sim.compare import compare_frame, first_mismatch
from sim.interpreter import Interpreter
from tests.compiler.support import batch_of, run_nodes
from tests.configs import ALL, NARROW, ODD, SMALL, TALL, WIDE, quantizer_settings
from tests.quant.support import tiny_network


def whole_maps(batch: Batch) -> list[str]:
    """Nodes whose maps can be spilled."""
    single = [node for node in batch.nodes if list(batch.names.values()).count(batch.names[node.name]) == 1]
    return [node.name for node in single if isinstance(node, (Conv, LinearAttention)) and node is not batch.nodes[-1]]


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.name)
def test_spilled_maps_compute_what_others_do(config: AcceleratorConfig) -> None:
    network, images = tiny_network(64, **quantizer_settings(config))
    whole = network.run(images[:2], trace=True)
    parts = in_parts(batch_of(network), config)
    batch = spilled(parts, whole_maps(parts), config)
    assert {type(node) for node in batch.nodes} >= {Spill, Reload}
    for node, codes in run_nodes(batch, whole[network.input.name]):
        first, shape = batch.first_channel[node.name], batch.shapes[node.name]
        expected = whole[batch.names[node.name]][:, first : first + shape.channels]
        torch.testing.assert_close(codes, expected, rtol=0, atol=0)
    for node in batch.nodes:
        spills = [name for name in node.inputs if name.endswith("to memory")]
        assert isinstance(node, Reload) == bool(spills)
        if isinstance(node, LinearAttention):
            assert len(node.inputs) == 1


@pytest.mark.parametrize(
    ("config", "size", "frames", "words", "trace"),
    [
        (SMALL, 96, 1, 300, True),
        (WIDE, 64, 3, 104, False),
        (TALL, 64, 2, 30, True),
        (ODD, 64, 1, 120, False),
        (NARROW, 64, 1, 100, True),
    ],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_tiny_scratchpads(config: AcceleratorConfig, size: int, frames: int, words: int, trace: bool) -> None:
    network, images = tiny_network(size, **quantizer_settings(config))
    config = config.replace(pad_words=(words,) * 4)
    program = compile_network(network, config, trace=trace, batch=frames)
    loads = [d.body for d in descriptors(program.image) if d.engine == Engine.LOAD]
    assert any(body["stored"] for body in loads), "the maps have room in scratchpads"
    area = np.frombuffer(Interpreter(config, program, seed=size).run(images[:frames].numpy()), np.uint8)
    reference = network.run(images[:frames], trace=True)
    for frame in range(frames):
        codes = {name: tensor[frame].numpy() for name, tensor in reference.items()}
        boundaries = compare_frame(config, program, area, codes, frame=frame)
        assert len(boundaries) == (len(network.nodes) - 1 if trace else 1)
        assert first_mismatch(boundaries) is None


def buffers_of(batch: Batch, names: list[str], rows: int) -> dict[str, Buffer]:
    return {name: buffer_for(name, batch.shapes[name], SMALL, rows) for name in names}


def test_a_cut_leaves_little_on_either_side() -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    batch = in_parts(batch_of(network), SMALL)
    names = [node.name for node in batch.nodes]
    places = {name: index for index, name in enumerate(names)}
    for living in (buffers_of(batch, names[2:6], 8), buffers_of(batch, names[1:12], 8)):
        originals = cheapest_cut(batch, living, SMALL)
        cut = {name for name in names if batch.names[name] in originals}
        last = max(places[name] for name in cut)
        words = {name: buffer.words for name, buffer in living.items() if name not in cut}
        before = sum(size for name, size in words.items() if places[name] < last)
        total = sum(buffer.words for buffer in living.values())
        assert max(before, sum(words.values()) - before) <= 0.7 * total
        readers = [node for node in batch.nodes if set(node.inputs) & (set(names[:last]) - cut)]
        assert all(places[node.name] <= last for node in readers), "a map that is not spilled lives across the cut"


def test_nothing_is_cut_where_nothing_helps() -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    batch = in_parts(batch_of(network), SMALL)
    assert not cheapest_cut(batch, buffers_of(batch, [batch.nodes[-1].name], 1), SMALL)
    rest = spilled(batch, whole_maps(batch), SMALL)
    load = next(node.name for node in rest.nodes if isinstance(node, Reload))
    assert not cheapest_cut(rest, buffers_of(rest, [load], 4), SMALL)


def test_rows_that_no_instruction_loads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    batch = in_parts(batch_of(network), SMALL)
    living = buffers_of(batch, [node.name for node in batch.nodes[2:6]], 8)
    assert cheapest_cut(batch, living, SMALL)
    monkeypatch.setattr("compiler.spill.LONGEST_ROW", 7)
    assert not cheapest_cut(batch, living, SMALL)


def test_depthwise_convolutions_are_cut_where_rows_are_too_long() -> None:
    """A window of rows of the map that it reads would have no room."""
    config = SMALL.replace(pad_words=(96,) * 4)
    network, images = tiny_network(64, **quantizer_settings(config))
    parts = in_parts(batch_of(network), config)
    candidates = [node for node in parts.nodes if node.name in whole_maps(parts) and isinstance(node, Conv)]
    depthwise = max((node for node in candidates if node.is_depthwise), key=lambda node: len(node.weight))
    batch = spilled(parts, {depthwise.name}, config)
    chunks = [node for node in batch.nodes if batch.names[node.name] == depthwise.name and isinstance(node, Conv)]
    makers = [node for node in batch.nodes if batch.names[node.name] == depthwise.inputs[0]]
    assert len(chunks) == len(makers) > 1
    assert [node.inputs for node in chunks] == [(maker.name,) for maker in makers]


def test_a_row_without_room_is_an_error() -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    with pytest.raises(CompileError, match=r"no scratchpad has room for its map \(\d+ x \d+ x \d+\)"):
        compile_network(network, SMALL.replace(pad_words=(64,) * 4))
