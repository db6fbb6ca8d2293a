"""Accelerators beside a processor, from this processor, through PYNQ (https://www.pynq.io)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from boards.driver import BoardDevice, DeviceError, memory_needed
from compiler.program import Program
from hw.config import AcceleratorConfig
from hw.control.registers import BASE_ALIGNMENT

__all__ = ["ACCELERATOR", "BITSTREAM", "HANDOFF", "REACHABLE", "TARGET", "PynqAccess", "open_overlay"]

TARGET = "pynq"  #: name of such a device for `vitsmith.open`
BITSTREAM, HANDOFF = "vitsmith.bit", "vitsmith.hwh"  #: and its description, from which PYNQ knows addresses and clocks
ACCELERATOR = "accelerator"  #: name of the cell in the block design
#: bytes of a processor's memory, from 0 on, that the accelerator reaches: of a Zynq UltraScale+, the lower window
REACHABLE = 1 << 31
REGISTER_BYTES = 4


class PynqAccess:
    """A `boards.driver.Access` to memory that PYNQ allocates, and to registers that it maps.

    Loading the bitstream replaces what was in the logic. Raises `DeviceError` without PYNQ, without the bitstream or
    its description, for a bitstream without an accelerator, and if so much contiguous memory cannot be had.
    """

    def __init__(self, bitstream: Path, memory_bytes: int) -> None:
        try:
            import pynq
        except ImportError as error:
            raise DeviceError(f"PYNQ is missing ({error}); '{TARGET}' is for programs on the board itself") from error
        for path in (bitstream, bitstream.with_suffix(".hwh")):
            if not path.exists():
                raise DeviceError(f"{path} is missing; it is in the board's project after `vitsmith build`")
        self.name = str(bitstream)
        try:
            described = pynq.Overlay(str(bitstream)).ip_dict
            self._buffer = pynq.allocate(shape=(memory_bytes + BASE_ALIGNMENT,), dtype=np.uint8)
        except (OSError, RuntimeError, MemoryError) as error:
            raise DeviceError(
                f"{bitstream}: PYNQ cannot load it, or has no {memory_bytes:,} contiguous bytes: {error}; are you root?"
            ) from error
        if ACCELERATOR not in described:
            raise DeviceError(f"{bitstream}: there is no vitsmith accelerator; it has {', '.join(described)}")
        place = described[ACCELERATOR]
        self._registers = pynq.MMIO(place["phys_addr"], place["addr_range"]).array
        first = self._buffer.device_address
        self.memory_base = -(-first // BASE_ALIGNMENT) * BASE_ALIGNMENT
        if first + len(self._buffer) > REACHABLE:
            self.close()
            raise DeviceError(f"PYNQ gave memory at {first:#x}, but the accelerator only reaches {REACHABLE:#x}")

    def read_register(self, offset: int) -> int:
        """See `Access`."""
        return int(self._registers[offset // REGISTER_BYTES])

    def write_register(self, offset: int, value: int) -> None:
        """See `Access`."""
        self._registers[offset // REGISTER_BYTES] = value

    def read_memory(self, address: int, size: int) -> bytes:
        """See `Access`."""
        part = self._part(address, size)
        part.invalidate()  # of the processor's caches, which know nothing of the accelerator's writes
        return part.tobytes()

    def write_memory(self, address: int, content: bytes, progress: Callable[[int, int], None] | None = None) -> None:
        """See `Access`."""
        part = self._part(address, len(content))
        part[:] = np.frombuffer(content, np.uint8)
        part.flush()
        if progress:
            progress(1, 1)

    def close(self) -> None:
        """Release the memory; the bitstream stays."""
        self._buffer.freebuffer()

    def _part(self, address: int, size: int) -> np.ndarray:
        start = address - self._buffer.device_address
        return self._buffer[start : start + size]


def open_overlay(bitstream: Path, config: AcceleratorConfig, program: Program) -> BoardDevice:
    """The accelerator of a bitstream, with a program. Raises `DeviceError`, see `PynqAccess` and `BoardDevice`."""
    size = memory_needed(program)
    access = PynqAccess(bitstream, size)
    try:
        return BoardDevice(access, config, program, memory_bytes=size, rebuild="vitsmith build --config config.json")
    except Exception:
        access.close()
        raise
