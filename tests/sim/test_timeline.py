"""Layer times from timelines."""

import numpy as np

from compiler.program import Program
from hw.control.descriptors import Engine
from sim.timeline import layer_times
from tests.configs import SMALL

MATMUL, DEPTHWISE = int(Engine.MATMUL), int(Engine.DEPTHWISE)


def test_overlapping_instructions_share_their_engine() -> None:
    program = Program(
        image=b"", config_hash=0, input_bytes=0, result_bytes=0, stored=(), predicted_cycles=0,
        timeline=(
            (MATMUL, "a", 10 * SMALL.macs, 0, 10), (DEPTHWISE, "b", 0, 5, 20), (MATMUL, "a", 6 * SMALL.macs, 8, 18),
        ),
    )  # fmt: skip
    a, b = layer_times(SMALL, program, np.array([[0, 12], [6, 22], [9, 20]]))
    assert (a.node, a.start, a.end, a.predicted_end, b.start, b.end) == ("a", 0, 20, 18, 6, 22)
    assert a.engine_cycles == 12 + 8  # the second one waits until cycle 12
    assert a.predicted_engine_cycles == 10 + 8
    assert a.utilisation == 16 / 20
    assert b.engines == ("depthwise",)
