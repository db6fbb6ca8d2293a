"""The stages of the flow. Each reads the bundle, writes the bundle, and returns what it found out."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from compiler.calibration import calibrate
from compiler.compile import compile_network
from compiler.devices import DEVICES, Device
from compiler.explore import candidates, explore
from compiler.program import Program, descriptors
from compiler.rehearsal import MemoryTiming
from compiler.resources import TABLE, estimate_resources
from hw.config import AcceleratorConfig
from hw.control.descriptors import Engine
from hw.place_route import place_and_route
from hw.synthesis import synthesize
from hw.verilog import generate_verilog, interface_description
from quant.ablation import ROWS, Subject, ablate
from quant.data import Dataset, load_dataset
from quant.divisors import divisor_table
from quant.evaluate import FloatNetwork, compare, digest, float_classifier, model_fingerprint, signal_to_noise
from quant.graph import FloatGraph
from quant.integer_network import IntegerNetwork
from quant.mixed_precision import within_budget
from quant.models import efficientnet_lite, vit_s14
from quant.models.checkpoint import CheckpointInfo, is_own_checkpoint, read_checkpoint
from quant.models.efficientvit import EfficientViT
from quant.models.loaders import evaluation_crop, load_checkpoint
from quant.models.random_weights import random_model
from quant.models.registry import MODELS, at_size, build_model, model_name
from quant.predictions import PredictionFile, predict
from quant.progress import part_of
from quant.qat.checkpoint import is_trained_checkpoint, read_trained
from quant.qat.export import integer_network, quantizer_config
from quant.qat.network import QuantizedGraph
from quant.quantize import QuantizerConfig, Reconstruction, quantize
from quant.stress import CALIBRATION_IMAGES, widen_ranges
from quant.tables import gelu_rows, power_rows, reciprocal_rows, root_rows
from quant.workload import total
from sim.activity import read_activity
from sim.compare import Boundary, compare_frame, first_mismatch
from sim.netlist import netlist_verilog
from sim.profile import map_widths, profile_run
from sim.runner import MemoryModel, SimulationResult, simulate
from sim.timeline import layer_times
from sim.trace import trace_events
from vitsmith.ablation import ablation_markdown, ablation_picture
from vitsmith.benchmark import benchmark_job, benchmark_markdown, machine
from vitsmith.bundle import Bundle, BundleError, write_if_changed
from vitsmith.comparison import PUBLISHED, comparison_markdown
from vitsmith.divisors import divisor_markdown, reciprocal_cost
from vitsmith.explore import exploration_markdown, exploration_picture, point_document, predict_job
from vitsmith.jobs import code_digest, run_jobs
from vitsmith.profile import profile_page
from vitsmith.tables import tables_markdown
from vitsmith.workload import lanes, workload_markdown

__all__ = [
    "ablation_stage",
    "benchmark_stage",
    "calibrate_stage",
    "comparison_stage",
    "compile_stage",
    "divisors_stage",
    "estimate_stage",
    "evaluate_stage",
    "explore_stage",
    "generate_stage",
    "profile_stage",
    "quantize_stage",
    "route_stage",
    "simulate_stage",
    "synthesize_stage",
    "tables_stage",
    "workload_stage",
]

#: told how much of the work is done, 0..1, and what is going on
Progress = Callable[[float, str], None]

#: training images that `quantize` calibrates with, and test images on which the noise of every layer is measured
OBSERVED_IMAGES, NOISE_IMAGES = 512, 64

#: a DDR memory as a mid-range board has it: 64 bytes per cycle at most, 60 cycles latency, pauses
DEFAULT_MEMORY = MemoryModel(latency=60, bytes_per_cycle=64, stall=0.02)


def load_model(source: str, data: str | None, size: int | None) -> tuple[FloatNetwork, CheckpointInfo]:
    """A trained network and its origin: a checkpoint of this project, trained with or without quantization, an official
    or timm checkpoint (give `data` and `size`), `stress:CHECKPOINT`, a checkpoint of this project made hard to quantize
    (see `quant.stress`), `efficientnet-lite0` with its ImageNet weights, `vit-s14`, a trained backbone without classes,
    or `random:NAME`, random weights for NAME in `quant.models.registry.MODELS` (give `size`).
    """
    if source == "vit-s14":
        info = _imagenet_info(source, vit_s14.CONFIG.num_classes, size or vit_s14.CONFIG.size, data or "cifar10")
        return vit_s14.load_vit_s14(info.size), info
    if source == "efficientnet-lite0":
        return efficientnet_lite.load_efficientnet_lite0(), replace(
            _imagenet_info(source, efficientnet_lite.CLASSES, size or efficientnet_lite.SIZE, data or "cifar10"),
            mean=efficientnet_lite.MEAN,
            std=efficientnet_lite.STD,
            crop_ratio=efficientnet_lite.CROP_RATIO,
        )
    if source.startswith("stress:"):
        model, info = load_model(source.removeprefix("stress:"), data, size)
        if not isinstance(model, EfficientViT):
            raise BundleError(f"stress: is for EfficientViT, whose expansions it widens; {source} is not one")
        images = _dataset(info, "train").sample(CALIBRATION_IMAGES)
        return widen_ranges(model, images, info.mean, info.std), replace(info, top1=None)
    if source.startswith("random:"):
        name = source.removeprefix("random:")
        if name not in MODELS:
            raise BundleError(f"no network called '{name}'; known are {', '.join(MODELS)}")
        config = MODELS[name]
        info = _imagenet_info(name, config.num_classes, size or getattr(config, "size", 224), data or "noise")
        return random_model(config, info.size, info.mean, info.std, info.seed), info
    path = Path(source)
    if is_trained_checkpoint(path):
        model, info = read_trained(path)
        if (size or info.size) != info.size:
            raise BundleError(f"{source} was trained with quantization, for {info.size} pixels only")
        return model, replace(info, data=data or info.data)
    if is_own_checkpoint(path):
        model, info = read_checkpoint(path)
        return at_size(model, size or info.size), replace(info, size=size or info.size, data=data or info.data)
    model = load_checkpoint(path, size=size)
    if data is None:
        raise BundleError(f"{source} does not say what data it is for; give --data FOLDER (and --size, default 224)")
    config = model.config
    info = _imagenet_info(model_name(config), config.num_classes, size or getattr(config, "size", 224), data)
    return model, replace(info, crop_ratio=evaluation_crop(path, info.size))


def _imagenet_info(name: str, classes: int, size: int, data: str) -> CheckpointInfo:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return CheckpointInfo(
        model=name, num_classes=classes, size=size, mean=mean, std=std, data=data, top1=None, seed=0, command=""
    )


def _dataset(info: CheckpointInfo, split: str) -> Dataset:
    return load_dataset(info.data, split, info.size, crop_ratio=info.crop_ratio)


def _check_classes(info: CheckpointInfo) -> None:
    if not info.num_classes:
        raise BundleError(f"{info.model} has no classes to compare; `vitsmith noise` measures its features")


def quantize_stage(
    bundle: Bundle,
    checkpoint: str,
    config: AcceleratorConfig,
    *,
    data: str | None = None,
    size: int | None = None,
    calibration_images: int | None = None,
    observer: str = "mse",
    reconstruct: bool = False,
    weight_budget: float | None = None,
    activation_budget: float | None = None,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Quantize a network (see `load_model`) with the accelerator's bit-widths, on training images drawn at random: 512,
    or, if it was trained through the integer operations, those whose scales it has seen.

    `reconstruct` adapts the blocks (minutes); with a `weight_budget`, layers have weights of 8 or 4 bits, and so many
    on average; with an `activation_budget`, so do the elements of maps.
    """
    model, info = load_model(checkpoint, data, size)
    seen = model.config.stream_images if isinstance(model, QuantizedGraph) else 0
    images = _dataset(info, "train").sample(calibration_images or seen or OBSERVED_IMAGES)
    settings = QuantizerConfig(
        weight_bits=config.weight_bits,
        act_bits=config.act_bits,
        state_bits=config.state_bits,
        divisor_mantissa_bits=config.divisor_mantissa_bits,
        table_index_bits=config.table_index_bits,
        observer=observer,
        reconstruction=Reconstruction() if reconstruct else None,
    )
    if weight_budget is not None or activation_budget is not None:
        _check_classes(info)
        report, progress = part_of(progress, 0.0, 0.5), part_of(progress, 0.5, 1.0)
        budgets = {"weights": weight_budget, "activations": activation_budget}
        settings = within_budget(model, images, info.mean, info.std, settings, **budgets, progress=report)
    if isinstance(model, QuantizedGraph):
        network, settings = _learned_network(model, images, info, settings, progress)
    else:
        network = quantize(model, images, info.mean, info.std, settings, progress)
    bundle.path.mkdir(parents=True, exist_ok=True)
    network.save(bundle.network_file)
    write_if_changed(bundle.config_file, config.to_json() + "\n")
    document = {
        "checkpoint": checkpoint,
        "checkpoint_top1": info.top1,
        "model": info.model,
        "size": info.size,
        "data": info.data,
        "calibration_images": len(images),
        "quantizer": asdict(settings),
        "nodes": len(network.nodes),
    }
    bundle.write_document("quantize", document)
    return document


def _learned_network(
    model: QuantizedGraph,
    images: np.ndarray,
    info: CheckpointInfo,
    settings: QuantizerConfig,
    progress: Progress | None,
) -> tuple[IntegerNetwork, QuantizerConfig]:
    """The integer network of one that was trained with quantization, and with what configuration it was made."""
    if settings.reconstruction or settings.layer_weight_bits or settings.layer_act_bits:
        raise BundleError(
            "a network that was trained with quantization has its widths and weights; nothing is searched"
        )
    names = ("state_bits", "divisor_mantissa_bits", "table_index_bits", "exp_index_bits", "stream_bits")
    changes = {name: getattr(settings, name) for name in names}
    network = integer_network(model, images, info.mean, info.std, progress, **changes)
    return network, quantizer_config(model, **changes)


def evaluate_stage(bundle: Bundle, *, images: int = 1000, progress: Progress | None = None) -> dict[str, object]:
    """Top-1 of the float, the fake-quantized, and the integer network on the first `images` test images (0: all), and
    the noise of every layer. What was evaluated is kept in the bundle until the network or the images change. Of a
    network without classes, only the noise is measured."""
    quantized = bundle.load_document("quantize")
    network = bundle.load_network()
    model, info = load_model(quantized["checkpoint"], quantized["data"], quantized["size"])
    dataset = _dataset(info, "test")
    comparison = None
    if info.num_classes:
        network_sum = hashlib.sha256(bundle.network_file.read_bytes()).hexdigest()
        key = digest(network_sum, model_fingerprint(model), dataset.fingerprint)
        file = PredictionFile(bundle.predictions_file, key)
        comparison = compare(model, network, dataset, limit=images or None, file=file, progress=progress)
    some, _ = dataset[: min(images or NOISE_IMAGES, NOISE_IMAGES)]
    integer = signal_to_noise(model, network, some)
    fake = {} if isinstance(model, QuantizedGraph) else signal_to_noise(model, network, some, fake=True)
    # Labels of other classes than the network's say nothing about it.
    labelled = comparison is not None and len(dataset.class_names) == info.num_classes
    document = {
        "float_top1": comparison.float_top1 if labelled else None,
        "fake_top1": comparison.fake_top1 if labelled else None,
        "integer_top1": comparison.integer_top1 if labelled else None,
        "fake_agreement": comparison.fake_agreement if comparison else None,
        "agreement": comparison.agreement if comparison else None,
        "output_db": list(integer.values())[-1],
        "test_images": comparison.images if comparison else len(some),
        "signal_to_noise": [
            {"layer": name, "fake_db": fake.get(name), "integer_db": integer[name]} for name in integer
        ],
    }
    bundle.write_document("evaluate", document)
    return document


def ablation_stage(
    folder: Path,
    checkpoints: Sequence[str],
    *,
    data: str | None = None,
    size: int | None = None,
    images: int = 0,
    seeds: int = 3,
    calibration_images: int = 512,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, object]:
    """Measure the rows of `quant.ablation` on networks (see `load_model`), on the first `images` test images (0: all).
    Writes `ablation.json`, `ablation.md`, and `ablation.png` into `folder`, where predictions are kept too."""
    subjects = []
    for checkpoint in checkpoints:
        model, info = load_model(checkpoint, data, size)
        _check_classes(info)
        subjects.append(
            Subject(
                name=checkpoint,
                model=model,
                mean=info.mean,
                std=info.std,
                train=_dataset(info, "train"),
                test=_dataset(info, "test"),
            )
        )
    results = ablate(
        subjects,
        folder / "predictions",
        rows=ROWS,
        seeds=seeds,
        limit=images or None,
        calibration_images=calibration_images,
        progress=progress,
    )
    document = {
        "command": command,
        "calibration_images": calibration_images,
        "configurations": {name: asdict(config) for name, config in ROWS.items()},
        "results": [asdict(result) for result in results],
    }
    write_if_changed(folder / "ablation.json", json.dumps(document, indent=2) + "\n")
    write_if_changed(folder / "ablation.md", ablation_markdown(results, command, calibration_images))
    write_if_changed(folder / "ablation.png", ablation_picture(results))
    return document


def divisors_stage(
    bundle: Bundle, *, images: int = 0, target: str = "xcup", command: str = "", progress: Progress | None = None
) -> dict[str, object]:
    """Error, accuracy, and cost of 0 to 8 mantissa bits of the attention's divisors, on the bundle's network and the
    first `images` test images (0: all). Writes `divisors.json` and `divisors.md`."""
    quantized = bundle.load_document("quantize")
    network, config = bundle.load_network(), bundle.load_config()
    model, info = load_model(quantized["checkpoint"], quantized["data"], quantized["size"])
    _check_classes(info)
    dataset = _dataset(info, "test")
    count = min(images or len(dataset), len(dataset))
    exact = float_classifier(FloatGraph.from_model(model), info.mean, info.std)
    classes = predict({"float": exact}, dataset, limit=count)["float"]
    tested, labels = (torch.from_numpy(x) for x in dataset[:count])
    rows, costs = [], []
    for bits, row in enumerate(divisor_table(network, tested, labels, classes)):
        if progress:
            progress((bits + 1) / 9, f"synthesizing {bits} mantissa bits")
        rows.append(row)
        costs.append(
            reciprocal_cost(config.replace(divisor_mantissa_bits=bits), target, bundle.path / "synthesis-divisors")
        )
    document = {
        "test_images": count,
        "target": target,
        "rows": [asdict(row) | asdict(cost) for row, cost in zip(rows, costs, strict=True)],
    }
    name = quantized["checkpoint"]
    table = divisor_markdown(rows, costs, network=name, images=count, target=target, command=command)
    write_if_changed(bundle.path / "divisors.md", table)
    bundle.write_document("divisors", document)
    return document


def generate_stage(bundle: Bundle, config: AcceleratorConfig | None = None) -> dict[str, object]:
    """Generate the Verilog and its interface description. `config` replaces the bundle's configuration."""
    if config is not None:
        write_if_changed(bundle.config_file, config.to_json() + "\n")
    config = bundle.load_config()
    verilog = generate_verilog(config)
    changed = write_if_changed(bundle.verilog_file, verilog)
    write_if_changed(bundle.interface_file, interface_description(config))
    document = {
        "config": config.name,
        "config_hash": f"{config.hash:016x}",
        "macs_per_cycle": config.macs,
        "verilog": str(bundle.verilog_file),
        "verilog_lines": verilog.count("\n"),
        "interface": str(bundle.interface_file),
    }
    bundle.write_document("generate", document)
    return document | {"changed": changed}


def compile_stage(bundle: Bundle, *, batch: int = 1, memory: MemoryTiming | None = None) -> dict[str, object]:
    """Compile the network for runs of `batch` frames, once as it runs and once storing every layer boundary.

    Cycles and multiply-accumulates are those of one frame; `layers` is about the whole run.
    """
    network, config = bundle.load_network(), bundle.load_config()
    document: dict[str, object] = {}
    for trace in (False, True):
        program = compile_network(network, config, trace=trace, batch=batch, memory=memory)
        program.save(bundle.program_file(trace=trace))
        if not trace:
            document = {
                "program": str(bundle.program_file(trace=False)),
                "program_bytes": len(program.image),
                "instructions": sum(layer["instructions"] for layer in program.layers),
                "batch": batch,
                "macs": program.macs // batch,
                "predicted_cycles": program.predicted_cycles / batch,
                "layers": list(program.layers),
            }
    bundle.write_document("compile", document)
    return document


def synthesize_stage(bundle: Bundle, target: str, *, progress: Progress | None = None) -> dict[str, object]:
    """Resources of the generated accelerator on an FPGA family, and its longest path, by open synthesis."""
    bundle.load_verilog()
    report = progress and (lambda done, count: progress(done / count, f"module {done} of {count}"))
    resources = synthesize(bundle.verilog_file, target, bundle.path / "synthesis", progress=report)
    document = {
        "target": target,
        **resources.kinds,
        "logic_levels": resources.path.levels,
        "longest_path": f"{resources.path.start} -> {resources.path.end}",
        "cells": resources.cells,
        "modules": [
            {"module": m.module, "instances": m.instances, **m.kinds, "logic_levels": m.path.levels}
            for m in sorted(resources.modules, key=lambda m: m.kinds["lut"] * m.instances, reverse=True)
        ],
    }
    bundle.write_document(f"synthesize-{target}", document)
    return document


def route_stage(bundle: Bundle, *, seed: int | None = None, progress: Progress | None = None) -> dict[str, object]:
    """Blocks and clock frequency of the generated accelerator on an ECP5-85F, placed and routed, by some seed of
    nextpnr or its own."""
    bundle.load_verilog()
    placement = place_and_route(bundle.verilog_file, bundle.path / "synthesis", seed=seed, progress=progress)
    slowest = placement.slowest
    used = {kind: f"{used} of {available}" for kind, (used, available) in placement.used.items()}
    document = {
        "device": "ECP5-85F",
        "frequency_mhz": placement.frequency,
        "slowest_path": f"{slowest.start} -> {slowest.end}",
        "logic_ns": slowest.logic,
        "routing_ns": slowest.routing,
        **used,
    }
    bundle.write_document("route", document)
    return document


def estimate_stage(
    bundle: Bundle, *, batch: int = 1, memory: MemoryTiming | None = None, device: str | None = None
) -> dict[str, object]:
    """Predicted cycles per frame of a run of `batch` frames, when each layer runs and what it moves from and to
    external memory, and, if asked, estimated resources on a device, without generating anything."""
    network, config = bundle.load_network(), bundle.load_config()
    resources = _resources(config, find_device(device)) if device else None
    program = compile_network(network, config, batch=batch, memory=memory)
    return {
        "batch": batch,
        "predicted_cycles": program.predicted_cycles / batch,
        "macs": program.macs // batch,
        "mac_utilisation": program.macs / program.predicted_cycles / config.macs,
        "bytes": sum(layer["bytes"] for layer in program.layers) // batch,
        "layers": [
            layer | {"bytes_per_cycle": layer["bytes"] / (layer["end"] - layer["start"])} for layer in program.layers
        ],
        "resources": resources,
    }


def _resources(config: AcceleratorConfig, device: Device) -> dict[str, object]:
    estimate = estimate_resources(config, device.target)
    return {
        "device": device.title,
        "units": estimate.units,
        "total": estimate.total,
        "share": device.shares(estimate.total),
        "error": estimate.error_texts,
        "origin": estimate.origin,
    }


def find_device(name: str) -> Device:
    """A device by name. Raises `BundleError`."""
    if name not in DEVICES:
        raise BundleError(f"no device called '{name}'; known are {', '.join(DEVICES)}")
    return DEVICES[name]


def calibrate_stage(folder: Path, targets: Sequence[str], *, progress: Progress | None = None) -> dict[str, object]:
    """Measure resources of small accelerators on FPGA families, fit the estimate, and put it where it is read."""
    table = calibrate(folder, targets, json.loads(TABLE.read_text()) if TABLE.exists() else {}, progress)
    write_if_changed(TABLE, json.dumps(table, indent=1) + "\n")
    return {"errors": table["errors"], "samples": {target: len(found) for target, found in table["samples"].items()}}


def explore_stage(
    bundle: Bundle,
    device: str,
    *,
    batch: int = 1,
    points: int = 64,
    mhz: float = 200,
    workers: int | None = None,
    scheduler: str | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, object]:
    """The Pareto front of accelerators for the bundle's network on a device; compiles at most `points` of them, in
    processes of this machine or on a Dask cluster (see `vitsmith.jobs`). Writes `explore-DEVICE.json`, `.md`, and
    `.png`; compiled points are kept."""
    chosen, network, base = find_device(device), bundle.load_network(), bundle.load_config()
    if progress:
        progress(0.0, "estimating resources")
    found = candidates(network, chosen, base, batch=batch)
    content, code = bundle.network_file.read_bytes(), code_digest("compiler", "hw")

    def predicted(configs: Sequence[AcceleratorConfig]) -> list[dict[str, object]]:
        jobs = [{"config": c.to_json(), "batch": batch, "code": code} for c in configs]
        return run_jobs(
            predict_job, content, jobs, bundle.path / "explore", workers=workers, scheduler=scheduler
        )  # fmt: skip

    def report(done: int, limit: int) -> None:
        if progress:
            progress(done / limit, f"{done} of at most {limit} accelerators compiled, {len(found):,} fit")

    front = [point_document(point, mhz) for point in explore(found, predicted, points, report)]
    quantized = bundle.load_document("quantize")
    estimate = estimate_resources(base, chosen.target)
    document = {
        "device": chosen.title, "batch": batch, "mhz": mhz, "candidates": len(found), "error": estimate.errors,
        "points": front,
    }  # fmt: skip
    page = exploration_markdown(
        front, device=chosen, network=f"{quantized['model']} at {quantized['size']} pixels", batch=batch, mhz=mhz,
        command=command, estimate=estimate,
    )  # fmt: skip
    write_if_changed(bundle.path / f"explore-{device}.md", page)
    write_if_changed(bundle.path / f"explore-{device}.png", exploration_picture(front, chosen))
    bundle.write_document(f"explore-{device}", document)
    return document


def benchmark_stage(
    folder: Path,
    networks: Sequence[tuple[str, int]],
    configs: Sequence[AcceleratorConfig],
    batches: Sequence[int],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    command: str = "",
    progress: Progress | None = None,
) -> dict[str, object]:
    """Measure cycles per frame of networks with random weights in RTL, on every accelerator that they fit. Writes
    `benchmark.json` and `benchmark.md` into `folder`, where measured cases are kept as long as no code changes."""
    code = code_digest("quant", "compiler", "hw", "sim")
    jobs = [
        {"network": network, "size": size, "batch": batch, "config": config.to_json(), "code": code}
        for batch in batches
        for network, size in networks
        for config in configs
    ]
    report = progress and (lambda done, count: progress(done / count, f"{done} of {count} cases"))
    results = run_jobs(
        benchmark_job, b"", jobs, folder / "cases", workers=workers, scheduler=scheduler, progress=report
    )  # fmt: skip
    rows = []
    for job, result in zip(jobs, results, strict=True):
        config = AcceleratorConfig.from_json(str(job["config"]))
        case = {"network": job["network"], "size": job["size"], "accelerator": config.name}
        rows.append(case | {"macs_per_cycle": config.macs, "batch": job["batch"], **result})
    document = {"command": command, "machine": machine(), "cases": rows}
    write_if_changed(folder / "benchmark.json", json.dumps(document, indent=1) + "\n")
    write_if_changed(folder / "benchmark.md", benchmark_markdown([r for r in rows if "cycles" in r], command))
    return document


def comparison_stage(folder: Path) -> dict[str, object]:
    """Write `comparison.md` from the `benchmark.json` in a folder. Raises `BundleError` if it is missing."""
    file = folder / "benchmark.json"
    if not file.exists():
        raise BundleError(f"{file} is missing; run `vitsmith benchmark --out {folder}` first")
    benchmark = json.loads(file.read_text())
    write_if_changed(folder / "comparison.md", comparison_markdown(benchmark))
    return {"measured": benchmark["cases"], "published": [asdict(p) for p in PUBLISHED]}


def tables_stage(folder: Path, *, command: str = "", progress: Progress | None = None) -> dict[str, object]:
    """Measure what the widths of the tables are worth; writes `tables.json` and `tables.md`."""
    makers = {
        "Powers of two, of the softmax": power_rows(range(2, 11)),
        "Reciprocals, of the softmax": reciprocal_rows(range(11)),
        "Reciprocal square roots, of LayerNorm": root_rows(range(4, 11)),
        "GELU": gelu_rows(range(6, 13)),
    }
    tables = {}
    for index, (title, rows) in enumerate(makers.items()):
        if progress:
            progress(index / len(makers), title)
        tables[title] = list(rows)
    document = {"command": command, "tables": {title: [asdict(x) for x in rows] for title, rows in tables.items()}}
    write_if_changed(folder / "tables.json", json.dumps(document, indent=1) + "\n")
    write_if_changed(folder / "tables.md", tables_markdown(tables, command=command))
    return document


def workload_stage(
    folder: Path, networks: Sequence[str], *, size: int, macs: int, command: str = "", progress: Progress | None = None
) -> dict[str, object]:
    """Count what named networks ask of hardware; writes `workload.json` and `workload.md`."""
    works = {}
    for index, name in enumerate(networks):
        if progress:
            progress(index / len(networks), name)
        if name not in MODELS:
            raise BundleError(f"no network called '{name}'; known are {', '.join(MODELS)}")
        works[name] = total(FloatGraph.from_model(build_model(name, size=size).eval()), size)
    document = {
        "command": command,
        "networks": {name: asdict(work) | {"lanes": lanes(work, macs)} for name, work in works.items()},
    }
    write_if_changed(folder / "workload.json", json.dumps(document, indent=1) + "\n")
    write_if_changed(folder / "workload.md", workload_markdown(works, macs, size=size, command=command))
    return document


def simulate_stage(
    bundle: Bundle,
    *,
    frames: int = 100,
    boundary_frames: int = 8,
    memory: MemoryModel | None = None,
    waveform: bool = False,
    netlist: bool = False,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Run test images through the RTL, or its `netlist` of ECP5 cells, and compare every class score with the integer
    network; for the first `boundary_frames` images, compare every layer boundary too."""
    quantized = bundle.load_document("quantize")
    network, config = bundle.load_network(), bundle.load_config()
    dataset = load_dataset(quantized["data"], "test", network.input.size)
    images, labels = dataset[: max(frames, boundary_frames)]
    document, result = simulate_images(
        bundle,
        images,
        frames=frames,
        boundary_frames=boundary_frames,
        memory=memory,
        waveform=waveform,
        netlist=netlist,
        progress=progress,
    )
    if frames:
        document["rtl_top1"] = float((result.scores.argmax(1) == labels[:frames]).mean())
    document["mac_utilisation"] = bundle.load_document("compile")["macs"] / document["cycles_per_frame"] / config.macs
    bundle.write_document("simulate", document)
    return document


def simulate_images(
    bundle: Bundle,
    images: np.ndarray,
    *,
    frames: int,
    boundary_frames: int,
    memory: MemoryModel | None = None,
    waveform: bool = False,
    netlist: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, object], SimulationResult]:
    """`simulate_stage` on given images (N, size, size, 3) uint8."""
    if not frames:
        raise BundleError("nothing to simulate: ask for at least one frame")
    network, config, verilog = bundle.load_network(), bundle.load_config(), bundle.load_verilog()
    memory = memory or DEFAULT_MEMORY
    work_dir = bundle.path / "simulation"
    boundaries: list[Boundary] = []
    total = frames + boundary_frames

    def report(offset: int, what: str) -> Callable[[int, int], None] | None:
        return progress and (lambda done, count: progress((offset + done) / total, f"{what} {done} of {count}"))

    if netlist:
        modules = progress and (lambda done, count: progress(0.0, f"synthesis: module {done} of {count}"))
        verilog = netlist_verilog(bundle.verilog_file, bundle.path / "synthesis", modules)
    if progress:
        progress(0.0, "building the simulator")
    if boundary_frames:
        program = bundle.load_program(trace=True)
        traced = simulate(
            config, verilog, program, images[:boundary_frames], memory=memory, work_dir=work_dir / "trace",
            progress=report(0, "layer boundaries of frame"),
        )  # fmt: skip
        reference = network.run(torch.from_numpy(images[:boundary_frames]), trace=True)
        for index in range(boundary_frames):
            codes = {name: tensor[index].numpy() for name, tensor in reference.items()}
            run, frame = divmod(index, program.batch)
            area, written = traced.results[run], traced.write_cycles[run]
            boundaries += compare_frame(config, program, area, codes, written, frame=frame)
    program = bundle.load_program()
    wave = work_dir / "frames" / "waves.vcd" if waveform else None
    result = simulate(
        config, verilog, program, images[:frames], memory=memory, work_dir=work_dir / "frames", waveform=wave,
        progress=report(boundary_frames, "frame"),
    )  # fmt: skip
    expected = network.run(torch.from_numpy(images[:frames])).numpy()
    first = first_mismatch(boundaries)
    cycles = float(np.mean([run.cycles for run in result.runs])) / program.batch
    predicted = program.predicted_cycles / program.batch
    return {
        "rtl_frames": frames,
        "boundary_frames": boundary_frames,
        "boundaries_compared": len(boundaries),
        "scores_compared": int(expected.size),
        "rtl_mismatches": int((result.scores != expected).sum()) + sum(b.mismatches for b in boundaries),
        "first_mismatch": asdict(first) if first else None,
        "stray_writes": result.stray_writes,
        "cycles_per_frame": cycles,
        "batch": program.batch,
        "predicted_cycles": predicted,
        "prediction_error": predicted / cycles - 1,
        "simulation_cycles_per_second": result.cycles_per_second,
        "memory": asdict(memory),
        "runs": [asdict(run) for run in result.runs],
        "layers": [asdict(layer) for layer in layer_times(config, program, result.timelines[0])],
        "waveform": str(wave) if wave else None,
    }, result


def profile_stage(
    bundle: Bundle, *, memory: MemoryModel | None = None, progress: Progress | None = None
) -> dict[str, object]:
    """Run the program once in RTL and account for every cycle: see `sim.profile`. Writes `profile.json`,
    `profile.html`, and `trace.json` for Perfetto."""
    quantized = bundle.load_document("quantize")
    network, config, program = bundle.load_network(), bundle.load_config(), bundle.load_program()
    images, _ = load_dataset(quantized["data"], "test", network.input.size)[: program.batch]
    memory = memory or MemoryModel(latency=DEFAULT_MEMORY.latency, bytes_per_cycle=DEFAULT_MEMORY.bytes_per_cycle)
    work_dir = bundle.path / "simulation" / "profile"
    log = work_dir / "activity.bin"
    if progress:
        progress(0.0, "building and running the simulator")
    result = simulate(config, bundle.load_verilog(), program, images, memory=memory, work_dir=work_dir, activity=log)
    mismatches = int((result.scores != network.run(torch.from_numpy(images)).numpy()).sum())
    activity = read_activity(log, config).run(0)
    timeline = result.timelines[0] + result.runs[0].began - activity.start[0]
    profile = profile_run(config, program, map_widths(network, program.batch), timeline, activity)
    streamed = _stream_bytes(config, program)
    document = {
        "model": quantized["model"],
        "size": quantized["size"],
        "config": config.name,
        "batch": program.batch,
        "rtl_mismatches": mismatches,
        "cycles": profile.cycles,
        "predicted_cycles": program.predicted_cycles,
        "prediction_error": program.predicted_cycles / profile.cycles - 1,
        "macs_per_cycle": config.macs,
        "bytes_per_cycle": min(memory.bytes_per_cycle, config.bus_ports * config.bus_bytes),
        "memory": asdict(memory),
        "simulation_cycles_per_second": result.cycles_per_second,
        "trace": str(bundle.path / "trace.json"),
        "page": str(bundle.path / "profile.html"),
        "causes": {cause.value: count for cause, count in profile.totals.items()},
        "engines": [
            asdict(engine)
            | {
                "gaps": list(engine.gaps),
                "mean_gap": float(np.mean(engine.gaps)) if engine.gaps else None,
                "largest_gap": max(engine.gaps, default=None),
            }
            for engine in profile.engines
        ],
        "layers": [
            asdict(layer)
            | {
                "cycles": {cause.value: count for cause, count in layer.cycles.items()},
                "stream_bytes": streamed.get(layer.node, 0),
            }
            for layer in profile.layers
        ],
    }
    trace = trace_events(config, program, timeline, activity, profile)
    write_if_changed(bundle.path / "trace.json", json.dumps(trace) + "\n")
    write_if_changed(bundle.path / "profile.html", profile_page(document))
    bundle.write_document("profile", document)
    return document


def _stream_bytes(config: AcceleratorConfig, program: Program) -> dict[str, int]:
    """Bytes of parameters by node."""
    result: dict[str, int] = {}
    for row, descriptor in zip(program.timeline, descriptors(program.image), strict=True):
        word = config.stream_bits if descriptor.engine == Engine.MATMUL else config.bus_bits
        result[row[1]] = result.get(row[1], 0) + descriptor.body.get("stream_words", 0) * word // 8
    return result
