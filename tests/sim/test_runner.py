"""Frames through register master and memory model, on a stand-in that copies the image, inverted."""

from pathlib import Path

import numpy as np
import pytest

from hw.config import CONFIGS, AcceleratorConfig
from sim.runner import MemoryModel, SimulationError, SimulationResult, simulate
from sim.verilator import VerilatorError
from tests.sim.support import Misbehaviour, copy_program, random_images, stand_in

ONE_PORT = CONFIGS["nano"].replace(bus_ports=1)
TWO_PORTS = ONE_PORT.replace(bus_ports=2, bus_bits=128, stream_bits=256)
BURSTS = 40


def copy(
    work_dir: Path,
    config: AcceleratorConfig = ONE_PORT,
    memory: MemoryModel | None = None,
    mode: Misbehaviour = Misbehaviour.NONE,
    frames: int = 2,
    **options: object,
) -> tuple[np.ndarray, SimulationResult]:
    program = copy_program(config, BURSTS)
    images = random_images(program, frames)
    verilog = stand_in(config, program.input_bytes)
    result = simulate(config, verilog, program, images, memory=memory, work_dir=work_dir, timeout=mode, **options)
    return images.reshape(frames, -1), result


MEMORIES = [
    MemoryModel(latency=1, write_latency=1),
    MemoryModel(latency=100, outstanding=1),
    MemoryModel(stall=0.5, seed=7),
    MemoryModel(latency=13, bytes_per_cycle=5.5, stall=0.1),
]


@pytest.mark.parametrize("config", [ONE_PORT, TWO_PORTS], ids=["1 port", "2 ports"])
@pytest.mark.parametrize("memory", MEMORIES, ids=["fast", "serial", "stalls", "narrow"])
def test_copy(tmp_path: Path, config: AcceleratorConfig, memory: MemoryModel) -> None:
    done = []
    images, result = copy(tmp_path, config, memory, progress=lambda *counts: done.append(counts))
    np.testing.assert_array_equal(result.results, ~images)
    size = images.shape[1]
    assert (result.stray_writes, result.stray_reads) == (0, 0)
    for index, frame in enumerate(result.runs):
        assert (frame.read_bytes, frame.written_bytes) == (size, size)
        assert result.write_cycles[index].min() > 0
        assert result.write_cycles[index].max() <= frame.cycles + 16
    assert done[-1] == (2, 2)
    # Scores are decoded from the result area: slice 0 is the low byte, slice 1 the high byte of pixel 0.
    word = config.pad_word_beats * config.bus_bytes
    low, high = (~images[0, i * 2 * word :][:8].astype(int) & 255 for i in range(2))
    np.testing.assert_array_equal(result.scores[0, :8], (low | high << 8).astype(np.int16))


def cycles(tmp_path: Path, config: AcceleratorConfig = ONE_PORT, **memory: object) -> int:
    return copy(tmp_path, config, MemoryModel(**memory), frames=1)[1].runs[0].cycles


def test_timing(tmp_path: Path) -> None:
    beats = BURSTS * 16
    fast = cycles(tmp_path, latency=1, write_latency=1)
    assert beats <= fast <= beats + 8  # a beat per cycle
    assert cycles(tmp_path, latency=51, write_latency=1, outstanding=64) == fast + 50
    assert cycles(tmp_path, latency=1, write_latency=21) == fast + 20
    # one burst after the other: each pays the latency
    assert cycles(tmp_path, latency=51, outstanding=1) >= BURSTS * (51 + 15)
    for rate in (3, 6, 12.5):  # every byte is read and written
        expected = 2 * beats * ONE_PORT.bus_bytes / rate
        assert cycles(tmp_path, bytes_per_cycle=rate) == pytest.approx(expected, rel=0.03, abs=60)


def test_bandwidth_is_shared_by_the_ports(tmp_path: Path) -> None:
    moved = 2 * 2 * BURSTS * 16 * TWO_PORTS.bus_bytes
    assert cycles(tmp_path, TWO_PORTS, bytes_per_cycle=20) == pytest.approx(moved / 20, rel=0.03, abs=60)


def test_stalls_follow_the_seed(tmp_path: Path) -> None:
    first, again, other = (cycles(tmp_path, stall=0.3, seed=seed) for seed in (5, 5, 6))
    assert first == again != other


def test_stray_writes_are_counted_and_dropped(tmp_path: Path) -> None:
    _, result = copy(tmp_path, mode=Misbehaviour.STRAY_WRITE, frames=2)
    assert result.stray_writes == 2 * 4096 // ONE_PORT.bus_bytes
    # The second frame's stray writes would have hit the first frame's result area.
    assert result.results.shape[0] == 2
    assert (result.results[:, -4096:] == 0xA5).all()


RULES = {
    Misbehaviour.PAGE_CROSSING: "AR burst crosses 4 KiB",
    Misbehaviour.UNSTABLE_DATA: "W changed before it was taken",
    Misbehaviour.EARLY_LAST: "W last comes too early",
}


@pytest.mark.parametrize("mode", RULES, ids=lambda mode: mode.name)
def test_broken_rules(tmp_path: Path, mode: Misbehaviour) -> None:
    with pytest.raises(SimulationError, match=f"cycle .*, port 0: {RULES[mode]}"):
        copy(tmp_path, mode=mode, memory=MemoryModel(stall=0.2))


def test_bus_error(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="frame 1: the accelerator stopped with BUS_READ at packet 1 after"):
        image_bytes = copy_program(ONE_PORT, BURSTS).input_bytes
        second_image = 4096 + -(-image_bytes // 4096) * 4096
        copy(tmp_path, memory=MemoryModel(error=(second_image + 256, 1)))


def test_deadline(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="frame 0: not finished after 50[0-9][0-9] cycles"):
        copy(tmp_path, mode=Misbehaviour.HANG, deadline=5000)


def test_foreign_accelerator(tmp_path: Path) -> None:
    program = copy_program(ONE_PORT, BURSTS)
    other = ONE_PORT.replace(queue_depth=2)
    with pytest.raises(SimulationError, match="CONFIG_HASH_LO = 0x.*; generate it again"):
        verilog = stand_in(ONE_PORT, program.input_bytes)
        simulate(other, verilog, program, random_images(program, 1), work_dir=tmp_path)


def test_images_of_the_wrong_size(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="do not fit the program"):
        simulate(ONE_PORT, "", copy_program(ONE_PORT, 1), np.zeros((1, 2, 2, 3), np.uint8), work_dir=tmp_path)


def test_verilog_that_does_not_compile(tmp_path: Path) -> None:
    program = copy_program(ONE_PORT, 1)
    with pytest.raises(VerilatorError, match="does not compile"):
        simulate(ONE_PORT, "module vitsmith(;", program, random_images(program, 1), work_dir=tmp_path)


@pytest.mark.slow
def test_waveform_and_random_reset(tmp_path: Path) -> None:
    waveform = tmp_path / "copy.vcd"
    images, result = copy(tmp_path, waveform=waveform, random_reset=3, frames=1)
    np.testing.assert_array_equal(result.results, ~images)
    assert "s_axi_araddr" in waveform.read_text()
