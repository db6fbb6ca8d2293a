"""What a timeline says about each layer: when it ran, how long it held its engines, how well they worked."""

from dataclasses import dataclass

import numpy as np

from compiler.program import Program
from hw.config import DW_TAPS, AcceleratorConfig
from hw.control.descriptors import Engine

__all__ = ["LayerTime", "held_from", "layer_times", "macs_per_cycle"]


@dataclass(frozen=True)
class LayerTime:
    """One node of the network in one frame; cycles count from the frame's start."""

    node: str
    engines: tuple[str, ...]
    macs: int
    start: int
    end: int
    predicted_start: int
    predicted_end: int
    engine_cycles: int  #: cycles that its instructions held their engines, summed
    predicted_engine_cycles: int
    utilisation: float  #: useful multiply-accumulates over those that its engines could have done in `engine_cycles`


def macs_per_cycle(config: AcceleratorConfig) -> dict[Engine, int]:
    """Peak rate of the engines that multiply."""
    return {
        Engine.MATMUL: config.macs,
        Engine.DEPTHWISE: config.dw_pixels * config.in_lanes * DW_TAPS,
        Engine.ATTENTION: config.in_lanes * config.key_group,
    }


def layer_times(config: AcceleratorConfig, program: Program, timeline: np.ndarray) -> list[LayerTime]:
    """Per node, from a measured `timeline` (instructions, 2) in program order; see `SimulationResult.timelines`."""
    engines = np.array([row[0] for row in program.timeline])
    nodes = np.array([row[1] for row in program.timeline])
    macs = np.array([row[2] for row in program.timeline])
    predicted = np.array([row[3:5] for row in program.timeline])
    held, predicted_held = _held(engines, timeline), _held(engines, predicted)
    rates = macs_per_cycle(config)
    capacity = np.array([rates.get(Engine(e), 0) for e in engines]) * held
    result = []
    for node in dict.fromkeys(nodes.tolist()):
        own = nodes == node
        result.append(
            LayerTime(
                node=node,
                engines=tuple(sorted({Engine(e).name.lower() for e in engines[own]})),
                macs=int(macs[own].sum()),
                start=int(timeline[own, 0].min()),
                end=int(timeline[own, 1].max()),
                predicted_start=int(predicted[own, 0].min()),
                predicted_end=int(predicted[own, 1].max()),
                engine_cycles=int(held[own].sum()),
                predicted_engine_cycles=int(predicted_held[own].sum()),
                utilisation=float(macs[own].sum() / max(capacity[own].sum(), 1)),
            )
        )
    return result


def _held(engines: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Cycles that each instruction held its engine."""
    return np.maximum(times[:, 1] - held_from(engines, times), 0)


def held_from(engines: np.ndarray, times: np.ndarray) -> np.ndarray:
    """When each instruction had its engine for itself: from its start, or the end of the one before."""
    begin = np.zeros(len(engines), np.int64)
    for engine in np.unique(engines):
        own = np.flatnonzero(engines == engine)
        start, end = times[own].T
        begin[own] = np.maximum(start, np.concatenate(([0], end[:-1])))
    return begin
