"""What a board is whose tool is Vivado."""

from collections.abc import Callable
from dataclasses import dataclass, field

from boards.board import BoardError
from boards.vivado.design import Design
from boards.vivado.ip import Ip
from compiler.devices import DEVICES
from compiler.rehearsal import MemoryTiming
from hw.config import AcceleratorConfig, Multipliers

__all__ = ["STATUS", "System", "VivadoBoard"]

STATUS = "generated only; never run through vendor tools here"


@dataclass(frozen=True)
class System:
    """What is in the FPGA: packaged IP, and the block design that uses it."""

    ips: tuple[Ip, ...]
    design: Design


@dataclass(frozen=True, kw_only=True)
class VivadoBoard:
    """A dev board with an AMD FPGA, and memory behind the vendor's controller."""

    name: str  #: for `--board`
    title: str
    device: str  #: the FPGA, as Vivado calls it
    board_part: str | None = None  #: pattern of Vivado's names of the board, if its files are needed
    chip: str  #: name in `compiler.devices`
    system: Callable[["VivadoBoard", AcceleratorConfig], System]
    processor: dict[str, str] = field(default_factory=dict)  #: settings of the processing system
    accelerator: AcceleratorConfig  #: that it carries by default
    frequency: float  #: of the accelerator, in Hz
    memory_title: str
    memory_bytes: int  #: that the accelerator reaches
    port_bits: int  #: of each port to the memory
    pins: dict[str, str] = field(default_factory=dict)  #: of the FPGA, by name in the design; all 3.3 V
    baud: float | None = None  #: of the serial line; none if the host is the processor beside the logic
    cable: str | None = None  #: name of the board for openFPGALoader
    status: str = STATUS

    @property
    def config(self) -> str:
        """Name of the accelerator's configuration."""
        return self.accelerator.name

    @property
    def memory_timing(self) -> MemoryTiming:
        """Of its memory, as the accelerator sees it: an assumption, limited by the ports only."""
        config = self.accelerator
        return MemoryTiming(bytes_per_cycle=config.bus_ports * min(self.port_bits, config.bus_bits) / 8)

    def build_system(self, config: AcceleratorConfig | None = None) -> System:
        """IP and block design. Raises `BoardError` for an accelerator that the board cannot carry."""
        config = config or self.accelerator
        if DEVICES[self.chip].target != "xcup" and config.multiplier is Multipliers.DSP48E2:
            raise BoardError(f"multiplier = dsp48e2 is for UltraScale+; {self.title} takes plain, packed, or logic")
        return self.system(self, config)
