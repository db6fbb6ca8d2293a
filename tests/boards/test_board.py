"""A whole board in simulation: serial line, memory controller, memory chip, accelerator, and the real host driver."""

import json
from pathlib import Path

import numpy as np
import pytest

from boards.top import BoardParameters, board_verilog
from compiler.compile import compile_network
from compiler.program import Program
from compiler.results import decode_scores
from hw.config import CONFIGS, AcceleratorConfig, ConfigError
from hw.verilog import generate_verilog
from sim.verilator import build
from tests.boards.board_simulation import MEMORIES, system
from tests.configs import SMALL, WIDE, quantizer_settings
from tests.quant.support import tiny_network
from tests.sim.support import copy_program, random_images, stand_in

FREQUENCY = 50e6
DIVIDER = 4  # cycles per bit of the serial line: as fast as it goes


def run_board(
    config: AcceleratorConfig,
    memory: str,
    accelerator: str,
    program: Program,
    images: np.ndarray,
    noise: float,
    work_dir: Path,
) -> tuple[np.ndarray, dict]:
    """Scores that the board computed in the scenario of `board_run`, and what it reports."""
    if memory == "ddr3":
        pytest.importorskip("litedram")
    parameters = BoardParameters(
        config=config, memory=MEMORIES[memory], frequency=FREQUENCY, baud=FREQUENCY / DIVIDER
    )  # fmt: skip
    sources = system(parameters) | {
        "testbench.sv": Path(__file__).with_name("testbench.sv").read_text(),
        "accelerator.v": accelerator,
        "board.v": board_verilog(parameters),
    }
    simulator = build(sources, "testbench", parameters={"DIVIDER": DIVIDER})
    program.save(work_dir / "program.bin")
    np.save(work_dir / "images.npy", images)
    plan = {
        "config": config.to_json(),
        "memory": memory,
        "frequency": FREQUENCY,
        "baud": FREQUENCY / DIVIDER,
        "noise": noise,
    }
    (work_dir / "plan.json").write_text(json.dumps(plan))
    simulator.run("tests.boards.board_run", work_dir, plusargs={"plan": work_dir / "plan.json"})
    assert "violation" not in (work_dir / "simulation.log").read_text(), "the chip's times were violated"
    return np.load(work_dir / "scores.npy"), json.loads((work_dir / "report.json").read_text())


@pytest.mark.parametrize("memory", MEMORIES)
def test_link_memory_and_driver(memory: str, tmp_path: Path) -> None:
    """With a stand-in for the accelerator that inverts its input: memory traffic in both directions."""
    program = copy_program(SMALL, bursts=64)
    images = random_images(program, 3)
    accelerator = stand_in(SMALL, program.input_bytes)
    scores, report = run_board(SMALL, memory, accelerator, program, images, 5e-4, tmp_path)
    expected = [decode_scores(SMALL, program.stored[0], ~image.reshape(-1)) for image in images]
    np.testing.assert_array_equal(scores, expected)
    assert report["repetitions"] and report["damaged"]


@pytest.mark.parametrize(
    ("config", "memory"),
    [
        (SMALL, "sdram"),
        pytest.param(SMALL, "ddr3", marks=pytest.mark.slow),
        pytest.param(CONFIGS["femto"], "sdram", marks=pytest.mark.slow),
        pytest.param(CONFIGS["pico"], "sdram", marks=pytest.mark.slow),
        pytest.param(CONFIGS["pico"], "ddr3", marks=pytest.mark.slow),
        pytest.param(CONFIGS["nano"], "sdram", marks=pytest.mark.slow),
        pytest.param(CONFIGS["nano"], "ddr3", marks=pytest.mark.slow),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_network(config: AcceleratorConfig, memory: str, tmp_path: Path) -> None:
    """Scores equal the integer network, over a line with damaged frames, and after a reset in mid-run."""
    network, images = tiny_network(32, **quantizer_settings(config))
    program = compile_network(network, config)
    accelerator = generate_verilog(config)
    scores, report = run_board(config, memory, accelerator, program, images[:2].numpy(), 3e-5, tmp_path)
    np.testing.assert_array_equal(scores, network.run(images[:2]).numpy())
    assert report["repetitions"] and report["damaged"] and report["matmul"]
    print(report)


def test_accelerators_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="use 1 port of 32 or 64 bits"):
        BoardParameters(config=WIDE, memory=MEMORIES["sdram"], frequency=FREQUENCY, baud=1e6)
