"""A compiled program: the memory image that the accelerator executes, and where its results lie."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from hw.config import ABI_VERSION
from hw.control.descriptors import (
    BODIES,
    MAGIC,
    PACKET_BYTES,
    WAIT_BITS,
    Engine,
    Opcode,
    Packet,
    ProgramHeader,
    pack,
    unpack,
)

__all__ = ["Descriptor", "Program", "ProgramError", "StoredMap", "descriptors", "seal"]


class ProgramError(ValueError):
    """A program file that is truncated, corrupted, or made for another configuration."""


def seal(packet: int) -> bytes:
    """128 bytes of a packet with the CRC-32 of its first 124 bytes in its last 4."""
    content = packet.to_bytes(PACKET_BYTES, "little")[: PACKET_BYTES - 4]
    return content + zlib.crc32(content).to_bytes(4, "little")


@dataclass(frozen=True)
class StoredMap:
    """A band of rows of one node's codes in the result area.

    The band is `rows * blocks * groups` scratchpad words in map order ([row][channel block][pixel group]), each padded
    to whole beats. For class scores (`scores`), the words are ordered [slice][channel block][pixel group] instead.
    """

    node: str
    offset: int  #: bytes from the result base
    row: int  #: first row of the band
    rows: int
    width: int
    channels: int
    blocks: int
    groups: int
    scores: bool = False
    instruction: int = -1  #: index of the store among the program's descriptors
    frame: int = 0  #: of the run
    channel: int = 0  #: of the node's map that is the first one here
    pixel: int = 0  #: first pixel of the rows that belongs to the map; behind the pooling, frames lie side by side


@dataclass(frozen=True)
class Program:
    """Memory image (header, descriptors, parameter streams) and its metadata.

    `image` lies at the program base; `stored` says what the result area holds after a run, class scores first.
    """

    image: bytes
    config_hash: int
    input_bytes: int  #: of all of them, one after the other
    result_bytes: int
    stored: tuple[StoredMap, ...]
    predicted_cycles: int
    batch: int = 1  #: frames of a run
    layers: tuple[dict[str, object], ...] = ()  #: per-node predictions, for reports
    #: (engine, node, useful MACs, predicted start, predicted end) of every instruction, in program order
    timeline: tuple[tuple[int, str, int, int, int], ...] = ()

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates of a run."""
        return sum(row[2] for row in self.timeline)

    @property
    def scores(self) -> tuple[StoredMap, ...]:
        """Where each frame's class scores lie."""
        return tuple(s for s in self.stored if s.scores)

    def save(self, path: Path) -> None:
        """Write `path` (image) and `path` with suffix .json (metadata)."""
        document = {k: v for k, v in asdict(self).items() if k != "image"}
        for target, content in ((path, self.image), (path.with_suffix(".json"), json.dumps(document).encode())):
            temporary = Path(f"{target}.partial")
            temporary.write_bytes(content)
            temporary.replace(target)

    @classmethod
    def load(cls, path: Path) -> "Program":
        """Read and check a saved program. Raises `ProgramError` for anything damaged."""
        try:
            image = path.read_bytes()
            document = json.loads(path.with_suffix(".json").read_text())
        except (OSError, ValueError) as error:
            raise ProgramError(f"{path}: cannot be read ({error}); compile again") from error
        check_image(image, str(path))
        try:
            stored = tuple(StoredMap(**s) for s in document.pop("stored"))
            timeline = tuple(tuple(row) for row in document.pop("timeline"))
            layers = tuple(document.pop("layers"))
            program = cls(image=image, stored=stored, layers=layers, timeline=timeline, **document)
        except (KeyError, TypeError) as error:
            raise ProgramError(f"{path.with_suffix('.json')}: malformed metadata ({error!r}); compile again") from error
        if header_field(image, "config_hash") != program.config_hash:
            raise ProgramError(f"{path}: image and metadata belong to different configurations; compile again")
        return program


def header_field(image: bytes, name: str) -> int:
    """Value of a field of a program's header."""
    field = ProgramHeader.as_shape()[name]
    return int.from_bytes(image[:PACKET_BYTES], "little") >> field.offset & ((1 << field.width) - 1)


@dataclass(frozen=True)
class Descriptor:
    """One instruction of a program image."""

    engine: Engine
    waits: tuple[int, ...]  #: event counts by engine
    body: dict[str, object]  #: fields, nested


def descriptors(image: bytes) -> list[Descriptor]:
    """The instructions of a program image, without its END."""
    result = []
    for index in range(header_field(image, "descriptors")):
        start = PACKET_BYTES * (1 + index)
        packet = unpack(Packet, int.from_bytes(image[start : start + PACKET_BYTES], "little"))
        opcode = Opcode(packet["opcode"])
        if opcode != Opcode.END:
            waits = tuple(packet["waits"] >> (WAIT_BITS * e) & ((1 << WAIT_BITS) - 1) for e in Engine)
            result.append(Descriptor(Engine[opcode.name], waits, unpack(BODIES[opcode], packet["body"])))
    return result


def check_image(image: bytes, where: str) -> None:
    """Raise `ProgramError` unless magic, ABI, length, and both checksums of an image are right."""
    if len(image) < PACKET_BYTES or header_field(image, "magic") != MAGIC:
        raise ProgramError(f"{where}: not a vitsmith program")
    if image[:PACKET_BYTES] != seal(int.from_bytes(image[: PACKET_BYTES - 4], "little")):
        raise ProgramError(f"{where}: corrupted header (checksum); compile again")
    if (abi := header_field(image, "abi")) != ABI_VERSION:
        raise ProgramError(f"{where}: ABI version {abi}, but this is version {ABI_VERSION}; compile again")
    if len(image) != header_field(image, "data_bytes"):
        raise ProgramError(f"{where}: {len(image)} bytes, but the header says {header_field(image, 'data_bytes')}")
    if zlib.crc32(image[PACKET_BYTES:]) != header_field(image, "image_crc"):
        raise ProgramError(f"{where}: corrupted content (checksum); compile again")


def assemble(
    packets: list[int], streams: bytes, *, config_hash: int, input_bytes: int, result_bytes: int, port_stride: int
) -> bytes:
    """Memory image of descriptors (END last) and parameter streams, with its header.

    `streams` lies right behind the descriptors, at `stream_base(len(packets))` from the program base.
    """
    descriptors = b"".join(seal(packet) for packet in packets)
    gap = bytes(stream_base(len(packets)) - PACKET_BYTES - len(descriptors))
    content = descriptors + gap + streams
    header = pack(
        ProgramHeader,
        magic=MAGIC,
        abi=ABI_VERSION,
        config_hash=config_hash,
        descriptors=len(packets),
        program_bytes=PACKET_BYTES * (1 + len(packets)),
        data_bytes=PACKET_BYTES + len(content),
        input_bytes=input_bytes,
        result_bytes=result_bytes,
        image_crc=zlib.crc32(content),
        port_stride=port_stride,
    )
    return seal(header) + content


def stream_base(packets: int) -> int:
    """Byte offset of the parameter streams behind a header and `packets` descriptors: the next 4096-byte page."""
    return -(-PACKET_BYTES * (1 + packets) // 4096) * 4096
