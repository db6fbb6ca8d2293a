"""Counts of products and other elements against published and computed ones."""

from dataclasses import replace

import pytest

from quant.graph import FloatGraph
from quant.models.efficientvit import EFFICIENTVIT, EfficientViT
from quant.models.registry import build_model
from quant.workload import Work, node_work, total


@pytest.mark.parametrize(
    "name, million, exponentials, tables, normalised, weights",
    # From the shapes of the papers: sums over blocks of T^2 x heads, 4 T C, and 2 T C.
    [("deit-t", 1254, 1397, 1816, 946, 5.65), ("swin-t", 4491, 2190, 5720, 3726, 28.2)],
)
def test_counts_at_224_pixels(name, million, exponentials, tables, normalised, weights):
    work = total(FloatGraph.from_model(build_model(name).eval()), 224)
    assert (work.products + work.attention_products) / 1e6 == pytest.approx(million, abs=1)
    thousands = [x / 1e3 for x in (work.exponentials, work.tables, work.normalised)]
    assert thousands == pytest.approx([exponentials, tables, normalised], rel=1e-3)
    assert work.weights / 1e6 == pytest.approx(weights, abs=0.1)


def test_efficientvit_has_no_softmax():
    graph = FloatGraph.from_model(EfficientViT(EFFICIENTVIT["b0"]).eval())
    work = total(graph, 64)
    assert work.exponentials == 0 and work.attention_products > 0 and work.residuals > 0
    parts = [part for _, part in node_work(graph, 64)]
    assert sum(parts, Work()) == work and sum(part.products > 0 for part in parts) == 52


def test_attention_of_one_node():
    graph = FloatGraph.from_model(build_model("deit-t", size=32).eval())
    works = {node.name: work for node, work in node_work(graph, 32)}
    softmax = works["blocks.0.attention.softmax"]
    tokens = 5
    assert softmax == Work(
        attention_products=2 * 3 * tokens**2 * 64, outputs=3 * tokens**2 + 192 * tokens, exponentials=3 * tokens**2,
        softmax_rows=3 * tokens,
    )  # fmt: skip
    assert works["blocks.0.attention.norm"] == Work(normalised=192 * tokens, normalised_rows=tokens)
    assert works["blocks.0.mlp.fc1"].tables == 4 * 192 * tokens
    assert replace(works["blocks.0.mlp.fc2"], weights=0).residuals == 192 * tokens
