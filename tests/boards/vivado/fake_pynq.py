"""A stand-in for PYNQ: registers that behave, memory behind caches, and an accelerator that inverts its image.

Memory and what the processor sees of it differ until it flushes or invalidates its caches.
"""

import sys
from types import ModuleType

import numpy as np
import pytest

from boards.vivado.overlay import ACCELERATOR
from compiler.program import Program
from compiler.results import decode_scores
from hw.config import ABI_VERSION, AcceleratorConfig
from hw.control.registers import ADDRESS_WIDTH, BY_NAME, IDENTITY
from tests.configs import SMALL
from tests.sim.support import copy_program, random_images

BASE = 0x1000_0800  #: of the allocated memory: no multiple of a page
PROGRAM = copy_program(SMALL, bursts=8)


class Buffer(np.ndarray):
    """What `pynq.allocate` gives; parts of it know their addresses, too."""

    def __array_finalize__(self, whole: object) -> None:
        self.memory = getattr(whole, "memory", None)
        if isinstance(whole, Buffer) and self.memory is not None:
            offset = self.ctypes.data - whole.ctypes.data
            self.device_address = whole.device_address + offset

    def flush(self) -> None:
        self._behind()[:] = self

    def invalidate(self) -> None:
        self[:] = self._behind()

    def freebuffer(self) -> None:
        self.memory.freed = True

    def _behind(self) -> np.ndarray:
        start = self.device_address - self.memory.base
        return self.memory.content[start : start + self.size]


class Memory:
    """What the accelerator sees."""

    def __init__(self, base: int, size: int) -> None:
        self.base = base
        self.content = np.zeros(size, np.uint8)
        self.freed = False
        self.buffer = np.full(size, 0xAA, np.uint8).view(Buffer)
        self.buffer.memory, self.buffer.device_address = self, base


class FakePynq:
    """What `import pynq` gives; `values` are of registers, by name."""

    def __init__(self, config: AcceleratorConfig, program: Program, base: int = BASE, **values: int) -> None:
        self.program = program
        self.base = base
        self.ip_dict = {ACCELERATOR: {"phys_addr": 0xA000_0000, "addr_range": 1 << ADDRESS_WIDTH}}
        self.values = {
            "IDENTITY": IDENTITY,
            "ABI_VERSION": ABI_VERSION,
            "CONFIG_HASH_LO": config.hash & 0xFFFFFFFF,
            "CONFIG_HASH_HI": config.hash >> 32,
        } | values
        self.names = {register.offset: name for name, register in BY_NAME.items()}
        self.loaded: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "FakePynq":
        """Be what `import pynq` finds."""
        module = ModuleType("pynq")
        module.Overlay, module.MMIO, module.allocate = self.overlay, self.mmio, self.allocate
        monkeypatch.setitem(sys.modules, "pynq", module)
        return self

    def overlay(self, path: str) -> "FakePynq":
        self.loaded.append(path)
        return self

    def mmio(self, base: int, length: int) -> "FakePynq":
        assert (base, length) == (0xA000_0000, 1 << ADDRESS_WIDTH)
        self.array = self
        return self

    def allocate(self, *, shape: tuple[int], dtype: type) -> Buffer:
        assert dtype is np.uint8
        self.memory = Memory(self.base, *shape)
        return self.memory.buffer

    def __getitem__(self, index: int) -> np.uint32:
        return np.uint32(self.values.get(self.names[4 * index], 0))

    def __setitem__(self, index: int, value: int) -> None:
        name = self.names[4 * index]
        if name != "CONTROL":
            self.values[name] = value
        elif value >> BY_NAME[name].field("soft_reset").bit & 1:
            self.values["STATUS"] = 0
        elif value >> BY_NAME[name].field("start").bit & 1:
            self._run()

    def _run(self) -> None:
        """Check the program, and write the inverted image."""
        program, image, result = (
            (self.values[f"{name}_BASE_HI"] << 32 | self.values[f"{name}_BASE_LO"]) - self.base
            for name in ("PROGRAM", "INPUT", "RESULT")
        )
        content, size = self.memory.content, self.program.input_bytes
        right = content[program : program + len(self.program.image)].tobytes() == self.program.image
        content[result : result + size] = ~content[image : image + size]
        self.values["STATUS"] = 1 << BY_NAME["STATUS"].field("done" if right else "error").bit
        self.values["CYCLES_LO"] = 1234


def frames(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images for `PROGRAM`, and the scores that the accelerator gives."""
    images = random_images(PROGRAM, count)
    stored = PROGRAM.stored[0]
    return images, np.stack([decode_scores(SMALL, stored, ~image.reshape(-1)) for image in images])
