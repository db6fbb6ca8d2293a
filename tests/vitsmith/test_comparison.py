"""The benchmark's cases and table, and the comparison page."""

import json
from pathlib import Path

import pytest

from hw.config import CONFIGS
from tests.vitsmith.test_cli import invoke
from vitsmith import stages
from vitsmith.benchmark import NETWORKS, BenchmarkError, benchmark_markdown, machine, parse_network
from vitsmith.bundle import BundleError
from vitsmith.comparison import PUBLISHED, comparison_markdown

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def case(job: dict) -> dict:
    """What a run would find out, without one."""
    if job["network"] == "b2":
        return {"obstacle": "too large"}
    return {
        "cycles": 1000.0 * job["batch"], "predicted_cycles": 990.0 * job["batch"], "macs": 10, "mac_utilisation": 0.5,
        "dsps": 1000, "operations_per_dsp": 3.25,
        "read_bytes": 5, "scores": 100, "mismatches": 0, "stray_writes": 0, "simulated_cycles_per_second": 7,
    }  # fmt: skip


def test_benchmark_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "run_jobs", lambda function, context, jobs, folder, **options: [case(j) for j in jobs])
    networks, configs = [("b0", 128), ("b2", 224)], [CONFIGS["nano"], CONFIGS["base"]]
    document = stages.benchmark_stage(tmp_path, networks, configs, (1, 8), command="vitsmith benchmark")
    assert [(c["network"], c["accelerator"], c["batch"]) for c in document["cases"]] == [
        (network, config, batch) for batch in (1, 8) for network in ("b0", "b2") for config in ("nano", "base")
    ]
    assert json.loads((tmp_path / "benchmark.json").read_text()) == document
    assert document["machine"].keys() >= {"processor", "python", "torch", "verilator"}
    page = (tmp_path / "benchmark.md").read_text()
    assert "| b0 | 128 | nano | 64 | 1 | 1,000 | 990 (-1.0%) | 50.0% | 0 of 100 |" in page
    assert "b2" not in page  # it does not fit
    assert stages.comparison_stage(tmp_path)["measured"] == document["cases"]
    page = (tmp_path / "comparison.md").read_text()
    assert "| EfficientViT-B0 128 | base | 1,792 | 8 | 8,000 | 50.0% | 3.25 (of 1,000 DSPs) | 25,000 | 37,500 |" in page
    assert "| nano |" not in page


def test_networks_are_named_with_their_size() -> None:
    assert [parse_network(f"{name}-{size}") for name, size in NETWORKS] == list(NETWORKS)
    for wrong in ("b1", "b7-224", "b1-large"):
        with pytest.raises(BenchmarkError, match=f"'{wrong}' is not NAME-SIZE"):
            parse_network(wrong)


def test_the_committed_page_is_up_to_date() -> None:
    benchmark = json.loads((RESULTS / "benchmark.json").read_text())
    assert (RESULTS / "comparison.md").read_text() == comparison_markdown(benchmark)


def test_every_published_figure_has_a_source() -> None:
    assert all(p.source and p.leaves_out and p.kind for p in PUBLISHED)


def test_a_comparison_needs_measurements(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="run `vitsmith benchmark"):
        stages.comparison_stage(tmp_path)


def test_comparison_prints_json() -> None:
    status, output = invoke("comparison", "--out", RESULTS, "--json")
    assert status == 0
    assert len(json.loads(output)["published"]) == len(PUBLISHED)


def test_the_table_of_no_cases_is_empty() -> None:
    assert benchmark_markdown([], "command").rstrip().endswith("--- |")
    assert machine()["processor"]
