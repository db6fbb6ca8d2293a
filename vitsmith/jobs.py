"""Many independent jobs: in processes of this machine, or on a Dask cluster; results are kept, so that runs go on."""

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from vitsmith.bundle import write_if_changed

__all__ = ["JobError", "code_digest", "run_jobs"]

Job = dict[str, object]  #: and its result: what JSON can say
Function = Callable[[bytes, Job], Job]

_context = b""  # of this process, which is one of a pool
CONNECT_SECONDS = 10  #: that a scheduler has to answer
ROOT = Path(__file__).parent.parent


class JobError(RuntimeError):
    """The cluster cannot be used; the message says why, and what to do."""


def run_jobs(
    function: Function,
    context: bytes,
    jobs: Sequence[Job],
    folder: Path,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Job]:
    """Results of `function(context, job)` for all jobs, in their order; the same wherever they are computed.

    Parameters
    ----------
    function : callable
        A function of a module, whose result depends on its arguments only.
    context : bytes
        What all jobs need, sent once to each worker.
    folder : Path
        Results are kept here, under a hash of function, context, and job; those that are there are not computed again.
    workers : int, optional
        Processes of this machine; default: one per processor. With 1, jobs run in this process.
    scheduler : str, optional
        Address of a Dask scheduler, e.g. tcp://host:8786, whose workers have this version of the project installed.
    progress : callable, optional
        Called as `progress(jobs done, jobs)`.

    Raises `JobError`, and whatever a job raises.
    """
    identity = [function.__module__, function.__name__, hashlib.sha256(context).hexdigest()]
    files = [folder / f"{_digest([*identity, job])}.json" for job in jobs]
    pending = {file: job for file, job in zip(files, jobs) if not file.exists()}
    done = len(jobs) - len(pending)
    if progress:
        progress(done, len(jobs))
    for file, result in _compute(function, context, pending, workers or os.cpu_count() or 1, scheduler):
        write_if_changed(file, json.dumps(result, indent=1) + "\n")
        done += 1
        if progress:
            progress(done, len(jobs))
    return [json.loads(file.read_text()) for file in files]


def code_digest(*packages: str) -> str:
    """Hash of all Python sources of some packages of this project: part of a job whose result depends on them."""
    files = [file for package in packages for file in sorted((ROOT / package).rglob("*.py"))]
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _digest(document: object) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:24]


def _compute(
    function: Function, context: bytes, jobs: dict[Path, Job], workers: int, scheduler: str | None
) -> Iterator[tuple[Path, Job]]:
    if not jobs:
        return
    if scheduler:
        yield from _on_cluster(function, context, jobs, scheduler)
    elif workers == 1:
        yield from ((file, function(context, job)) for file, job in jobs.items())
    else:
        yield from _in_processes(function, context, jobs, workers)


def _in_processes(
    function: Function, context: bytes, jobs: dict[Path, Job], workers: int
) -> Iterator[tuple[Path, Job]]:
    spawn = multiprocessing.get_context("spawn")  # PyTorch does not survive a fork
    with ProcessPoolExecutor(min(workers, len(jobs)), spawn, _set_context, (context,)) as pool:
        futures = {pool.submit(_call, function, job): file for file, job in jobs.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _set_context(context: bytes) -> None:
    global _context
    _context = context


def _call(function: Function, job: Job) -> Job:
    return function(_context, job)


def _on_cluster(
    function: Function, context: bytes, jobs: dict[Path, Job], scheduler: str
) -> Iterator[tuple[Path, Job]]:
    try:
        import distributed
    except ImportError as error:
        raise JobError("a cluster needs Dask; pip install vitsmith[cluster]") from error
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_SECONDS)
    except OSError as error:
        raise JobError(
            f"no Dask scheduler answers at {scheduler} ({error}); start one with `dask scheduler`"
        ) from error
    with client:
        sent = client.scatter(context, broadcast=True)
        futures = {client.submit(function, sent, job, pure=False): file for file, job in jobs.items()}
        for future in distributed.as_completed(futures):
            yield futures[future], future.result()
