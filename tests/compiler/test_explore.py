"""The explorer: bounds are bounds, the front is a front, and pruning loses none of it."""

import random

import pytest

from compiler.compile import compile_network
from compiler.devices import DEVICES
from compiler.errors import CompileError
from compiler.explore import Candidate, candidates, explore, least_cycles, predict
from compiler.shapes import infer_shapes
from hw.config import CONFIGS
from tests.configs import SMALL, quantizer_settings
from tests.quant.support import tiny_network


def made_up(count: int) -> list[Candidate]:
    """Candidates whose cycles are twice the bound, in `config.name`."""
    generator = random.Random(1)
    result = []
    for index in range(count):
        bound, share = generator.uniform(100, 1000), generator.uniform(0.1, 1)
        result.append(Candidate(CONFIGS["base"].replace(name=str(index)), {}, share, bound))
    return result


def test_the_front_is_that_of_all_candidates() -> None:
    found = made_up(200)
    cycles = {c.config.name: c.bound * random.Random(c.config.name).uniform(1, 1.5) for c in found}
    compiled = []

    def predicted(configs: list) -> list[dict]:
        compiled.extend(configs)
        return [{"cycles": cycles[config.name]} for config in configs]

    front = explore(found, predicted, limit=1000)
    expected = [
        c.config.name
        for c in found
        if not any(cycles[o.config.name] <= cycles[c.config.name] and o.share <= c.share for o in found if o is not c)
    ]
    assert {p.candidate.config.name for p in front} == set(expected)
    assert [p.cycles for p in front] == sorted(p.cycles for p in front)
    assert len(compiled) < len(found)  # pruned


def test_obstacles_and_the_limit() -> None:
    asked = []

    def predicted(configs: list) -> list[dict]:
        asked.extend(configs)
        return [{"obstacle": "too small"}] * len(configs)

    seen = []
    assert explore(made_up(50), predicted, limit=20, progress=lambda *done: seen.append(done)) == []
    assert len(asked) == 20
    assert seen[-1] == (20, 20)


@pytest.mark.parametrize("batch", [1, 2])
def test_no_program_is_faster_than_the_bound(batch: int) -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    bound = least_cycles(network, infer_shapes(network), SMALL, batch)
    assert 0 < bound < compile_network(network, SMALL, batch=batch).predicted_cycles / batch


def test_predictions_name_cycles_or_the_obstacle() -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    program = compile_network(network, SMALL)
    assert predict(network, SMALL, 1) == {"cycles": program.predicted_cycles, "macs": program.macs}
    assert "no scratchpad has room" in predict(network, SMALL.replace(pad_words=(16,) * 4), 1)["obstacle"]


def test_candidates_fit_the_device_and_the_network() -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    device = DEVICES["ecp5-85"]
    found = candidates(network, device, SMALL)
    assert found
    for candidate in found:
        assert all(share <= 1 for share in device.shares(candidate.used).values())
        assert 16 % candidate.config.in_lanes == 0  # heads have 16 channels
        assert candidate.config.act_bits == SMALL.act_bits


def test_networks_that_fit_no_lanes_are_refused() -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    with pytest.raises(CompileError, match="raise weight_bits"):
        candidates(network, DEVICES["ecp5-85"], SMALL.replace(weight_bits=4))
