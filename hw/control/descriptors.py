"""Program and descriptor formats: declared once, used by the hardware, the compiler, the driver, and the documentation.

A program is a sequence of 128-byte packets: one header, then descriptors. Every packet ends with the CRC-32
(ISO-HDLC) of its first 124 bytes. All addresses of data in external memory are byte offsets from a base register.

Instructions of an engine run in order. An instruction starts when, for every engine e, at least `waits[e]` instructions
of e have completed since the program started (event counts, modulo 2**16): see docs/decisions/event-counts.md.
"""

from enum import IntEnum

from amaranth.lib import data, enum

from hw.config import AcceleratorConfig
from quant import numerics

PACKET_BYTES = 128
CRC_BYTES = 4
MAGIC = 0x48545356  #: "VSTH", little-endian
WAIT_BITS = 16


class Engine(IntEnum):
    """Engines that execute instructions; the index is that of `waits` and of the event counters."""

    MATMUL = 0
    DEPTHWISE = 1
    ATTENTION = 2
    NORM = 3
    LOAD = 4
    STORE = 5


class Opcode(enum.Enum, shape=8):
    """Descriptor kinds: one per engine, and the end of the program."""

    MATMUL = 0
    DEPTHWISE = 1
    ATTENTION = 2
    NORM = 3
    LOAD = 4
    STORE = 5
    END = 15


class OperandMode(enum.Enum, shape=2):
    """`quant.numerics.Operand` in a descriptor."""

    NONE = int(numerics.Operand.NONE)
    RESIDUAL = int(numerics.Operand.RESIDUAL)
    TABLE = int(numerics.Operand.TABLE)
    STAGE = int(numerics.Operand.STAGE)


class MapView(data.Struct):
    """A feature map in a scratchpad, as rows of words; row r of the view lies at
    `start + r * row_stride`, wrapped from `limit` to `base` (a ring of rows). Within a row, words are ordered
    [channel block][pixel group], so block b, group g is `b * groups_per_row + g` further on.
    `start` is a whole number of rows from `base`, plus a channel-block offset that is the same in all rows;
    wrapping compares the address of the row's beginning, so `base` and `limit` carry that offset too.
    """

    pad: 2
    base: 16
    limit: 17
    start: 16
    row_stride: 16


class RequantMode(data.Struct):
    """How an instruction requantizes: see `quant.numerics.second_stage`."""

    operand: OperandMode
    divide: 1  #: use the stored reciprocals in place of the multipliers
    wide: 1  #: 16-bit signed output, spread over `slices` words; else clamp to 0 .. `limit`
    table_load: 1  #: a table precedes this instruction's parameters in its stream
    table_bank: 1  #: which of the two tables to load and use
    index_zero: numerics.INDEX_ZERO_BITS  #: two's complement
    residual_zero: 8
    shift2: numerics.SHIFT2_BITS
    limit: 8  #: largest code of activations: 2**bits - 1, with at most the bits of a scratchpad's elements


class ProgramHeader(data.Struct):
    """First packet. The sequencer refuses another magic, ABI, configuration hash, or a bad CRC."""

    magic: 32
    abi: 16
    reserved0: 16
    config_hash: 64
    descriptors: 32  #: packets after this one, the final END included
    program_bytes: 32  #: header and descriptors
    data_bytes: 32  #: whole image: program, then streams
    input_bytes: 32
    result_bytes: 32
    image_crc: 32  #: CRC-32 of everything after the header; checked by the driver
    port_stride: 32  #: bytes from one AXI port's part of the MATMUL streams to the next port's
    unused: PACKET_BYTES * 8 - 384
    crc: 32


class MatmulBody(data.Struct):
    """Pointwise, grouped, unrolled dense, fully connected, and attention (Q x state) products.

    For each of `out_tiles` output tiles: the requantization records, then for each of `in_blocks` input blocks one
    weight tile, held while `rows * groups_per_row` (at most `acc_depth`) words stream past.
    """

    source: MapView
    destination: MapView
    residual: MapView
    rows: 8
    groups_per_row: 8
    in_blocks: 12
    out_tiles: 12
    tiles_per_group: 12  #: after so many output tiles, the input moves on by `in_blocks` blocks; 0: never
    out_subblocks: 14  #: channel groups of `requant_channels` that are written; the rest of the last tile is dropped
    relu: 1  #: input is max(code - input_zero, 0)
    input_zero: 8
    from_state: 1  #: tiles come from the state buffer, starting at `state_tile`; tile 0 makes the divisors
    state_tile: 8
    slice_stride: 16  #: words between the slices of wide outputs
    requant: RequantMode
    stream_address: 32  #: from the program base, in bytes, on port 0; port j reads j * port_stride further on
    stream_words: 24  #: of `stream_bits`


class DepthwiseBody(data.Struct):
    """Depthwise 3x3 or 5x5, stride 1 or 2. Per channel block: parameters, then `rows` output rows.

    `source.start` is the first input row that exists and is needed; `top` rows of padding lie above it; rows from
    `source_rows` on (counted from `start`) are padding too.
    """

    source: MapView
    destination: MapView
    rows: 8
    groups_per_row: 8  #: of the output
    source_groups: 8  #: words per row and block of the input
    last_pixels: 6  #: pixels of the last word of an input row that are real, 1..P
    blocks: 12
    kernel5: 1
    stride2: 1
    top: 3
    source_rows: 10
    requant: RequantMode
    stream_address: 32  #: from the program base; words of `bus_bits`
    stream_words: 24


class AttentionBody(data.Struct):
    """State of one head, K^T V with ReLU(K) and row sums, into the state buffer; or average pooling of `blocks` blocks.

    State tiles from `state_tile` on: the divisor tiles (column 0 holds the row sums) of key blocks 0..d/Ti-1, then for
    each To columns of v the tiles of key blocks 0..d/Ti-1: the order in which the MAC array consumes them.
    """

    source: MapView
    destination: MapView  #: pooling only; one word per block, `row_stride` apart
    rows: 8
    groups_per_row: 8
    last_pixels: 6
    pool: 1
    pixel: 5  #: pooling: the pixel of the destination's words that is written
    blocks: 12  #: pooling: channel blocks; attention: blocks of one head, d / Ti
    key_block: 12  #: first block of k, counted in words of `groups_per_row` from the view's start
    value_block: 12
    input_zero: 8  #: 0 when pooling
    state_tile: 8
    state_multiplier: 16
    state_shift: numerics.SHIFT_BITS
    sum_multiplier: 16  #: row sums, and pooling
    sum_shift: numerics.SHIFT_BITS
    sum_bias: numerics.BIAS_BITS  #: pooling, two's complement
    out_zero: 8  #: pooling
    out_limit: 8  #: pooling: largest code, like `limit` of `RequantMode`


class NormBody(data.Struct):
    """LayerNorm of `channels` channels of one pixel. Gains and biases come as records."""

    source: MapView  #: one word per channel block, `row_stride` apart; likewise the destination
    destination: MapView
    channels: 16
    pixel: 5  #: of the words that is read and written
    epsilon: 40
    requant: RequantMode
    stream_address: 32  #: from the program base; words of `bus_bits`
    stream_words: 24


class LoadBody(data.Struct):
    """Unroll image rows for the 3x3 stride-2 stem. Output row i, kernel row ky takes image row first_row + 2*i + ky;
    rows outside 0..image_rows-1 are `pad_codes`. Lane (pixel p, channel j) of kernel-row block group ky is byte
    6*p - 3 + j of the row, for j in 0..8; blocks are [ky][ceil(9 / Ti)].

    With `stored`, read `rows` rows of `words_per_row` words each, as STORE instructions have written them; the fields
    for images are not used, and 0.
    """

    destination: MapView
    stored: 1
    address: 32  #: of image row 0, from the input base; of the first row, from the result base, if it is stored
    row_bytes: 16
    words_per_row: 16  #: of a stored map
    image_rows: 16
    first_row: 16  #: two's complement
    rows: 8
    groups_per_row: 8
    pad_code0: 8
    pad_code1: 8
    pad_code2: 8


class StoreBody(data.Struct):
    """Write `rows * words_per_row` scratchpad words, padded to whole beats, to external memory in order."""

    source: MapView
    rows: 16
    words_per_row: 16
    address: 32  #: from the result base


BODIES = {
    Opcode.MATMUL: MatmulBody,
    Opcode.DEPTHWISE: DepthwiseBody,
    Opcode.ATTENTION: AttentionBody,
    Opcode.NORM: NormBody,
    Opcode.LOAD: LoadBody,
    Opcode.STORE: StoreBody,
}

BODY_BITS = PACKET_BYTES * 8 - 8 - 24 - WAIT_BITS * len(Engine) - 8 * CRC_BYTES


class Packet(data.Struct):
    """A descriptor: opcode, event counts to wait for, body (low bits first), CRC."""

    opcode: Opcode
    reserved: 24
    waits: data.ArrayLayout(WAIT_BITS, len(Engine))
    body: BODY_BITS
    crc: 32


def record_layout() -> data.StructLayout:
    """Requantization record of one output channel in a parameter stream: 72 bits."""
    return data.StructLayout(
        {
            "bias": numerics.BIAS_BITS,  # two's complement
            "multiplier": numerics.MULTIPLIER_BITS,  # two's complement
            "shift": numerics.SHIFT_BITS,
            "zero_point": 8,
            "multiplier2": numerics.MULTIPLIER2_BITS,
        }
    )


def pack(layout: data.Layout | type[data.Struct], **values: object) -> int:
    """Encode field values as the bits of `layout`; negative numbers become two's complement.

    Raises ValueError for a value that does not fit its field, naming the field.
    """
    layout = data.Layout.cast(layout)
    bits = 0
    for name, value in values.items():
        field = layout[name]
        shape = field.shape
        if isinstance(value, dict):
            value = pack(shape, **value)
        elif isinstance(value, (list, tuple)):
            width = data.Layout.cast(shape)[0].width
            value = sum(_fit(v, width, name) << (i * width) for i, v in enumerate(value))
        bits |= _fit(int(getattr(value, "value", value)), field.width, name) << field.offset
    return bits


def unpack(layout: data.Layout | type[data.Struct], bits: int) -> dict[str, object]:
    """Fields of a packed structure as integers and nested dictionaries; the inverse of `pack` but for signs."""
    result: dict[str, object] = {}
    for name, field in data.Layout.cast(layout):
        value = bits >> field.offset & ((1 << field.width) - 1)
        nested = isinstance(field.shape, type) and issubclass(field.shape, data.Struct)
        result[name] = unpack(field.shape, value) if nested else value
    return result


def _fit(value: int, width: int, name: str) -> int:
    if not -(1 << (width - 1)) <= value < (1 << width):
        raise ValueError(f"{name} = {value} does not fit in {width} bits")
    return value & ((1 << width) - 1)


#: stream words of a block of `records` requantization records, of a table, and so on are padded to whole words
def words_for(bits: int, word_bits: int) -> int:
    """Words of `word_bits` that hold `bits` bits."""
    return -(-bits // word_bits)


def record_words(channels: int, word_bits: int) -> int:
    """Stream words of the requantization records of `channels` channels."""
    return words_for(channels * record_layout().size, word_bits)


def table_words(config: AcceleratorConfig, word_bits: int) -> int:
    """Stream words of one activation table."""
    return words_for((1 << config.table_index_bits) * numerics.OPERAND_BITS, word_bits)
