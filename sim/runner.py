"""Run a program on the generated accelerator in simulation, frame after frame, with an external memory model."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compiler.program import Program
from compiler.results import decode_scores
from hw.config import ABI_VERSION, AcceleratorConfig
from hw.control.registers import BY_NAME, DEFAULT_TIMEOUT, ENGINES, IDENTITY, REGISTERS, ErrorCode
from sim import testbench
from sim.rewriting import rewrite
from sim.verilator import DEFAULT_CACHE, Simulator, VerilatorError, build

__all__ = [
    "MemoryModel",
    "RunReport",
    "SimulationError",
    "SimulationResult",
    "build_simulator",
    "simulate",
]

MEMORY_OFFSET = 0x1234_5000  #: of the program; none of the obvious alignments
PAGE = 4096
COUNTERS = tuple(f"{kind}_{engine.upper()}" for kind in ("BUSY", "STALL") for engine in ENGINES)


class SimulationError(RuntimeError):
    """A run that the accelerator stopped with an error, that never ended, or that broke a rule of the bus."""


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """Behaviour of the external memory; none of it needs a new build."""

    latency: int = 40  #: cycles from a read request to its first data
    write_latency: int = 8  #: cycles from the last data of a burst to its response
    bytes_per_cycle: float = float("inf")  #: peak rate of all ports and both directions together
    stall: float = 0.0  #: probability that a channel idles in a cycle, each channel on its own
    seed: int = 1  #: of the stalls
    outstanding: int = 8  #: bursts that a port accepts before it answers the first
    error: tuple[int, int] | None = None  #: offset from the memory's base, and size, of bytes that answer SLVERR

    def plusargs(self, base: int) -> dict[str, object]:
        """Settings of memory_model.cpp; the memory's contents begin at `base`."""
        settings = {
            "latency": max(self.latency, 1),
            "write_latency": max(self.write_latency, 1),
            "bytes_per_cycle": min(self.bytes_per_cycle, 1e9),
            "stall": self.stall,
            "seed": self.seed,
            "outstanding": self.outstanding,
        }
        if self.error:
            settings |= {"error_base": base + self.error[0], "error_bytes": self.error[1]}
        return {f"memory_{name}": value for name, value in settings.items()}


@dataclass(frozen=True)
class RunReport:
    """Counters of one run."""

    began: int  #: cycle of the simulation from which timelines count
    cycles: int
    busy: dict[str, int]  #: cycles by engine
    stall: dict[str, int]
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class SimulationResult:
    """What the runs of some frames left behind."""

    scores: np.ndarray  #: int16 (N, classes)
    results: np.ndarray  #: uint8 (runs, result_bytes)
    write_cycles: np.ndarray  #: uint64 (runs, beats): cycle of the last write, from the run's start; 0 is never
    runs: list[RunReport]
    #: per run, int64 (instructions, 2): cycles from the run's start at which each instruction, in program order,
    #: began and had completed
    timelines: list[np.ndarray]
    stray_writes: int  #: writes outside of the run's result area
    stray_reads: int  #: reads outside of program, images, and results
    cycles_per_second: float  #: simulated, in wall time
    log: Path = field(repr=False)


def build_simulator(
    config: AcceleratorConfig,
    verilog: str | Path,
    *,
    cache: Path = DEFAULT_CACHE,
    wave_format: str | None = None,
    random_reset: bool = False,
) -> Simulator:
    """Compile the accelerator (Verilog text or file) with its test bench, or find it in the cache.

    With waveforms the text is the generated one; else it is rewritten for speed, and inner signals may be out of date
    while nobody reads them.
    """
    text = verilog.read_text() if isinstance(verilog, Path) else verilog
    sources = testbench.sources(config, text if wave_format else rewrite(text))
    return build(sources, testbench.TOP, cache=cache, wave_format=wave_format, random_reset=random_reset)


def simulate(
    config: AcceleratorConfig,
    verilog: str | Path,
    program: Program,
    images: np.ndarray,
    *,
    memory: MemoryModel | None = None,
    work_dir: Path,
    cache: Path = DEFAULT_CACHE,
    waveform: Path | None = None,
    random_reset: int | None = None,
    deadline: int | None = None,
    timeout: int = DEFAULT_TIMEOUT,
    activity: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SimulationResult:
    """Run the program until all images are done, without a reset in between; the last run repeats the last image if
    it lacks some.

    Parameters
    ----------
    verilog : str or Path
        Text, or file, of `hw.verilog.generate_verilog`.
    images : uint8 array
        (N, H, W, 3).
    waveform : Path, optional
        A .vcd or .fst file to write; needs a build of its own and is several times slower.
    random_reset : int, optional
        Seed of random initial contents of registers and memories.
    deadline : int, optional
        Cycles after which a frame is given up; default four times the prediction and a generous constant.
    timeout : int
        Contents of the TIMEOUT register.
    activity : Path, optional
        A file to write what happens in every cycle, for `sim.activity.read_activity`.
    progress : callable, optional
        Called as `progress(frames done, frames)`.

    Raises `SimulationError`, or `VerilatorError` if the simulation itself fails.
    """
    memory = memory or MemoryModel()
    images = np.ascontiguousarray(images, np.uint8)
    count = len(images)
    if images.ndim != 4 or images[0].nbytes * program.batch != program.input_bytes:
        raise SimulationError(
            f"images {images.shape} do not fit the program, which takes {program.batch} of "
            f"{program.input_bytes // program.batch} bytes each"
        )
    images = np.concatenate([images, *[images[-1:]] * (-count % program.batch)])
    wave_format = waveform.suffix[1:] if waveform else None
    if wave_format not in (None, "vcd", "fst"):
        raise SimulationError(f"{waveform}: waveforms are .vcd or .fst files")
    simulator = build_simulator(
        config, verilog, cache=cache, wave_format=wave_format, random_reset=random_reset is not None
    )
    work_dir = work_dir.resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    plan = _plan(config, program, images, work_dir, deadline or 4 * program.predicted_cycles + 1_000_000, timeout)
    plusargs = memory.plusargs(plan["program_base"]) | _files(plan, work_dir)
    if activity:
        plusargs["activity"] = activity.resolve()
    done = 0

    def poll() -> None:
        nonlocal done
        if progress and (lines := _frames_done(work_dir)) > done:
            done = lines
            progress(min(done * program.batch, count), count)

    simulator.run("sim.frames", work_dir, plusargs=plusargs, waveform=waveform, random_reset=random_reset, poll=poll)
    poll()
    return _collect(config, program, count, plan, work_dir)


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _plan(
    config: AcceleratorConfig, program: Program, images: np.ndarray, work_dir: Path, deadline: int, timeout: int
) -> dict:
    """Write the memory image, and the plan that `sim.frames` follows; return the plan."""
    input_stride, result_stride = _pages(program.input_bytes), _pages(program.result_bytes)
    runs = len(images) // program.batch
    with (work_dir / "memory.bin").open("wb") as file:
        file.write(program.image.ljust(_pages(len(program.image)), b"\xdb"))
        for first in range(0, len(images), program.batch):
            run = images[first : first + program.batch]
            file.write(run.tobytes().ljust(input_stride, b"\xdb"))
    highest_bit = 1 << config.address_bits - 1
    program_base = highest_bit | MEMORY_OFFSET % highest_bit
    input_base = program_base + _pages(len(program.image))
    control, status = BY_NAME["CONTROL"], BY_NAME["STATUS"]
    plan = {
        "registers": {register.name: register.offset for register in REGISTERS},
        "start": 1 << control.field("start").bit | 1 << control.field("irq_enable").bit,
        "error": 1 << status.field("error").bit,
        "interrupt": 1 << status.field("interrupt").bit,
        "identity": {
            "IDENTITY": IDENTITY,
            "ABI_VERSION": ABI_VERSION,
            "CONFIG_HASH_LO": config.hash & 0xFFFFFFFF,
            "CONFIG_HASH_HI": config.hash >> 32,
        },
        "counters": ["ERROR_CODE", "ERROR_INFO", "PACKETS", *COUNTERS, *(f"EVENTS_{e.upper()}" for e in ENGINES)],
        "program_base": program_base,
        "input_base": input_base,
        "input_stride": input_stride,
        "result_base": input_base + runs * input_stride,
        "result_stride": result_stride,
        "result_bytes": program.result_bytes,
        "runs": runs,
        "deadline": deadline,
        "timeout": timeout,
        "log": str(work_dir / "frames.jsonl"),
    }
    (work_dir / "plan.json").write_text(json.dumps(plan))
    (work_dir / "frames.jsonl").unlink(missing_ok=True)
    return plan


def _files(plan: dict, work_dir: Path) -> dict[str, object]:
    return {
        "plan": work_dir / "plan.json",
        "memory_image": work_dir / "memory.bin",
        "memory_image_base": plan["program_base"],
        "memory_result_base": plan["result_base"],
        "memory_result_bytes": plan["runs"] * plan["result_stride"],
        "memory_result": work_dir / "results.bin",
        "memory_write_cycles": work_dir / "write_cycles.bin",
        "memory_report": work_dir / "memory.json",
        "events": work_dir / "events.txt",
    }


def _frames_done(work_dir: Path) -> int:
    path = work_dir / "frames.jsonl"
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


def _collect(config: AcceleratorConfig, program: Program, count: int, plan: dict, work_dir: Path) -> SimulationResult:
    try:
        report = json.loads((work_dir / "memory.json").read_text())
        identity, *records = (json.loads(line) for line in (work_dir / "frames.jsonl").read_text().splitlines())
    except (OSError, ValueError) as error:
        raise VerilatorError(f"the simulation left no results in {work_dir} ({error})") from error
    if identity["identity"] != plan["identity"]:
        raise SimulationError(
            f"the accelerator identifies itself as {_hexadecimal(identity['identity'])}, but the configuration "
            f"'{config.name}' is {_hexadecimal(plan['identity'])}; generate it again"
        )
    if report["broken_rules"]:
        raise SimulationError(f"AXI rules were broken {report['broken_rules']} times: {'; '.join(report['messages'])}")
    for record in records:
        _check(record)
    stride = plan["result_stride"]
    runs = plan["runs"]
    area = np.fromfile(work_dir / "results.bin", np.uint8).reshape(runs, stride)[:, : program.result_bytes]
    beats = np.fromfile(work_dir / "write_cycles.bin", np.uint64).reshape(runs, stride // config.bus_bytes)
    first = np.array([record["first_cycle"] for record in records], np.uint64)[:, None]
    beats = np.where(beats > first, beats - first, 0)[:, : -(-program.result_bytes // config.bus_bytes)]
    memory = [report["frames"][str(i)] for i in range(runs)]
    scores = [decode_scores(config, stored, run) for run in area for stored in program.scores]
    return SimulationResult(
        scores=np.stack(scores[:count]).astype(np.int16),
        results=area,
        write_cycles=beats,
        runs=[_run_report(record, m) for record, m in zip(records, memory, strict=True)],
        timelines=_timelines(program, [record["first_cycle"] for record in records], work_dir / "events.txt"),
        stray_writes=sum(m["stray_writes"] for m in memory),
        stray_reads=sum(m["stray_reads"] for m in memory),
        cycles_per_second=sum(r["waited"] for r in records) / sum(r["seconds"] for r in records),
        log=work_dir / "simulation.log",
    )


def _timelines(program: Program, first_cycles: list[int], events: Path) -> list[np.ndarray]:
    """Match the pulses of the engines with the instructions: each engine works in program order."""
    rows = [line.split() for line in events.read_text().splitlines()]
    cycles, started, done = np.array(rows, np.int64).reshape(-1, 3).T
    ends = [*first_cycles[1:], np.iinfo(np.int64).max]
    engines = np.array([row[0] for row in program.timeline])
    result = []
    for begin, end in zip(first_cycles, ends, strict=True):
        inside = (cycles >= begin) & (cycles < end)
        timeline = np.zeros((len(engines), 2), np.int64)
        for engine in range(len(ENGINES)):
            own = engines == engine
            for column, mask in enumerate((started, done)):
                timeline[own, column] = cycles[inside & (mask >> engine & 1 == 1)] - begin
        result.append(timeline)
    return result


def _hexadecimal(identity: dict[str, int]) -> str:
    return ", ".join(f"{name} = 0x{value:08x}" for name, value in identity.items())


def _check(record: dict) -> None:
    if not record["failed"]:
        return
    where, counters = f"frame {record['frame']}", record["counters"]
    if code := counters["ERROR_CODE"]:
        name = ErrorCode(code).name if code in list(ErrorCode) else f"code {code}"
        raise SimulationError(
            f"{where}: the accelerator stopped with {name} at packet {counters['ERROR_INFO']} "
            f"after {record['cycles']} cycles"
        )
    events = ", ".join(f"{e} {counters[f'EVENTS_{e.upper()}']}" for e in ENGINES)
    raise SimulationError(
        f"{where}: not finished after {record['waited']} cycles; {counters['PACKETS']} packets were dispatched; "
        f"completed instructions: {events}"
    )


def _run_report(record: dict, memory: dict) -> RunReport:
    counters = record["counters"]
    return RunReport(
        began=record["first_cycle"],
        cycles=record["cycles"],
        busy={engine: counters[f"BUSY_{engine.upper()}"] for engine in ENGINES},
        stall={engine: counters[f"STALL_{engine.upper()}"] for engine in ENGINES},
        read_bytes=memory["read_bytes"],
        written_bytes=memory["written_bytes"],
    )
