"""What a board's memory looks like to the rest of the board."""

from typing import Protocol

from amaranth.lib import data, wiring

from compiler.rehearsal import MemoryTiming

__all__ = ["WORD_BITS", "BoardMemory", "MemoryAccess"]

WORD_BITS = 64  #: of an access, as of a beat of the bus


class MemoryAccess(data.Struct):
    """Read or write a word of 64 bits; `mask` has a bit per byte to write."""

    address: 32
    write: 1
    data: WORD_BITS
    mask: WORD_BITS // 8


class BoardMemory(Protocol):
    """A memory chip with its controller.

    The controller has the ports `access`, an In(stream of `MemoryAccess`), executed in order; `read_data` and
    `read_valid`, answers to reads in order, which cannot be refused; and `pins`, what lies outside the board's logic.
    """

    title: str  #: for tables
    size: int  #: bytes
    read_depth: int  #: words that are on the way when reads follow each other without gaps

    def pins(self) -> wiring.Signature:
        """What the controller drives."""

    def controller(self, frequency: float) -> wiring.Component:
        """For a clock in Hz. Raises ValueError if the chip is too slow for it."""

    def timing(self, frequency: float) -> MemoryTiming:
        """As the accelerator sees it, in cycles of a clock in Hz."""
