"""The register map: declared once, as plain data, for the hardware, the driver, and the documentation.

All registers are 32 bits wide and little-endian. Reading an address without a register gives 0, writing it does
nothing; both answer OKAY, so that a driver for a newer map can probe an older one.
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

__all__ = [
    "ADDRESS_WIDTH",
    "BY_NAME",
    "ENGINES",
    "IDENTITY",
    "REGISTERS",
    "Access",
    "ErrorCode",
    "Field",
    "Register",
]

ADDRESS_WIDTH = 12  #: of the AXI4-Lite port: one 4096-byte page
IDENTITY = 0x54495356  #: "VSIT", little-endian: there is an accelerator at this address
DEFAULT_TIMEOUT = 1 << 24  #: cycles; far beyond any instruction, a fraction of a second at any clock
BASE_ALIGNMENT = 4096  #: bytes; bursts of aligned data then never cross a page
ENGINES = ("matmul", "depthwise", "attention", "norm", "load", "store")  #: in the order of `descriptors.Engine`


class ErrorCode(IntEnum):
    """Contents of ERROR_CODE: why a run stopped."""

    NONE = 0  #: no error
    BAD_MAGIC = 1  #: the header's magic number is wrong: no program at PROGRAM_BASE
    BAD_ABI = 2  #: the program was made for another ABI version
    BAD_CONFIG = 3  #: the program was made for another configuration
    BAD_CRC = 4  #: the checksum of packet ERROR_INFO is wrong
    BAD_OPCODE = 5  #: packet ERROR_INFO has an unknown opcode
    BAD_LENGTH = 6  #: END is not the last of the packets that the header announces: packet ERROR_INFO
    BUS_READ = 7  #: a read on an AXI4 port was answered with an error
    BUS_WRITE = 8  #: a write on an AXI4 port was answered with an error
    RESULT_RANGE = 9  #: a store outside of RESULT_BYTES; nothing of it was written
    TIMEOUT = 10  #: TIMEOUT cycles without any progress


class Access(Enum):
    """What the host can do with a register."""

    RO = "read"
    RW = "read and write"


@dataclass(frozen=True)
class Field:
    """One bit of a register. A `command` is a one-cycle pulse inside the accelerator when 1 is written to it."""

    name: str
    bit: int
    doc: str
    command: bool = False


@dataclass(frozen=True)
class Register:
    """A 32-bit register. `mask` has the bits that hold what was written; a `locked` one ignores writes during a run."""

    name: str
    offset: int
    access: Access
    doc: str
    fields: tuple[Field, ...] = ()
    reset: int = 0
    mask: int = 0xFFFFFFFF
    locked: bool = False

    def field(self, name: str) -> Field:
        """The field of that name; KeyError if there is none."""
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        raise KeyError(f"register {self.name} has no field {name}; it has {[f.name for f in self.fields]}")


def _base(name: str, offset: int, doc: str) -> tuple[Register, Register]:
    return (
        Register(
            f"{name}_BASE_LO", offset, Access.RW, f"{doc}, bits 31..0; aligned to {BASE_ALIGNMENT} bytes",
            mask=0xFFFFFFFF & -BASE_ALIGNMENT, locked=True,
        ),
        Register(f"{name}_BASE_HI", offset + 4, Access.RW, f"{doc}, bits 39..32", mask=0xFF, locked=True),
    )  # fmt: skip


def _per_engine(prefix: str, offset: int, doc: str) -> tuple[Register, ...]:
    return tuple(
        Register(f"{prefix}_{engine.upper()}", offset + 4 * i, Access.RO, doc.format(engine))
        for i, engine in enumerate(ENGINES)
    )


REGISTERS = (
    Register("IDENTITY", 0x00, Access.RO, f"0x{IDENTITY:08x}, the letters VSIT"),
    Register("ABI_VERSION", 0x04, Access.RO, "version of descriptors, registers, and memory layouts"),
    Register("CONFIG_HASH_LO", 0x08, Access.RO, "identity of the configuration, bits 31..0"),
    Register("CONFIG_HASH_HI", 0x0C, Access.RO, "identity of the configuration, bits 63..32"),
    Register(
        "CONTROL",
        0x10,
        Access.RW,
        "commands and interrupt enable",
        fields=(
            Field("start", 0, "write 1: run the program at PROGRAM_BASE; ignored unless STATUS.idle; reads as 0",
                  command=True),
            Field("soft_reset", 1, "write 1: stop, finish open bus transfers, clear everything but the base registers,"
                  " RESULT_BYTES, TIMEOUT, and irq_enable; reads as 0", command=True),
            Field("irq_enable", 2, "drive `irq` while STATUS.interrupt is 1"),
        ),
        mask=0b100,
    ),
    Register(
        "STATUS",
        0x14,
        Access.RO,
        "state of the accelerator",
        fields=(
            Field("idle", 0, "ready for a start"),
            Field("busy", 1, "a program runs, or a soft reset is in progress"),
            Field("done", 2, "the last program has ended without an error"),
            Field("error", 3, "the last program was stopped: see ERROR_CODE; only a soft reset leaves this state"),
            Field("interrupt", 4, "a program has ended or was stopped since this bit was cleared; write 1 to clear",
                  command=True),
        ),
    ),
    Register("ERROR_CODE", 0x18, Access.RO, "why the run stopped"),
    Register("ERROR_INFO", 0x1C, Access.RO, "packet that was looked at when the run stopped; 0 is the header"),
    *_base("PROGRAM", 0x20, "address of the program"),
    *_base("INPUT", 0x28, "address of the images"),
    *_base("RESULT", 0x30, "address of the result area"),
    Register("RESULT_BYTES", 0x38, Access.RW, "size of the result area; nothing is written outside of it",
             locked=True),
    Register(
        "TIMEOUT", 0x3C, Access.RW, "cycles without any progress after which a run stops with an error; 0: never",
        reset=DEFAULT_TIMEOUT, locked=True,
    ),
    Register("CYCLES_LO", 0x40, Access.RO, "cycles of the last run from start to end, bits 31..0"),
    Register("CYCLES_HI", 0x44, Access.RO, "cycles of the last run from start to end, bits 63..32"),
    Register("PACKETS", 0x48, Access.RO, "packets of the last run that were dispatched, header and END included"),
    *_per_engine("BUSY", 0x80, "cycles of the last run in which the {} engine had an instruction in progress"),
    *_per_engine("STALL", 0xA0, "cycles of the last run in which the {} engine was busy but waited"),
    *_per_engine("EVENTS", 0xC0, "instructions of the last run that the {} engine completed, modulo 2**16"),
)  # fmt: skip

BY_NAME = {register.name: register for register in REGISTERS}  #: the same, by name
