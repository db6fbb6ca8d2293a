"""A profiled run as a timeline for Perfetto (https://ui.perfetto.dev): Chrome trace events, one cycle to a microsecond.

Processes: the engines, with a track per engine and one for the waits of the MAC array; and the frames of the run, with
counters beside them.
"""

from collections.abc import Iterator

import numpy as np

from compiler.program import Program, descriptors
from hw.config import AcceleratorConfig
from hw.control.descriptors import Engine
from sim.activity import Activity
from sim.profile import CAUSES, WORKING, RunProfile
from sim.timeline import held_from

__all__ = ["trace_events"]

COUNTER_CYCLES = 256  #: a value of a counter is the mean of so many cycles
SHORTEST_WAIT = 8  #: cycles; shorter waits of the array are left out
ENGINES, FRAMES = 1, 2  #: process identifiers
WAITS = len(Engine)  #: track below the engines


def trace_events(
    config: AcceleratorConfig, program: Program, timeline: np.ndarray, activity: Activity, profile: RunProfile
) -> dict[str, object]:
    """The document to write as JSON; `timeline` counts from the first cycle of the activity."""
    events = [*_names(), *_instructions(program, timeline), *_waits(activity, profile)]
    events += [*_frames(config, program, timeline, profile.cycles), *_counters(config, activity)]
    return {"displayTimeUnit": "ms", "otherData": {"unit": "1 us is a cycle"}, "traceEvents": events}


def _slice(name: str, process: int, track: int, start: int, cycles: int, **arguments: object) -> dict[str, object]:
    place = {"pid": process, "tid": track, "ts": int(start), "dur": int(cycles)}
    return {"name": name, "ph": "X", **place, "args": arguments}


def _names() -> Iterator[dict[str, object]]:
    tracks = {(ENGINES, int(engine)): engine.name.lower() for engine in Engine}
    tracks |= {(ENGINES, WAITS): "waits of the MAC array", (FRAMES, 0): "run"}
    for process, name in ((ENGINES, "engines"), (FRAMES, "frames")):
        yield {"name": "process_name", "ph": "M", "pid": process, "args": {"name": name}}
    for (process, track), name in tracks.items():
        yield {"name": "thread_name", "ph": "M", "pid": process, "tid": track, "args": {"name": name}}


def _instructions(program: Program, timeline: np.ndarray) -> Iterator[dict[str, object]]:
    """Slices do not overlap: an instruction's begins when the one before it on its engine is done."""
    engines = np.array([row[0] for row in program.timeline])
    begins = held_from(engines, timeline)
    for index, descriptor in enumerate(descriptors(program.image)):
        engine, node, macs, start, end = program.timeline[index]
        yield _slice(
            node, ENGINES, engine, begins[index], timeline[index, 1] - begins[index],
            instruction=index, taken=int(timeline[index, 0]), done=int(timeline[index, 1]), macs=macs,
            predicted_start=start, predicted_end=end,
            waits={e.name.lower(): count for e, count in zip(Engine, descriptor.waits, strict=True) if count},
            **{name: value for name, value in descriptor.body.items() if isinstance(value, int)},
        )  # fmt: skip


def _waits(activity: Activity, profile: RunProfile) -> Iterator[dict[str, object]]:
    """Stretches in which the array takes no word, by cause."""
    changes = np.flatnonzero(np.diff(profile.causes)) + 1
    bounds = np.concatenate(([0], changes, [len(profile.causes)]))
    begin = activity.start - activity.start[0]
    for first, last in zip(bounds[:-1], bounds[1:], strict=True):
        cause = CAUSES[profile.causes[first]]
        cycles = begin[last - 1] + activity.cycles[last - 1] - begin[first]
        if cause not in WORKING and cycles >= SHORTEST_WAIT:
            yield _slice(cause.value, ENGINES, WAITS, begin[first], cycles)


def _frames(
    config: AcceleratorConfig, program: Program, timeline: np.ndarray, cycles: int
) -> Iterator[dict[str, object]]:
    """The run, and each frame from its first image row to the end of its pooling."""
    yield _slice("run", FRAMES, 0, 0, cycles)
    spans: dict[int, list[int]] = {}
    for (taken, done), frame in zip(timeline.tolist(), _frame_numbers(config, program), strict=True):
        if frame is not None:
            span = spans.setdefault(frame, [taken, done])
            span[1] = max(span[1], done)
    for frame, (begin, end) in spans.items():
        yield _slice(f"frame {frame}", FRAMES, 1 + frame, begin, end - begin)


def _frame_numbers(config: AcceleratorConfig, program: Program) -> list[int | None]:
    """The frame of each instruction that loads image rows or pools; None of others."""
    instructions = descriptors(program.image)
    pooled = [d.body["destination"] for d in instructions if d.engine == Engine.ATTENTION and d.body["pool"]]
    first = min((view["start"] for view in pooled), default=0)
    numbers: list[int | None] = []
    for descriptor in instructions:
        body, number = descriptor.body, None
        if descriptor.engine == Engine.LOAD and not body["stored"]:
            number = body["address"] * program.batch // program.input_bytes
        elif descriptor.engine == Engine.ATTENTION and body["pool"]:
            # Frames are pixels of the pooled map, whose blocks lie `row_stride` words apart.
            group = (body["destination"]["start"] - first) % body["destination"]["row_stride"]
            number = group * config.pixels + body["pixel"]
        numbers.append(number)
    return numbers


def _counters(config: AcceleratorConfig, activity: Activity) -> Iterator[dict[str, object]]:
    beats = {
        name: sum(activity.columns[name] >> port & 1 for port in range(config.bus_ports)) * config.bus_bytes
        for name in ("reads", "writes")
    }
    counters = {
        "bytes read per cycle": beats["reads"],
        "bytes written per cycle": beats["writes"],
        "MAC array at work, %": 100 * activity.columns["matmul_issue"],
        "depthwise multipliers at work, %": 100 * activity.columns["depthwise"],
    }
    for name, values in counters.items():
        for index, value in enumerate(_binned(activity, values).tolist()):
            yield {"name": name, "ph": "C", "pid": FRAMES, "ts": index * COUNTER_CYCLES, "args": {"value": value}}


def _binned(activity: Activity, values: np.ndarray) -> np.ndarray:
    """Means over `COUNTER_CYCLES` of a value that each state has."""
    total = np.concatenate(([0], np.cumsum(values * activity.cycles)))
    ends = np.concatenate(([0], np.cumsum(activity.cycles)))
    edges = np.arange(0, ends[-1] + COUNTER_CYCLES, COUNTER_CYCLES)
    return np.round(np.diff(np.interp(edges, ends, total)) / COUNTER_CYCLES, 2)
