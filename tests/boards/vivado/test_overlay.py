"""Accelerators through PYNQ."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import vitsmith
from boards.driver import DeviceError
from boards.vivado.overlay import BITSTREAM, open_overlay
from hw.control.registers import BASE_ALIGNMENT
from tests.boards.vivado.fake_pynq import PROGRAM, FakePynq, frames
from tests.configs import SMALL
from vitsmith.bundle import Bundle


def test_runs(board_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames: through caches, and from memory that begins within a page."""
    pynq = FakePynq(SMALL, PROGRAM).install(monkeypatch)
    images, expected = frames(2)
    device = open_overlay(board_folder / BITSTREAM, SMALL, PROGRAM)
    np.testing.assert_array_equal(device.run(images), expected)
    assert device.counters[1].cycles == 1234
    assert pynq.loaded == [str(board_folder / BITSTREAM)]
    assert pynq.values["PROGRAM_BASE_LO"] % BASE_ALIGNMENT == 0
    device.close()
    assert pynq.memory.freed


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_same_call_as_in_simulation(
    elsewhere: bool, board_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakePynq(SMALL, PROGRAM).install(monkeypatch)
    bundle = Bundle(tmp_path / "bundle" if elsewhere else board_folder)
    bundle.path.mkdir(exist_ok=True)
    bundle.config_file.write_text(SMALL.to_json())
    PROGRAM.save(bundle.program_file(trace=False))
    images, expected = frames(1)
    device = vitsmith.open(f"pynq:{board_folder / BITSTREAM}" if elsewhere else "pynq", bundle.path)
    np.testing.assert_array_equal(device.run(images), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"IDENTITY": 0}, "there is no vitsmith accelerator"),
        ({"CONFIG_HASH_LO": 5}, f"{SMALL.hash >> 32:08x}00000005, but the program for {SMALL.hash:016x}"),
    ],
)
def test_foreign_bitstreams_are_refused(
    values: dict[str, int], message: str, board_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pynq = FakePynq(SMALL, PROGRAM, **values).install(monkeypatch)
    with pytest.raises(DeviceError, match=message):
        open_overlay(board_folder / BITSTREAM, SMALL, PROGRAM)
    assert pynq.memory.freed


def test_bitstreams_of_other_projects_are_refused(board_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pynq = FakePynq(SMALL, PROGRAM).install(monkeypatch)
    pynq.ip_dict = {"dma": {}, "gpio": {}}
    with pytest.raises(DeviceError, match="no vitsmith accelerator; it has dma, gpio"):
        open_overlay(board_folder / BITSTREAM, SMALL, PROGRAM)


def test_missing_files_and_pynq(board_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakePynq(SMALL, PROGRAM).install(monkeypatch)
    (board_folder / "vitsmith.hwh").unlink()
    with pytest.raises(DeviceError, match="vitsmith.hwh is missing; it is in the board's project"):
        open_overlay(board_folder / BITSTREAM, SMALL, PROGRAM)
    monkeypatch.setitem(sys.modules, "pynq", None)
    with pytest.raises(DeviceError, match="PYNQ is missing .*for programs on the board itself"):
        open_overlay(board_folder / BITSTREAM, SMALL, PROGRAM)


def test_memory_that_cannot_be_had(board_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pynq = FakePynq(SMALL, PROGRAM, base=0x8_0000_0000)
    pynq.install(monkeypatch)
    with pytest.raises(DeviceError, match="memory at 0x800000000, but the accelerator only reaches 0x80000000"):
        open_overlay(board_folder / BITSTREAM, SMALL, PROGRAM)
    assert pynq.memory.freed

    def refuse(**_: object) -> None:
        raise RuntimeError("Failed to allocate")

    sys.modules["pynq"].allocate = refuse
    large = dataclasses.replace(PROGRAM, result_bytes=1 << 40)
    with pytest.raises(DeviceError, match="no 1,099,.* contiguous bytes: Failed to allocate; are you root"):
        open_overlay(board_folder / BITSTREAM, SMALL, large)
