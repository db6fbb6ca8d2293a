"""The driver: programs, images, and scores of an accelerator that something gives access to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from boards.link.host import NoAnswer
from compiler.program import Program
from compiler.results import decode_scores, score_bytes
from hw.config import ABI_VERSION, AcceleratorConfig
from hw.control.registers import BASE_ALIGNMENT, BY_NAME, ENGINES, IDENTITY, ErrorCode

__all__ = ["Access", "BoardDevice", "DeviceError", "RunCounters", "memory_needed"]

RESET_POLLS = 1000  #: reads of STATUS; a reset takes a few dozen cycles, if nothing hangs

Progress = Callable[[int, int], None]


class DeviceError(RuntimeError):
    """A board that cannot run the program, or that failed; the message says what to do."""


class Access(Protocol):
    """A way to an accelerator's registers and memory. Addresses are those that the accelerator uses, in bytes.

    Methods raise what the way can fail with; `NoAnswer` if the other side is silent.
    """

    name: str  #: for messages
    memory_base: int  #: of the memory that may be used, a multiple of `BASE_ALIGNMENT`

    def read_register(self, offset: int) -> int:
        """Read a register of the accelerator."""

    def write_register(self, offset: int, value: int) -> None:
        """Write a register of the accelerator."""

    def read_memory(self, address: int, size: int) -> bytes:
        """Read `size` bytes from `address`, a multiple of 8, on."""

    def write_memory(self, address: int, content: bytes, progress: Progress | None = None) -> None:
        """Write bytes from `address`, a multiple of 8, on; the last 8 may be filled up with anything."""

    def close(self) -> None:
        """Release it."""


@dataclass(frozen=True)
class RunCounters:
    """What the accelerator counted in one run: cycles, and by engine busy cycles, stalls, completed instructions."""

    cycles: int
    busy: dict[str, int]
    stall: dict[str, int]
    events: dict[str, int]


def _bit(register: str, field: str) -> int:
    return 1 << BY_NAME[register].field(field).bit


def _pages(size: int) -> int:
    return -(-size // BASE_ALIGNMENT) * BASE_ALIGNMENT


def memory_needed(program: Program) -> int:
    """Bytes of memory for a program, the images of a run, and its results."""
    return _pages(len(program.image)) + _pages(program.input_bytes) + _pages(program.result_bytes)


class BoardDevice:
    """An accelerator with a program.

    The program is loaded with the first run, and again after an error. Memory holds the program, then the images of a
    run, then its results.

    Parameters
    ----------
    access : the way to the accelerator.
    memory_bytes : size of the memory that may be used.
    rebuild : command that builds and flashes a fitting bitstream, for messages.

    Raises `DeviceError` if there is no accelerator of this configuration, or the program is too large.
    """

    def __init__(
        self, access: Access, config: AcceleratorConfig, program: Program, *, memory_bytes: int, rebuild: str
    ) -> None:
        self.config = config
        self.program = program
        self.access = access
        self.counters: list[RunCounters] = []  #: of the runs of the last call of `run`
        self._rebuild = rebuild
        self._loaded = False
        self._input_base = access.memory_base + _pages(len(program.image))
        self._result_base = self._input_base + _pages(program.input_bytes)
        self._check_size(memory_bytes)
        self._identify()

    def close(self) -> None:
        """Release the access."""
        self.access.close()

    def run(self, images: np.ndarray, progress: Progress | None = None) -> np.ndarray:
        """Class scores, int16 (N, classes), of images, uint8 (N, H, W, 3); the last run repeats the last image if it
        lacks some. Raises `DeviceError` if the accelerator stops with an error."""
        images = np.ascontiguousarray(images, np.uint8)
        batch = self.program.batch
        if images.ndim != 4 or not len(images) or images[0].nbytes * batch != self.program.input_bytes:
            raise DeviceError(
                f"images {images.shape} do not fit the program, which takes {batch} of "
                f"{self.program.input_bytes // batch} bytes each"
            )
        self.load()
        padded = np.concatenate([images, *[images[-1:]] * (-len(images) % batch)])
        self.counters = []
        scores = []
        for first in range(0, len(padded), batch):
            scores += self._run_once(padded[first : first + batch])
            if progress:
                progress(min(first + batch, len(images)), len(images))
        return np.stack(scores[: len(images)]).astype(np.int16)

    def load(self, progress: Progress | None = None) -> None:
        """Bring the accelerator into its idle state, and the program into its memory, unless that is done."""
        if self._loaded:
            return
        self.reset()
        program_base = self.access.memory_base
        self.access.write_memory(program_base, self.program.image, progress)
        for name, base in (("PROGRAM", program_base), ("INPUT", self._input_base), ("RESULT", self._result_base)):
            self._write(f"{name}_BASE_LO", base & 0xFFFFFFFF)
            self._write(f"{name}_BASE_HI", base >> 32)
        self._write("RESULT_BYTES", self.program.result_bytes)
        self._loaded = True

    def reset(self) -> None:
        """Stop whatever runs, and clear errors; the program has to be loaded again."""
        self._loaded = False
        self._write("CONTROL", _bit("CONTROL", "soft_reset"))
        for _ in range(RESET_POLLS):
            if not self._read("STATUS") & _bit("STATUS", "busy"):
                return
        raise DeviceError(f"{self.access.name}: the accelerator does not finish its reset; press the board's")

    def start(self) -> None:
        """Start a run on the images in memory, without waiting for its end."""
        self._write("STATUS", _bit("STATUS", "interrupt"))
        self._write("CONTROL", _bit("CONTROL", "start"))

    def wait(self) -> None:
        """Wait for the end of the run. Raises `DeviceError` if it did not end well; the accelerator's own time-out ends
        one that hangs."""
        while (status := self._read("STATUS")) & _bit("STATUS", "busy"):
            pass
        if status & _bit("STATUS", "done"):
            return
        self._loaded = False
        if status & _bit("STATUS", "error"):
            code, packet = self._read("ERROR_CODE"), self._read("ERROR_INFO")
            name = ErrorCode(code).name if code in list(ErrorCode) else f"code {code}"
            raise DeviceError(f"the accelerator stopped with {name} at packet {packet}; the next run loads again")
        raise DeviceError("the board was reset during the run; the next run loads again")

    def _run_once(self, images: np.ndarray) -> list[np.ndarray]:
        self.access.write_memory(self._input_base, images.tobytes())
        self.start()
        self.wait()
        self.counters.append(self._read_counters())
        size = max(score_bytes(self.config, stored) for stored in self.program.scores)
        area = np.frombuffer(self.access.read_memory(self._result_base, size), np.uint8)
        return [decode_scores(self.config, stored, area) for stored in self.program.scores]

    def _read_counters(self) -> RunCounters:
        kinds = {
            kind: {engine: self._read(f"{kind.upper()}_{engine.upper()}") for engine in ENGINES}
            for kind in ("busy", "stall", "events")
        }
        return RunCounters(self._read("CYCLES_LO") | self._read("CYCLES_HI") << 32, **kinds)

    def _check_size(self, memory_bytes: int) -> None:
        needed = memory_needed(self.program)
        if needed > memory_bytes:
            raise DeviceError(
                f"program, images, and results take {needed:,} bytes, but the board's memory has {memory_bytes:,}; "
                "compile with a smaller --batch, or use a smaller network or image size"
            )

    def _identify(self) -> None:
        name = self.access.name
        try:
            identity = self._read("IDENTITY")
        except NoAnswer as error:
            raise DeviceError(
                f"{error}; is the board powered, is this its port, and is it flashed (`{self._rebuild}`)?"
            ) from error
        if identity != IDENTITY:
            raise DeviceError(f"{name}: there is no vitsmith accelerator; `{self._rebuild}`")
        if (abi := self._read("ABI_VERSION")) != ABI_VERSION:
            raise DeviceError(f"{name}: the bitstream has ABI version {abi}, this is {ABI_VERSION}; `{self._rebuild}`")
        found = self._read("CONFIG_HASH_LO") | self._read("CONFIG_HASH_HI") << 32
        if found != self.program.config_hash:
            raise DeviceError(
                f"{name}: the bitstream was made for configuration {found:016x}, but the program for "
                f"{self.program.config_hash:016x}; make a fitting one with `{self._rebuild}`"
            )

    def _read(self, register: str) -> int:
        return self.access.read_register(BY_NAME[register].offset)

    def _write(self, register: str, value: int) -> None:
        self.access.write_register(BY_NAME[register].offset, value)
