"""Fits the coefficients of `compiler.resources` to open synthesis of small accelerators and of the named ones.

Some accelerators are synthesized unit by unit (see `hw.synthesis`); their cells are added up by the units of the
estimate. The error of the fit is that of each accelerator, predicted from the others.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np

from compiler.resources import KINDS, UNITS, features, hardware_digest, unmeasured
from hw.config import CONFIGS, AcceleratorConfig, Multipliers
from hw.synthesis import map_units
from hw.verilog import TOP, generate_verilog

__all__ = ["SAMPLES", "Sample", "calibrate", "fit", "measure"]

#: what is measured of one accelerator: cells by unit and kind
Units = dict[str, dict[str, float]]
Sample = tuple[AcceleratorConfig, Units]
Progress = Callable[[float, str], None]

_MIDDLE = AcceleratorConfig(
    name="middle", pixels=4, in_lanes=8, out_lanes=8, dw_pixels=2, requant_channels=4, bus_bits=128, bus_ports=1,
    stream_bits=128, state_lanes=4, pad_words=(1024,) * 4, weight_buffer_words=256, parameter_buffer_words=256,
)  # fmt: skip
_FEW_BITS = AcceleratorConfig(
    name="few bits", pixels=3, in_lanes=16, out_lanes=16, dw_pixels=3, requant_channels=8, act_bits=4, weight_bits=4,
    state_bits=4, bus_bits=64, bus_ports=2, stream_bits=256, state_lanes=8, acc_bits=20, table_index_bits=8,
    divisor_mantissa_bits=4, pad_words=(2048,) * 4, weight_buffer_words=128, parameter_buffer_words=128,
    state_tiles=32, acc_depth=64, multiplier=Multipliers.DSP48E2,
)  # fmt: skip
_PICO, _NANO, _BASE = CONFIGS["pico"], CONFIGS["nano"], CONFIGS["base"]
_SMALL_BASE = _BASE.replace(
    name="small", pixels=2, dw_pixels=2, requant_channels=4, state_lanes=4, logic_engines=True, logic_requantizers=True
)
_PLAIN = (
    _MIDDLE.replace(name="plain middle", multiplier=Multipliers.PLAIN),
    _FEW_BITS.replace(name="plain few bits", multiplier=Multipliers.PLAIN, logic_requantizers=True),
)

#: accelerators to measure, by family; they differ in every size, and most have much Verilog in common
SAMPLES: dict[str, tuple[AcceleratorConfig, ...]] = {
    "xcup": (_BASE, _SMALL_BASE, _NANO, _PICO, _MIDDLE, _FEW_BITS),
    "xc7": (_NANO, _PICO, *_PLAIN),
    "ecp5": (_NANO, _PICO, *_PLAIN),
    "gowin": (_NANO, _PICO, *_PLAIN),
}
ENOUGH = 3  #: accelerators without one of which the others still say something
PRIOR = 1e-4  #: weight of the belief that all features of a unit matter alike, against that of a measurement

#: units of the estimate, by the place of modules below the top; what is not listed belongs to the unit around it
PLACES = {
    "": "control",
    "core.arbiter": "streams",
    "core.matmul_stream": "streams",
    "core.depthwise_stream": "streams",
    "core.norm_stream": "streams",
    "core.scratchpads": "scratchpads",
    "core.states": "states",
    "core.load": "loader",
    "core.store": "storer",
    "core.matmul": "matmul",
    "core.matmul.array": "MAC array",
    "core.matmul.accumulators": "accumulators",
    "core.matmul.requantizer": "requantizer",
    "core.depthwise": "depthwise",
    "core.depthwise.accumulators": "depthwise accumulators",
    "core.depthwise.drain.requantizer": "depthwise requantizer",
    "core.attention": "attention",
    "core.norm": "norm",
    "core.norm.requantizer": "norm requantizer",
}

#: kind and number of sites that a cell takes, by patterns of cell names
SITES: dict[str, tuple[tuple[str, str, float], ...]] = {
    "xilinx": (
        (r"LUT[1-6]|SRL\w+|RAM(32|64)X1S", "lut", 1),
        (r"RAM(32|64)X1D", "lut", 2),
        (r"RAM(32|64)M", "lut", 4),
        (r"RAM128X1D", "lut", 4),
        (r"RAM32M16|RAM64M8", "lut", 8),
        (r"FD[RSCP]E", "flip_flop", 1),
        (r"RAMB36E[12]", "block_ram", 1),
        (r"RAMB18E[12]", "block_ram", 0.5),
        (r"DSP48E[12]", "dsp", 1),
    ),
    "ecp5": (
        (r"LUT4", "lut", 1),
        (r"CCU2C", "lut", 2),
        (r"TRELLIS_DPR16X4", "lut", 6),  # four LUTs of memory, and the two of the slice that writes them
        (r"TRELLIS_FF", "flip_flop", 1),
        (r"DP16KD", "block_ram", 1),
        (r"MULT18X18D", "dsp", 1),
    ),
    "gowin": (
        (r"LUT[1-4]|ALU", "lut", 1),
        (r"RAM16SDP4", "lut", 4),
        (r"DFF\w*", "flip_flop", 1),
        (r"SDPX?9?B?|DPX?9?B?", "block_ram", 1),
        (r"MULT9X9", "dsp", 0.5),
        (r"MULT18X18", "dsp", 1),
        (r"MULT36X36", "dsp", 4),
    ),
}  # fmt: skip


def calibrate(work_dir: Path, targets: Sequence[str], known: dict, progress: Progress | None = None) -> dict:
    """Measure the samples of some targets, and fit; returns the content of resources.json.

    `known` is such a content, whose measurements of other targets are kept. Takes minutes per accelerator the first
    time; netlists of units stay in `work_dir`. Raises `SynthesisError`.
    """
    jobs = [(target, config) for target in targets for config in SAMPLES[target]]
    samples = {target: list(entries) for target, entries in known.get("samples", {}).items() if target not in targets}
    for index, (target, config) in enumerate(jobs):

        def report(done: int, units: int, index: int = index, what: str = f"{config.name} on {target}") -> None:
            if progress:
                progress((index + done / units) / len(jobs), what)

        units = measure(config, target, work_dir, report)
        samples.setdefault(target, []).append({"config": asdict(config), "units": units})
    hardware = known.get("hardware", {}) | dict.fromkeys(targets, hardware_digest())
    return {"hardware": hardware, **fit({target: samples[target] for target in SAMPLES if target in samples})}


def measure(
    config: AcceleratorConfig, target: str, work_dir: Path, progress: Callable[[int, int], None] | None = None
) -> Units:
    """Synthesize an accelerator, and add its cells up by the units of the estimate."""
    work_dir.mkdir(parents=True, exist_ok=True)
    verilog = work_dir / "sample.v"
    verilog.write_text(generate_verilog(config))
    cells = {
        name: Counter(cell["type"] for cell in netlist["cells"].values())
        for name, netlist in map_units(verilog, target, work_dir, progress=progress)
    }
    units: dict[str, Counter[str]] = {unit: Counter() for unit in UNITS}
    _add_up(TOP, PLACES[""], 1, cells, units)
    return {unit: _sites(content, target) for unit, content in units.items()}


def _add_up(module: str, unit: str, instances: int, cells: dict[str, Counter[str]], units: dict[str, Counter]) -> None:
    """Add the cells of a module and of all below it; shared modules have no place, and belong to who instantiates."""
    place = module.removeprefix(TOP).removeprefix(".").partition("$")[0]
    if module.startswith(f"{TOP}."):
        unit = PLACES.get(place, unit)
    for cell, count in cells[module].items():
        if cell in cells:
            _add_up(cell, unit, instances * count, cells, units)
        else:
            units[unit][cell] += instances * count


def _sites(cells: Counter[str], target: str) -> dict[str, float]:
    sites = dict.fromkeys(KINDS, 0.0)
    for pattern, kind, weight in SITES.get(target, SITES["xilinx"]):
        sites[kind] += weight * sum(count for name, count in cells.items() if re.fullmatch(pattern, name))
    return sites


def fit(samples: dict[str, list[dict]]) -> dict:
    """Measurements with their coefficients and errors, as resources.json has them."""
    coefficients, errors = {}, {}
    for target, entries in samples.items():
        measured = [(AcceleratorConfig.from_json(json.dumps(s["config"])), s["units"]) for s in entries]
        coefficients[target] = _fit(measured, target)
        errors[target] = _left_out_errors(measured, target) if len(measured) >= ENOUGH else dict.fromkeys(KINDS)
    return {"samples": samples, "coefficients": coefficients, "errors": errors}


def _fit(measured: Sequence[Sample], target: str) -> dict[str, dict[str, dict[str, float]]]:
    return {
        kind: {
            unit: _non_negative(
                [features(config, target, kind, unit) for config, _ in measured],
                [units[unit][kind] for _, units in measured],
            )
            for unit in UNITS
        }
        for kind in KINDS
    }


def _non_negative(rows: Sequence[dict[str, float]], values: Sequence[float]) -> dict[str, float]:
    """The coefficients, none negative, of the least relative squared error: the best of all subsets of features.

    Features that are 0 in all rows have none. What the measurements leave open, equal parts for each feature decide.
    """
    names = sorted({name for row in rows for name, value in row.items() if value})
    if not any(values):
        return dict.fromkeys(names, 0.0)
    y, matrix = np.array(values), np.array([[row.get(name, 0.0) for name in names] for row in rows])
    weights = 1 / (y + 0.02 * y.max() + 1)
    sizes = matrix.max(0)  # coefficients are searched as parts of the largest value
    part = np.full(len(names), y.max() / len(names))
    faint = PRIOR / (1 + y.max())
    system = np.vstack([matrix / sizes * weights[:, None], np.eye(len(names)) * faint])
    right = np.concatenate([y * weights, part * faint])
    best, least = np.zeros(len(names)), float("inf")
    for chosen in (list(c) for size in range(1, len(names) + 1) for c in combinations(range(len(names)), size)):
        solution, *_ = np.linalg.lstsq(system[:, chosen], right, rcond=None)
        error = float(((system[:, chosen] @ solution - right) ** 2).sum())
        if (solution >= 0).all() and error < least:
            best, least = np.zeros(len(names)), error
            best[chosen] = solution
    return {name: float(f"{value:.6g}") for name, value in zip(names, best / sizes)}


def _predict(coefficients: dict, config: AcceleratorConfig, target: str, kind: str, unit: str) -> float:
    known = coefficients[kind][unit]
    return sum(known.get(name, 0.0) * value for name, value in features(config, target, kind, unit).items())


def _left_out_errors(measured: Sequence[Sample], target: str) -> dict[str, float | None]:
    """Mean relative error of whole accelerators, each predicted from the others; of those whose style others have."""
    errors: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for index, (config, units) in enumerate(measured):
        others = [*measured[:index], *measured[index + 1 :]]
        coefficients = _fit(others, target)
        for kind in KINDS:
            if any(unmeasured(features(config, target, kind, unit), coefficients[kind][unit]) for unit in UNITS):
                continue
            actual = sum(units[unit][kind] for unit in UNITS)
            estimate = sum(_predict(coefficients, config, target, kind, unit) for unit in UNITS)
            errors[kind].append(abs(estimate / actual - 1))
    return {kind: float(f"{np.mean(values):.3g}") if values else None for kind, values in errors.items()}
