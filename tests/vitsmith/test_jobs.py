"""Jobs give the same results in this process, in others, and on a Dask cluster; results are kept."""

from pathlib import Path

import pytest

from vitsmith.jobs import JobError, code_digest, run_jobs

JOBS = [{"number": n} for n in range(5)]


def add(context: bytes, job: dict) -> dict:
    return {"sum": len(context) + job["number"]}


def fail(context: bytes, job: dict) -> dict:
    raise AssertionError("a kept result is computed again")


EXPECTED = [{"sum": 3 + n} for n in range(5)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_order_and_kept(workers: int, tmp_path: Path) -> None:
    seen = []
    results = run_jobs(add, b"abc", JOBS, tmp_path, workers=workers, progress=lambda *done: seen.append(done))
    assert results == EXPECTED
    assert seen == [(n, 5) for n in range(6)]
    assert len(list(tmp_path.iterdir())) == 5
    assert run_jobs(add, b"abcd", JOBS[:1], tmp_path, workers=1) == [{"sum": 4}]  # another context, another result


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    run_jobs(add, b"abc", JOBS[:3], tmp_path, workers=1)
    seen = []
    assert run_jobs(add, b"abc", JOBS, tmp_path, workers=1, progress=lambda *done: seen.append(done)) == EXPECTED
    assert seen[0] == (3, 5)


def test_equal_jobs_are_computed_once(tmp_path: Path) -> None:
    assert run_jobs(add, b"", [{"number": 1}] * 2, tmp_path, workers=1) == [{"sum": 1}] * 2


def test_errors_of_jobs_are_raised(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="computed again"):
        run_jobs(fail, b"", JOBS[:1], tmp_path, workers=1)


def test_a_cluster_gives_the_same(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        assert run_jobs(add, b"abc", JOBS, tmp_path, scheduler=cluster.scheduler_address) == EXPECTED


def test_a_missing_cluster_is_named(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(JobError, match="tcp://127.0.0.1:9"):
        run_jobs(add, b"", JOBS, tmp_path, scheduler="tcp://127.0.0.1:9")


def test_code_digest_depends_on_the_package() -> None:
    assert code_digest("hw") == code_digest("hw") != code_digest("compiler")
