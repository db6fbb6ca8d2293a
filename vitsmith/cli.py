"""`vitsmith`: quantize, generate, compile, simulate, report."""

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from compiler.devices import DEVICES
from hw.config import CONFIGS, AcceleratorConfig, ConfigError
from vitsmith import console
from vitsmith.bundle import Bundle

__all__ = ["main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

BundleOption = Annotated[Path, typer.Option("--bundle", "-b", help="Folder that all stages share.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ConfigOption = Annotated[
    str, typer.Option("--config", "-c", help=f"Accelerator: {', '.join(CONFIGS)}, or a JSON file of fields.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Change a field of the configuration, e.g. --set pixels=8.")
]
DataOption = Annotated[str | None, typer.Option(help="Data set or folder (default: the checkpoint's).")]
SizeOption = Annotated[int | None, typer.Option(help="Input height and width (default: the checkpoint's, or 224).")]
CalibrationOption = Annotated[int, typer.Option(help="Calibration images.")]
QuantizeImagesOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Calibration images (default: 512; after `train --through-integers`, those that training saw)."
    ),
]
BatchOption = Annotated[
    int, typer.Option(min=1, max=32, help="Frames per run: they overlap, but scores come when the last one is done.")
]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Processes (default: one per processor).")]
SchedulerOption = Annotated[
    str | None, typer.Option(help="Dask scheduler, e.g. tcp://host:8786, whose workers do the work instead.")
]
LatencyOption = Annotated[int, typer.Option(help="Cycles from a read request of external memory to its data.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Images of a training step.")]
BandwidthOption = Annotated[float, typer.Option(help="Bytes per cycle of external memory, all ports together.")]
TargetOption = Annotated[str, typer.Option(help="FPGA family: ecp5, xcup (UltraScale+), xc7, gowin.")]
BoardOption = Annotated[str, typer.Option(help="Which board; `vitsmith boards` lists them.")]
DEFAULT_BUNDLE = Path("build/demo")
LARGEST_MODULES = 20  #: rows of the table that `synthesize` prints
DEFAULT_CHECKPOINT = "quant/checkpoints/b0-cifar10-96.safetensors"

#: how people write 0 and 1 of a field that is one or the other
TRUTH = {"false": 0, "true": 1}


def find_config(name: str, changes: list[str] | None = None) -> AcceleratorConfig:
    """A named configuration or a JSON file, with `field=value` changes. Raises `ConfigError`."""
    if name in CONFIGS:
        config = CONFIGS[name]
    elif Path(name).is_file():
        try:
            config = AcceleratorConfig.from_json(Path(name).read_text())
        except (ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: {error}") from error
    else:
        raise ConfigError(f"no configuration or file called '{name}'; known are {', '.join(CONFIGS)}")
    known = {f.name for f in fields(config)}
    values: dict[str, object] = {}
    for change in changes or []:
        key, _, value = change.partition("=")
        if key not in known or not value:
            raise ConfigError(f"--set {change}: expected FIELD=VALUE, FIELD one of {', '.join(sorted(known))}")
        try:
            if key == "pad_words":
                values[key] = tuple(map(int, value.split(",")))
            else:
                values[key] = value if key in ("name", "multiplier") else int(TRUTH.get(value, value))
        except ValueError:
            raise ConfigError(f"--set {change}: '{value}' is not an integer, true, or false") from None
    return config.replace(**values) if values else config


def _show(title: str, document: dict[str, object], as_json: bool) -> None:
    if as_json:
        console.print_json(document)
        return
    rows = [
        (key, value) for key, value in document.items() if not isinstance(value, (list, dict)) and value is not None
    ]
    console.print_table(title, ("", ""), rows)


@app.command()
def doctor(json: JsonOption = False) -> None:
    """Check that everything the flow needs is installed."""
    from vitsmith.doctor import examine

    findings = examine()
    if json:
        console.print_json({"findings": [asdict(f) for f in findings]})
    else:
        rows = [("ok" if f.ok else "MISSING", f.name, f.purpose, f.detail) for f in findings]
        console.print_table("vitsmith doctor", ("", "what", "needed to", "found, or what to do"), rows)
    if not all(f.ok for f in findings):
        raise typer.Exit(1)


@app.command()
def train(
    out: Annotated[
        Path, typer.Option(help="Checkpoint to write; OUT.state beside it is what a stopped run goes on from.")
    ],
    model: Annotated[str, typer.Option(help="Network: b0 .. b3, deit-t, deit-cifar, swin-t, swin-cifar, ...")] = "b0",
    data: Annotated[str, typer.Option(help="Data set of small images: a name, or a folder.")] = "cifar10",
    schedule: Annotated[str, typer.Option(help="SIZE:EPOCHS,...; only EfficientViT takes several sizes.")] = "32:20",
    minutes: Annotated[float, typer.Option(help="Wall time at most; the learning rate falls to zero by then.")] = 600.0,
    rate: Annotated[
        float | None, typer.Option(help="Peak learning rate (default: goes by the network and the batch).")
    ] = None,
    batch: BatchSizeOption = 128,
    start: Annotated[
        str | None, typer.Option(help="Trained float network to quantize, see `quantize`: it is also the teacher.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(min=2, max=8, help="Train with codes of so many bits; needs --start.")
    ] = None,
    rectify: Annotated[str | None, typer.Option(help="Normalise queries and keys: centred, or rms.")] = None,
    teacher: Annotated[bool, typer.Option("--teacher", help="Learn the classes that the teacher names, too.")] = False,
    guidance: Annotated[float, typer.Option(help="Weight of the teacher's similarity matrices, 1 in the paper.")] = 0.0,
    map_scales: Annotated[str, typer.Option(help="Scales of maps: tensor, or groups (powers of two).")] = "tensor",
    head_scales: Annotated[str, typer.Option(help="Scales of q, k, v, and probabilities: tensor, or head.")] = "head",
    through_integers: Annotated[
        bool, typer.Option("--through-integers", help="Maps take the values of the integer network (slower).")
    ] = False,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of weights, order, and augmentation.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT.state if it exists.")] = False,
    json: JsonOption = False,
) -> None:
    """Train a classifier; with --bits, quantized (Q-ViT): what comes out goes to `quantize` as any checkpoint does.

    Training with --bits ends with a comparison of what was trained with its integer network, on 1,000 test images.
    """
    from vitsmith.training import integers_stage, quantized_settings, train_stage

    settings = quantized_settings(
        bits, rectify=rectify, teacher=teacher, guidance=guidance, map_scales=map_scales, head_scales=head_scales
    )
    options = {"schedule": schedule, "minutes": minutes, "rate": rate, "batch": batch, "seed": seed}
    options |= {"data": data, "precision": precision, "device": device}
    options |= {"start": start, "bits": bits, "rectify": rectify, "guidance": guidance} if bits else {"model": model}
    if bits:
        options |= {"map-scales": map_scales, "head-scales": head_scales}
    words = [f"--{name} {value}" for name, value in options.items() if value is not None]
    flags = {"teacher": teacher, "through-integers": through_integers}
    command = " ".join(["vitsmith train", *words, *(f"--{name}" for name, on in flags.items() if on)])
    document = train_stage(
        out, model, data=data, schedule=schedule, minutes=minutes, rate=rate, batch=batch, start=start,
        settings=settings, through_integers=through_integers, precision=precision, device=device, seed=seed,
        resume=resume, command=command, quiet=json,
    )  # fmt: skip
    if settings:
        document |= integers_stage(out, device=device)
    _show("trained network", document, json)


@app.command()
def quantize(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Checkpoint (own, official, or timm); stress:CHECKPOINT; efficientnet-lite0; vit-s14; random:b1."
        ),
    ] = DEFAULT_CHECKPOINT,
    bundle: BundleOption = DEFAULT_BUNDLE,
    config: ConfigOption = "base",
    changes: SetOption = None,
    data: DataOption = None,
    size: SizeOption = None,
    images: QuantizeImagesOption = None,
    observer: Annotated[str, typer.Option(help="How ranges are chosen: minmax, percentile, mse.")] = "mse",
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Adapt rounding, biases, and steps of every block (minutes).")
    ] = False,
    weight_budget: Annotated[
        float | None, typer.Option(help="Bits per weight on average, 4 to 8; each layer has 4 or 8.")
    ] = None,
    activation_budget: Annotated[
        float | None, typer.Option(help="Bits per element of maps on average, 4 to 8; each map has 4 or 8.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Quantize a trained network to integers, with the bit-widths of an accelerator."""
    from vitsmith.stages import quantize_stage

    with console.progress_bar("quantize") as progress:
        document = quantize_stage(
            Bundle(bundle), checkpoint, find_config(config, changes),
            data=data, size=size, calibration_images=images, observer=observer, reconstruct=reconstruct,
            weight_budget=weight_budget, activation_budget=activation_budget, progress=progress,
        )  # fmt: skip
    _show("quantized network", document, json)


@app.command()
def evaluate(
    bundle: BundleOption = DEFAULT_BUNDLE,
    images: Annotated[int, typer.Option(help="Test images; 0 for all.")] = 0,
    checkpoint: Annotated[
        str | None, typer.Option(help="Quantize this first, see `quantize` (default: the bundle's network).")
    ] = None,
    data: DataOption = None,
    size: SizeOption = None,
    calibration: QuantizeImagesOption = None,
    json: JsonOption = False,
) -> None:
    """Measure accuracy and noise of the quantized network against the float one; a stopped run goes on where it was."""
    from vitsmith.stages import evaluate_stage, quantize_stage

    if checkpoint is None and (data or size):
        raise typer.BadParameter("--data and --size belong to a --checkpoint; the bundle's network has its own")
    if checkpoint is not None:
        with console.progress_bar("quantize") as progress:
            quantize_stage(
                Bundle(bundle), checkpoint, find_config("base"),
                data=data, size=size, calibration_images=calibration, progress=progress,
            )  # fmt: skip
    with console.progress_bar("evaluate") as progress:
        document = evaluate_stage(Bundle(bundle), images=images, progress=progress)
    if not json:
        rows = [(x["layer"], x["fake_db"], x["integer_db"]) for x in document["signal_to_noise"]]
        console.print_table("signal-to-noise ratios in dB", ("layer", "fake-quantized", "integer"), rows)
    _show("accuracy", document, json)


@app.command()
def ablation(
    checkpoints: Annotated[
        list[str] | None, typer.Argument(help="Networks, see `quantize` (default: the demo's, and its stress form).")
    ] = None,
    images: Annotated[int, typer.Option(help="Test images; 0 for all.")] = 0,
    seeds: Annotated[int, typer.Option(help="Choices of calibration images.")] = 3,
    calibration: CalibrationOption = 512,
    data: DataOption = None,
    size: SizeOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the results; a stopped run goes on from what is there.")] = (
        Path("build/ablation")
    ),
    json: JsonOption = False,
) -> None:
    """Measure what each technique of the quantizer is worth: table, picture, and JSON (hours on all images)."""
    from vitsmith.stages import ablation_stage

    chosen = checkpoints or [DEFAULT_CHECKPOINT, f"stress:{DEFAULT_CHECKPOINT}"]
    options = {"images": images, "seeds": seeds, "calibration": calibration, "data": data, "size": size}
    given = [f"--{name} {value}" for name, value in options.items() if value is not None]
    command = " ".join(["vitsmith ablation", *(checkpoints or []), *given])
    with console.progress_bar("ablation") as progress:
        document = ablation_stage(
            out, chosen, data=data, size=size, images=images, seeds=seeds, calibration_images=calibration,
            command=command, progress=progress,
        )  # fmt: skip
    if json:
        console.print_json(document)
    else:
        console.print_markdown((out / "ablation.md").read_text())


@app.command()
def noise(
    checkpoint: Annotated[str, typer.Argument(help="Network, see `quantize`.")] = DEFAULT_CHECKPOINT,
    images: Annotated[int, typer.Option(min=1, help="Test images.")] = 64,
    calibration: CalibrationOption = 512,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Of each block's reconstruction (default: as `quantize --reconstruct`).")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images of an iteration (default: likewise).")] = None,
    data: DataOption = None,
    size: SizeOption = None,
    out: Annotated[Path, typer.Option(help="Folder of the results; a stopped run goes on from what is there.")] = (
        Path("build/noise")
    ),
    json: JsonOption = False,
) -> None:
    """Measure the noise of every layer at W8A8 and W4A8: one scale per tensor, our way, blocks reconstructed too."""
    from quant.config import Reconstruction
    from vitsmith.noise import noise_stage

    settings = {"iterations": iterations, "batch_size": batch}
    reconstruction = Reconstruction(**{name: value for name, value in settings.items() if value is not None})
    options = {"images": images, "calibration": calibration, "iterations": iterations, "batch": batch}
    options |= {"data": data, "size": size}
    given = [f"--{name} {value}" for name, value in options.items() if value is not None]
    command = " ".join([f"vitsmith noise {checkpoint}", *given])
    with console.progress_bar("noise") as progress:
        document = noise_stage(
            out, checkpoint, data=data, size=size, images=images, calibration_images=calibration,
            reconstruction=reconstruction, command=command, progress=progress,
        )  # fmt: skip
    if json:
        console.print_json(document)
    else:
        console.print_markdown((out / "noise.md").read_text())


@app.command(name="training-ablation")
def training_ablation(
    start: Annotated[str, typer.Argument(help="Trained float checkpoint of this project that all runs start from.")],
    schedule: Annotated[str, typer.Option(help="SIZE:EPOCHS of every run.")] = "32:2",
    bits: Annotated[list[int] | None, typer.Option(help="Widths (default: 4 and 2).")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each row.")] = 1,
    minutes: Annotated[float, typer.Option(help="Wall time of a run at most.")] = 600.0,
    batch: BatchSizeOption = 128,
    images: Annotated[int, typer.Option(help="Test images; 0 for all.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the results; a stopped run goes on from what is there.")] = (
        Path("build/training-ablation")
    ),
    device: Annotated[str, typer.Option(help="That trains: cpu, or cuda.")] = "cpu",
    workers: Annotated[int, typer.Option(min=1, help="Runs at a time.")] = 1,
    json: JsonOption = False,
) -> None:
    """Measure what rectification and distillation are worth in training with few bits: table, picture, and JSON."""
    from vitsmith.training_ablation import training_ablation_stage

    options = {"schedule": schedule, "minutes": f"{minutes:g}", "seeds": seeds, "batch": batch, "images": images}
    options |= {"device": device}
    words = [f"--{name} {value}" for name, value in options.items()]
    command = " ".join([f"vitsmith training-ablation {start}", *words, *(f"--bits {width}" for width in bits or [])])
    with console.progress_bar("training ablation") as progress:
        document = training_ablation_stage(
            out, start, schedule=schedule, bits=bits or (4, 2), seeds=seeds, minutes=minutes, batch=batch,
            images=images, device=device, workers=workers, command=command, progress=progress,
        )  # fmt: skip
    if json:
        console.print_json(document)
    else:
        console.print_markdown((out / "training.md").read_text())


@app.command()
def divisors(
    bundle: BundleOption = DEFAULT_BUNDLE,
    images: Annotated[int, typer.Option(help="Test images; 0 for all.")] = 0,
    target: TargetOption = "xcup",
    json: JsonOption = False,
) -> None:
    """Measure what the mantissa bits of the attention's divisors are worth, and what they cost (minutes)."""
    from vitsmith.stages import divisors_stage

    command = f"vitsmith divisors --images {images} --target {target}"
    with console.progress_bar("divisors") as progress:
        document = divisors_stage(Bundle(bundle), images=images, target=target, command=command, progress=progress)
    if json:
        console.print_json(document)
    else:
        console.print_markdown((bundle / "divisors.md").read_text())


@app.command()
def tables(
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("build/tables"), json: JsonOption = False
) -> None:
    """Measure errors and differing codes of softmax, LayerNorm, and GELU by the widths of their tables (a minute)."""
    from vitsmith.stages import tables_stage

    with console.progress_bar("tables") as progress:
        document = tables_stage(out, command="vitsmith tables", progress=progress)
    if json:
        console.print_json(document)
    else:
        console.print_markdown((out / "tables.md").read_text())


@app.command()
def workload(
    networks: Annotated[
        list[str] | None, typer.Argument(help="Names, e.g. deit-s (default: the published ones).")
    ] = None,
    size: Annotated[int, typer.Option(help="Input height and width.")] = 224,
    macs: Annotated[int, typer.Option(min=1, help="8-bit products per cycle of the array that sets the pace.")] = 1792,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("build/workload"),
    json: JsonOption = False,
) -> None:
    """Count products and other elements of networks, and the lanes that keep up with an array of multipliers."""
    from vitsmith.stages import workload_stage

    chosen = networks or ["b1", "deit-t", "deit-s", "deit-b", "swin-t", "swin-s", "swin-b"]
    command = " ".join(["vitsmith workload", *(networks or [])])
    with console.progress_bar("workload") as progress:
        document = workload_stage(out, chosen, size=size, macs=macs, command=command, progress=progress)
    if json:
        console.print_json(document)
    else:
        console.print_markdown((out / "workload.md").read_text())


@app.command()
def generate(
    bundle: BundleOption = DEFAULT_BUNDLE,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Accelerator; default: the bundle's configuration.")
    ] = None,
    changes: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Generate plain Verilog of the accelerator, with a description of its ports."""
    from vitsmith.stages import generate_stage

    chosen = find_config(config or "base", changes) if config or changes else None
    if chosen is None and not Bundle(bundle).config_file.exists():
        chosen = find_config("base")
    with console.progress_bar("generate"):
        document = generate_stage(Bundle(bundle), chosen)
    _show("accelerator", document, json)


@app.command(name="compile")
def compile_command(
    bundle: BundleOption = DEFAULT_BUNDLE,
    batch: BatchOption = 1,
    latency: LatencyOption = 60,
    bandwidth: BandwidthOption = 64,
    json: JsonOption = False,
) -> None:
    """Compile the network into a program for the accelerator, the fastest of some for this memory, by prediction."""
    from compiler.rehearsal import MemoryTiming
    from vitsmith.stages import compile_stage

    memory = MemoryTiming(latency=latency, bytes_per_cycle=bandwidth)
    with console.progress_bar("compile"):
        document = compile_stage(Bundle(bundle), batch=batch, memory=memory)
    _show("program", document, json)


@app.command()
def synthesize(
    bundle: BundleOption = DEFAULT_BUNDLE,
    target: TargetOption = "ecp5",
    json: JsonOption = False,
) -> None:
    """Synthesize the accelerator with Yosys (minutes): checks of all nets, resources, and levels of logic."""
    from vitsmith.stages import synthesize_stage

    with console.progress_bar("synthesize") as progress:
        document = synthesize_stage(Bundle(bundle), target, progress=progress)
    if not json:
        rows = [tuple(module.values()) for module in document["modules"][:LARGEST_MODULES]]
        console.print_table("largest modules, cells per instance", tuple(document["modules"][0]), rows)
    _show("resources", document, json)


@app.command()
def route(
    bundle: BundleOption = DEFAULT_BUNDLE,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of nextpnr: another one may give a faster clock; default: its own.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Place and route the accelerator for an ECP5-85F with nextpnr (hours): blocks used, and clock frequency."""
    from vitsmith.stages import route_stage

    with console.progress_bar("route") as progress:
        document = route_stage(Bundle(bundle), seed=seed, progress=progress)
    _show("ECP5-85F", document, json)


@app.command()
def estimate(
    bundle: BundleOption = DEFAULT_BUNDLE,
    batch: BatchOption = 1,
    device: Annotated[
        str | None, typer.Option(help=f"Estimate resources on this FPGA too: {', '.join(DEVICES)}.")
    ] = None,
    latency: LatencyOption = 60,
    bandwidth: BandwidthOption = 64,
    json: JsonOption = False,
) -> None:
    """Predict cycles and memory traffic of a frame, whole and per layer; with a device, resources unit by unit."""
    from compiler.rehearsal import MemoryTiming
    from vitsmith.stages import estimate_stage

    memory = MemoryTiming(latency=latency, bytes_per_cycle=bandwidth)
    document = estimate_stage(Bundle(bundle), batch=batch, memory=memory, device=device)
    if not json:
        rows = [
            (x["node"], ", ".join(x["engines"]), x["macs"], x["start"], x["end"], x["bytes"], x["bytes_per_cycle"])
            for x in document["layers"]
        ]
        header = ("layer", "engines", "MACs", "start", "end", "bytes", "bytes per cycle")
        console.print_table("layers", header, rows)
        if document["resources"]:
            _show_resources(document["resources"])
    _show("estimate", document, json)


def _percent(error: float | None) -> str:
    return "unknown" if error is None else f"{error:.1%}"


def _show_resources(resources: dict) -> None:
    kinds = list(resources["total"])
    rows = [(unit, *(round(used[kind]) for kind in kinds)) for unit, used in resources["units"].items()]
    rows.append(("sum", *(round(resources["total"][kind]) for kind in kinds)))
    rows.append((f"share of {resources['device']}", *(f"{resources['share'][kind]:.0%}" for kind in kinds)))
    rows.append(("mean error of such estimates", *(resources["error"][kind] for kind in kinds)))
    console.print_table(f"resources, estimated ({resources['origin']})", ("unit", *kinds), rows)


@app.command()
def calibrate(
    targets: Annotated[list[str] | None, typer.Argument(help="FPGA families (default: ecp5 xcup xc7 gowin).")] = None,
    folder: Annotated[Path, typer.Option(help="Where netlists of units are kept.")] = Path("build/calibration"),
    json: JsonOption = False,
) -> None:
    """Synthesize some accelerators and fit the estimate of resources to them (minutes each; a stopped run goes on)."""
    from vitsmith.stages import calibrate_stage

    with console.progress_bar("calibrate") as progress:
        document = calibrate_stage(folder, targets or ["xcup", "ecp5", "xc7", "gowin"], progress=progress)
    if json:
        console.print_json(document)
        return
    rows = [
        (target, document["samples"][target], *(_percent(error) for error in errors.values()))
        for target, errors in document["errors"].items()
    ]
    header = ("family", "accelerators", *next(iter(document["errors"].values())))
    console.print_table("mean error on accelerators that the fit had not seen", header, rows)


@app.command()
def explore(
    device: Annotated[str, typer.Argument(help=f"FPGA: {', '.join(DEVICES)}.")],
    bundle: BundleOption = DEFAULT_BUNDLE,
    batch: BatchOption = 1,
    points: Annotated[int, typer.Option(min=1, help="Accelerators that are compiled at most.")] = 64,
    mhz: Annotated[float, typer.Option(help="Clock that frames per second are given for.")] = 200,
    workers: WorkersOption = None,
    scheduler: SchedulerOption = None,
    json: JsonOption = False,
) -> None:
    """Find the best accelerators for the network on a device: table, picture, and JSON; a stopped run goes on."""
    from vitsmith.stages import explore_stage

    command = f"vitsmith explore {device} --batch {batch} --points {points} --mhz {mhz:g}"
    with console.progress_bar("explore") as progress:
        document = explore_stage(
            Bundle(bundle), device, batch=batch, points=points, mhz=mhz, workers=workers, scheduler=scheduler,
            command=command, progress=progress,
        )  # fmt: skip
    if json:
        console.print_json(document)
    else:
        console.print_markdown((bundle / f"explore-{device}.md").read_text())


@app.command()
def benchmark(
    networks: Annotated[
        list[str] | None, typer.Argument(help="NAME-SIZE, e.g. b1-224 (default: b0-128 b0-224 b1-224 b1-256 b2-224).")
    ] = None,
    configs: Annotated[
        list[str] | None, typer.Option("--config", "-c", help="Accelerators, see `generate` (default: all named ones).")
    ] = None,
    batches: Annotated[list[int] | None, typer.Option("--batch", help="Frames per run (default: 1 and 8).")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results; a stopped run goes on from what is there.")] = (
        Path("build/benchmark")
    ),
    workers: WorkersOption = 1,
    scheduler: SchedulerOption = None,
    json: JsonOption = False,
) -> None:
    """Measure cycles of whole frames in RTL, of several networks on several accelerators (hours for the large ones)."""
    from vitsmith.benchmark import NETWORKS, parse_network
    from vitsmith.stages import benchmark_stage

    chosen = [parse_network(name) for name in networks] if networks else NETWORKS
    accelerators = [find_config(name) for name in configs or CONFIGS]
    words = ["vitsmith benchmark", *(networks or []), *(f"--config {c}" for c in configs or [])]
    command = " ".join([*words, *(f"--batch {b}" for b in batches or [])])
    with console.progress_bar("benchmark") as progress:
        document = benchmark_stage(
            out, chosen, accelerators, batches or (1, 8), workers=workers, scheduler=scheduler, command=command,
            progress=progress,
        )  # fmt: skip
    if json:
        console.print_json(document)
    else:
        console.print_markdown((out / "benchmark.md").read_text())
    if any(case.get("mismatches") or case.get("stray_writes") for case in document["cases"]):
        console.errors.print("[red]the RTL differs from the integer network[/red]")
        raise typer.Exit(1)


@app.command()
def comparison(
    out: Annotated[Path, typer.Option(help="Folder with benchmark.json; the page is put there.")] = (
        Path("docs/results")
    ),
    json: JsonOption = False,
) -> None:
    """Put measured cycles beside published figures: docs/results/comparison.md from benchmark.json."""
    from vitsmith.stages import comparison_stage

    document = comparison_stage(out)
    if json:
        console.print_json(document)
    else:
        console.print_markdown((out / "comparison.md").read_text())


@app.command()
def simulate(
    bundle: BundleOption = DEFAULT_BUNDLE,
    frames: Annotated[int, typer.Option(help="Test images whose class scores are compared.")] = 100,
    boundaries: Annotated[int, typer.Option(help="Test images that are compared at every layer boundary.")] = 8,
    latency: LatencyOption = 60,
    bandwidth: BandwidthOption = 64,
    stall: Annotated[float, typer.Option(help="Probability that a memory channel pauses in a cycle.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Seed of the pauses.")] = 1,
    waveform: Annotated[bool, typer.Option("--waveform", help="Write waves (slow; use few frames).")] = False,
    netlist: Annotated[
        bool, typer.Option("--netlist", help="Simulate what open synthesis makes of it for ECP5 (very slow).")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run the program on the RTL in Verilator, and compare it bit for bit with the integer network."""
    from sim.runner import MemoryModel
    from vitsmith.stages import simulate_stage

    memory = MemoryModel(latency=latency, bytes_per_cycle=bandwidth, stall=stall, seed=seed)
    with console.progress_bar("simulate") as progress:
        document = simulate_stage(
            Bundle(bundle),
            frames=frames,
            boundary_frames=boundaries,
            memory=memory,
            waveform=waveform,
            netlist=netlist,
            progress=progress,
        )
    if not json:
        rows = [
            (
                x["node"],
                ", ".join(x["engines"]),
                x["end"],
                x["predicted_end"],
                x["engine_cycles"],
                x["predicted_engine_cycles"],
                x["predicted_engine_cycles"] / x["engine_cycles"] - 1,
                x["utilisation"],
            )
            for x in document["layers"]
        ]
        header = ("layer", "engines", "end", "predicted", "engine cycles", "predicted", "error", "utilisation")
        console.print_table("layers of the first frame", header, rows)
    _show("simulation", document, json)
    if document["rtl_mismatches"] or document["stray_writes"]:
        console.errors.print(f"[red]the RTL differs from the integer network:[/red] {document['first_mismatch']}")
        raise typer.Exit(1)


@app.command()
def boards(bundle: BundleOption = DEFAULT_BUNDLE, json: JsonOption = False) -> None:
    """List the boards, what is verified of each, and how fast the bundle's network is predicted to run on it."""
    from vitsmith.devices import BOARD_HEADER, board_rows

    rows = [dict(zip(BOARD_HEADER, row, strict=True)) for row in board_rows(Bundle(bundle))]
    if json:
        console.print_json({"boards": rows})
        return
    shown = [name for name in BOARD_HEADER if name not in ("title", "device", "status")]  # what a terminal has room for
    console.print_table("boards", shown, [[row[name] for name in shown] for row in rows])
    for status in dict.fromkeys(row["status"] for row in rows):
        names = ", ".join(row["board"] for row in rows if row["status"] == status)
        console.console.print(f"{names}: {status}")


@app.command()
def build(
    board: BoardOption,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="Accelerator; default: the board's own configuration.")
    ] = None,
    project: Annotated[
        bool, typer.Option("--project", help="Only write Verilog and constraints, for tools of your own.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of nextpnr: another one may give a faster clock; default: the board's own."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Build a board's bitstream (half an hour); fails when timing is not met. Boards for Vivado get a project."""
    from vitsmith.devices import build_stage

    with console.progress_bar("build") as progress:
        accelerator = find_config(config) if config else None
        document = build_stage(board, accelerator, project_only=project, seed=seed, progress=progress)
    _show(board, document, json)


@app.command()
def flash(
    board: BoardOption,
    persistent: Annotated[bool, typer.Option("--persistent", help="Into the flash: it stays without power.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the command.")] = False,
) -> None:
    """Load a board's bitstream over USB."""
    from boards.flash import flash as load
    from boards.registry import find_board
    from vitsmith.devices import bitstream_file

    chosen = find_board(board)
    command = load(chosen, bitstream_file(chosen), persistent=persistent, dry_run=dry_run)
    console.console.print(command, soft_wrap=True)


@app.command(name="run")
def run_command(
    pictures: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    device: Annotated[
        str,
        typer.Option(
            "--device",
            "--board",
            help="sim; BOARD, at the only USB serial port, or BOARD:PORT, as ulx3s-85f:/dev/ttyUSB0; on the board "
            "itself, pynq.",
        ),
    ] = "sim",
    bundle: BundleOption = DEFAULT_BUNDLE,
    check: Annotated[bool, typer.Option("--check", help="Compare every score with the integer network.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with every picture that a camera adds to the folder.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Classify pictures in simulation or on a board."""
    from vitsmith.devices import run_stage, watch_stage

    if watch and len(pictures) != 1:
        raise typer.BadParameter("--watch takes one folder")
    if watch:
        for document in watch_stage(Bundle(bundle), device, pictures[0], check=check):
            if "error" in document and not json:
                console.errors.print(f"[red]error:[/red] {escape(document['error'])}", soft_wrap=True, highlight=False)
            else:
                _show_classes(device, document, json)
        return
    with console.progress_bar("run"):
        document = run_stage(Bundle(bundle), device, pictures, check=check)
    _show_classes(device, document, json)


def _show_classes(device: str, document: dict[str, object], json: bool) -> None:
    """Print what was found in some pictures; exit if scores differ."""
    if not json:
        for picture in document["pictures"]:
            rows = list(zip(picture["classes"], picture["scores"], strict=True))
            console.print_table(picture["picture"], ("class", "score"), rows)
    _show(device, document, json)
    if document.get("mismatches"):
        console.errors.print(f"[red]{document['mismatches']} scores differ from the integer network[/red]")
        raise typer.Exit(1)


@app.command()
def profile(
    bundle: BundleOption = DEFAULT_BUNDLE,
    latency: LatencyOption = 60,
    bandwidth: BandwidthOption = 64,
    json: JsonOption = False,
) -> None:
    """Run the program once in RTL and say where every cycle goes: table, page, and timeline for Perfetto."""
    from sim.runner import MemoryModel
    from vitsmith.profile import GROUPS, grouped
    from vitsmith.stages import profile_stage

    memory = MemoryModel(latency=latency, bytes_per_cycle=bandwidth)
    with console.progress_bar("profile") as progress:
        document = profile_stage(Bundle(bundle), memory=memory, progress=progress)
    if not json:
        rows = [
            (x["node"], *(round(count) for count in grouped(x["cycles"]).values()), x["utilisation"], x["bound"])
            for x in document["layers"]
        ]
        console.print_table("cycles of the MAC array by layer", ("layer", *GROUPS, "utilisation", "bound by"), rows)
        rows = [
            [e[name] for name in ("engine", "busy", "stalled", "occupancy", "utilisation", "running_utilisation")]
            + [e["mean_gap"], e["largest_gap"]]
            for e in document["engines"]
        ]
        header = ("engine", "busy", "stalled", "at work", "utilisation", "while running", "mean issue gap", "largest")
        console.print_table("engines", header, rows)
        rows = [(cause, count, count / document["cycles"]) for cause, count in document["causes"].items()]
        console.print_table("cycles of the MAC array", ("cause", "cycles", "of the run"), rows)
    _show("profile", document, json)
    if document["rtl_mismatches"]:
        raise typer.Exit(1)


@app.command()
def report(bundle: BundleOption = DEFAULT_BUNDLE, json: JsonOption = False) -> None:
    """Put the results of all stages into report.json and report.html."""
    from vitsmith.report import SUMMARY, report_stage

    document = report_stage(Bundle(bundle))
    if json:
        console.print_json(document)
        return
    rows = [(label, form.format(document[key])) for key, label, form in SUMMARY if document.get(key) is not None]
    rows.append(("report", str(bundle / "report.html")))
    console.print_table(f"{document['model']} on {document['config']}", ("", ""), rows)


@app.command()
def demo(
    bundle: BundleOption = DEFAULT_BUNDLE,
    checkpoint: Annotated[str, typer.Option(help="Trained network; see `quantize`.")] = DEFAULT_CHECKPOINT,
    config: ConfigOption = "base",
    frames: Annotated[int, typer.Option(help="Test images whose class scores are compared in RTL.")] = 100,
    boundaries: Annotated[int, typer.Option(help="Test images compared at every layer boundary.")] = 8,
    images: Annotated[int, typer.Option(help="Test images for the accuracy.")] = 1000,
) -> None:
    """The whole flow: quantize, evaluate, generate, compile, simulate, report."""
    quantize(checkpoint, bundle, config)
    evaluate(bundle, images)
    generate(bundle)
    compile_command(bundle)
    simulate(bundle, frames, boundaries)
    report(bundle)


def main() -> None:
    """Entry point: known errors become one clear message and exit status 1."""
    raise SystemExit(run(app))


def run(command: Callable[..., object]) -> int:
    """Run a command; return its exit status."""
    try:
        command(standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        console.errors.print("stopped")
        return 130
    except Exception as error:
        if not _is_expected(error):
            raise
        message = error.format_message() if hasattr(error, "format_message") else str(error)  # names the option
        console.errors.print(f"[red]error:[/red] {escape(message)}", soft_wrap=True, highlight=False)
        return 1
    return 0


def _is_expected(error: Exception) -> bool:
    """Errors that say what the user can do: those that the packages of this project define, and wrong usage."""
    own = type(error).__module__.split(".")[0] in ("quant", "hw", "compiler", "sim", "boards", "vitsmith")
    return (
        own
        or isinstance(error, (typer.BadParameter, FileNotFoundError, PermissionError))
        or hasattr(error, "exit_code")
    )
