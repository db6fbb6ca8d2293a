"""The boards that vitsmith knows, as data."""

from dataclasses import dataclass

from boards.memory.chips import SLOWEST_256_MBIT, SdramChip
from boards.top import BoardParameters
from compiler.rehearsal import MemoryTiming
from hw.config import CONFIGS, AcceleratorConfig

__all__ = ["BOARDS", "Board", "BoardError", "find_board"]


#: what the controller leaves of the chip's peak rate, and the cycles from a request to its data; both measured on the
#: simulated board (`tests/boards/test_board.py`), whose runs they predict within 3 %
SDRAM_EFFICIENCY, SDRAM_LATENCY = 0.975, 14


class BoardError(RuntimeError):
    """A board that is not known, a missing tool, or a build that failed; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A dev board with an FPGA, an SDR SDRAM, and a serial line over USB."""

    name: str  #: for `--board`
    title: str
    device: str
    config: str  #: name of the accelerator's configuration that it carries by default
    chip: SdramChip
    frequency: float  #: of accelerator, memory, and link, in Hz
    baud: float
    cable: str  #: name of the board for openFPGALoader
    status: str  #: what has been verified, and what not

    @property
    def memory(self) -> MemoryTiming:
        """Of its memory, as the accelerator sees it."""
        return MemoryTiming(latency=SDRAM_LATENCY, bytes_per_cycle=SDRAM_EFFICIENCY * self.chip.data_bits / 8)

    def parameters(self, config: AcceleratorConfig | None = None) -> BoardParameters:
        """What its logic is generated from."""
        return BoardParameters(
            config=config or CONFIGS[self.config], chip=self.chip, frequency=self.frequency, baud=self.baud
        )


BOARDS = {
    board.name: board
    for board in (
        Board(
            name="ulx3s-85f",
            title="ULX3S with LFE5U-85F",
            device="LFE5U-85F-6BG381C",
            config="nano",
            chip=SLOWEST_256_MBIT,
            frequency=40e6,
            baud=2e6,  # the FT231X divides 3 MHz by 1, 1.5, 2, ...; 40 MHz divides into this one exactly
            cable="ulx3s",
            status="simulated as a whole; placed and routed without the accelerator; not yet run on hardware",
        ),
    )
}


def find_board(name: str) -> Board:
    """The board of that name. Raises `BoardError`."""
    if name not in BOARDS:
        raise BoardError(f"no board called '{name}'; known are {', '.join(BOARDS)}")
    return BOARDS[name]
