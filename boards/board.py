"""What a board is, as data."""

from collections.abc import Callable
from dataclasses import dataclass

from amaranth.hdl import Elaboratable
from amaranth.vendor import LatticePlatform

from boards.memory.interface import BoardMemory
from boards.top import BoardParameters
from compiler.rehearsal import MemoryTiming
from hw.config import CONFIGS, AcceleratorConfig

__all__ = ["Board", "BoardError"]

SERIES = {"LFE5U": "", "LFE5UM": "um-", "LFE5UM5G": "um5g-"}  #: nextpnr's names
PACKAGES = {"BG256": "CABGA256", "BG381": "CABGA381", "BG554": "CABGA554", "BG756": "CABGA756"}  #: nextpnr's names


class BoardError(RuntimeError):
    """A board that is not known, a missing tool, or a build that failed; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A dev board with an ECP5, a memory, and a serial line over USB."""

    name: str  #: for `--board`
    title: str
    platform: Callable[[], LatticePlatform]  #: its pins
    top: Callable[["Board"], Elaboratable]  #: the design with pins and clocks
    config: str  #: name of the accelerator's configuration that it carries by default
    memory: BoardMemory
    frequency: float  #: of accelerator, memory, and link, in Hz
    baud: float  #: of the serial line
    cable: str  #: name of the board for openFPGALoader
    seed: int | None = None  #: of place and route, the best of some that were tried; nextpnr's own if None
    whole: bool = False  #: map the design as one: 3 % fewer LUTs, but nothing comes from a cache
    status: str  #: what has been verified, and what not

    @property
    def device(self) -> str:
        """The FPGA, as its maker orders it."""
        platform = self.platform()
        return f"{platform.device}-{platform.speed}{platform.package}"

    @property
    def nextpnr_device(self) -> tuple[str, ...]:
        """The FPGA, as nextpnr's options."""
        platform = self.platform()
        series, size = platform.device.removesuffix("F").split("-")
        return f"--{SERIES[series]}{size}k", "--package", PACKAGES[platform.package], "--speed", platform.speed

    @property
    def accelerator(self) -> AcceleratorConfig:
        """That it carries by default."""
        return CONFIGS[self.config]

    @property
    def memory_bytes(self) -> int:
        """Size of its memory."""
        return self.memory.size

    @property
    def memory_title(self) -> str:
        """Its memory, for people."""
        return self.memory.title

    @property
    def memory_timing(self) -> MemoryTiming:
        """Of its memory, as the accelerator sees it."""
        return self.memory.timing(self.frequency)

    def parameters(self, config: AcceleratorConfig | None = None) -> BoardParameters:
        """What its logic is generated from."""
        return BoardParameters(
            config=config or self.accelerator, memory=self.memory, frequency=self.frequency, baud=self.baud
        )
