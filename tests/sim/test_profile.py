"""Accounts of runs in RTL: every cycle has one cause, and the counters of the hardware agree."""

import numpy as np
import pytest

from compiler.compile import compile_network
from hw.control.descriptors import Engine
from hw.verilog import generate_verilog
from sim.activity import read_activity
from sim.profile import CAUSES, Cause, map_widths, profile_run
from sim.runner import MemoryModel, simulate
from sim.trace import COUNTER_CYCLES, trace_events
from tests.configs import SMALL, quantizer_settings
from tests.quant.support import tiny_network


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple]:
    """Two runs of two frames, with a slow memory: (program, report, timeline, activity, profile) of each."""
    work_dir = tmp_path_factory.mktemp("profile")
    network, images = tiny_network(64, **quantizer_settings(SMALL))
    program = compile_network(network, SMALL, batch=2)
    memory, log = MemoryModel(latency=50, stall=0.1), work_dir / "activity.bin"
    result = simulate(
        SMALL, generate_verilog(SMALL), program, images[:4].numpy(), memory=memory, work_dir=work_dir, activity=log
    )
    widths = map_widths(network, program.batch)
    activity = read_activity(log, SMALL)
    found = []
    for index, report in enumerate(result.runs):
        run = activity.run(index)
        timeline = result.timelines[index] + report.began - run.start[0]
        profile = profile_run(SMALL, program, widths, timeline, run)
        found.append((program, report, timeline, run, profile))
    return found


def test_causes_add_up_to_the_run(runs: list[tuple]) -> None:
    assert len(runs) == 2
    for program, report, _, _, profile in runs:
        assert profile.cycles == report.cycles
        assert profile.products.sum() == report.cycles * SMALL.macs
        assert (profile.products >= 0).all()
        assert sum(layer.array_cycles for layer in profile.layers) == pytest.approx(report.cycles)
        useful = sum(row[2] for row in program.timeline if row[0] == Engine.MATMUL)
        assert profile.products[:, CAUSES.index(Cause.USEFUL)].sum() == useful
        for cause in (
            Cause.START,
            Cause.TAIL,
            Cause.MEMORY,
            Cause.WEIGHTS,
            Cause.DEPTHWISE,
            Cause.USEFUL,
            Cause.CHANNELS,
        ):
            assert profile.totals[cause] > 0


def test_engines_agree_with_the_counters(runs: list[tuple]) -> None:
    for program, report, _, _, profile in runs:
        for use in profile.engines:
            assert (use.busy, use.stalled) == (report.busy[use.engine], report.stall[use.engine])
            assert use.instructions == sum(Engine(row[0]).name.lower() == use.engine for row in program.timeline)
            assert 0 <= use.utilisation <= use.occupancy <= 1
            assert all(gap >= 0 for gap in use.gaps)
        assert profile.engines[Engine.MATMUL].gaps


def test_instructions_begin_and_end_while_their_engine_is_busy(runs: list[tuple]) -> None:
    for program, _, timeline, run, _ in runs:
        begin = run.start - run.start[0]
        for row, (taken, done) in zip(program.timeline, timeline.tolist(), strict=True):
            state = np.searchsorted(begin, [taken + 1, done - 2], side="right") - 1  # pulses and flags come late
            assert run.engine("busy", Engine(row[0]))[state].all()


def test_trace(runs: list[tuple]) -> None:
    program, report, timeline, run, profile = runs[0]
    document = trace_events(SMALL, program, timeline, run, profile)
    events = document["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    tracks: dict[tuple[int, int], list[dict]] = {}
    for event in slices:
        tracks.setdefault((event["pid"], event["tid"]), []).append(event)
        assert 0 <= event["ts"] <= event["ts"] + event["dur"] <= report.cycles
    for track in tracks.values():  # Perfetto nests what overlaps
        track.sort(key=lambda e: e["ts"])
        assert all(a["ts"] + a["dur"] <= b["ts"] for a, b in zip(track, track[1:]))
    assert sum("instruction" in e["args"] for e in slices) == len(program.timeline)
    assert {"run", "frame 0", "frame 1"} <= {e["name"] for e in slices}
    read = [e["args"]["value"] for e in events if e["name"] == "bytes read per cycle"]
    assert sum(read) * COUNTER_CYCLES == pytest.approx(report.read_bytes, rel=0.01)
