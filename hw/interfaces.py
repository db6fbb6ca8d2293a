"""Interfaces between the boxes of the accelerator: scratchpad ports, streams, instruction ports.

Engines see scratchpads through request ports; `hw.memory.scratchpads.Scratchpads` grants, per pad and cycle, one reader
and one writer by fixed priority. Directions below are those of the requester.
"""

from amaranth import Cat, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import PADS, AcceleratorConfig

__all__ = [
    "MATMUL_READ_LATENCY",
    "PAD_READ_LATENCY",
    "EngineStatus",
    "InstructionPort",
    "PadRead",
    "PadWrite",
    "StateRead",
    "StateWrite",
    "pad_address_bits",
    "pad_word_layout",
    "placed_word_layout",
    "write_mask",
]

PAD_READ_LATENCY = 3  #: cycles from a granted read request to its data
MATMUL_READ_LATENCY = PAD_READ_LATENCY + 2  #: the same behind a `ReadRegister`

PAD_BITS = (PADS - 1).bit_length()
ADDRESS_BITS = 16  #: of scratchpads, at most


def pad_address_bits(config: AcceleratorConfig) -> int:
    """Bits of an address of the largest scratchpad: engines need not calculate more."""
    return (max(config.pad_words) - 1).bit_length()


def pad_word_layout(config: AcceleratorConfig) -> data.ArrayLayout:
    """One scratchpad word, indexed [pixel][channel]."""
    return data.ArrayLayout(data.ArrayLayout(unsigned(config.act_bits), config.in_lanes), config.pixels)


def placed_word_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A scratchpad word and its address, in a stream of words that are written."""
    return data.StructLayout({"address": pad_address_bits(config), "data": pad_word_layout(config)})


class PadRead(wiring.Signature):
    """Read port of a requester.

    A request is taken in a cycle where `valid` and `ready` are 1. Its data stands on `data` exactly `PAD_READ_LATENCY`
    cycles later, in the one cycle where `data_valid` is 1; later behind a `ReadBuffer` or a `ReadRegister`. Data comes
    in request order.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "pad": Out(PAD_BITS),
                "address": Out(ADDRESS_BITS),
                "data": In(pad_word_layout(config)),
                "data_valid": In(1),
            }
        )


class PadWrite(wiring.Signature):
    """Write port of a requester; taken in a cycle where `valid` and `ready` are 1, readable by requests granted in
    later cycles. `mask[pixel][group]` enables lanes of a pixel in groups of `write_group` channels."""

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "ready": In(1),
                "pad": Out(PAD_BITS),
                "address": Out(ADDRESS_BITS),
                "data": Out(pad_word_layout(config)),
                "mask": Out(data.ArrayLayout(unsigned(config.write_groups), config.pixels)),
            }
        )


def write_mask(config: AcceleratorConfig, index: Value, channels: int) -> Value:
    """The `mask` of one pixel that enables group `index` of `channels` channels."""
    return Cat(index == group * config.write_group // channels for group in range(config.write_groups))


class EngineStatus(wiring.Signature):
    """What every engine reports. `busy`: an instruction is in progress; `stall`: busy, but waiting for operands,
    parameters, or a port in this cycle."""

    def __init__(self) -> None:
        super().__init__({"busy": Out(1), "stall": Out(1)})


class InstructionPort(wiring.Signature):
    """Instructions to an engine: `body` offers the next one whose waits are over; `done` is 1 for one cycle for each
    completed instruction, in order, when its last result has been taken. What they have
    written is there for all reads in later cycles, so that others may begin with the next one."""

    def __init__(self, body: type[data.Struct]) -> None:
        super().__init__({"body": Out(stream.Signature(body)), "done": In(1)})


class StateWrite(wiring.Signature):
    """Write port of the state buffer, `lanes` = `config.state_group` elements at a time.

    `element` = ti * To + to is the index of the first element within its tile, a multiple of `lanes`; tiles are
    padded to whole stream words. Always accepted."""

    def __init__(self, config: AcceleratorConfig) -> None:
        self.lanes = config.state_group
        super().__init__(
            {
                "valid": Out(1),
                "tile": Out((config.state_tiles - 1).bit_length()),
                "element": Out((config.in_lanes * config.out_lanes - 1).bit_length()),
                "data": Out(data.ArrayLayout(config.operand_bits, self.lanes)),
            }
        )


class StateRead(wiring.Signature):
    """Read port of the state buffer: the stream word `word` of tile `tile`, from one cycle after `enable` until one
    cycle after the next."""

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "tile": Out((config.state_tiles - 1).bit_length()),
                "word": Out(range(max(config.tile_words, 2))),
                "data": In(config.stream_bits),
            }
        )
