"""The link's frames: declared once, used by the hardware, the host driver, and the documentation.

A frame is a header of 8 bytes, `words` words of 8 bytes, and the CRC-32 (ISO-HDLC) of all bytes before it; everything
is little-endian. The host sends requests, the board sends exactly one answer to each request that it recognizes, in
order. Every request may be repeated: a second write of the same data changes nothing, a start is ignored during a run.

The board looks for a byte `REQUEST_SYNC`, takes the header that begins with it, and answers damaged frames with an
error status. A frame that pauses for longer than `GAP_BYTES` byte times is forgotten. The host repeats what was not
answered.
"""

import zlib
from dataclasses import dataclass

from amaranth.lib import data, enum

from hw.control.descriptors import pack

__all__ = [
    "Answer",
    "AnswerHeader",
    "Opcode",
    "Request",
    "RequestHeader",
    "Status",
    "answer_frame",
    "find_answer",
    "request_frame",
]

REQUEST_SYNC = 0xA5  #: first byte of a request
ANSWER_SYNC = 0x5A  #: first byte of an answer
WORD_BYTES = 8  #: of payload words, and of the memory's data bus
HEADER_BYTES = 8
CRC_BYTES = 4
MAX_WORDS = 128  #: payload of a frame
REQUEST_BUFFER_BYTES = 64  #: requests that the board holds while it is busy; more are lost
GAP_BYTES = 2048  #: byte times; a frame that pauses for longer is forgotten


class Opcode(enum.Enum, shape=8):
    """What a request asks for."""

    READ_MEMORY = 1  #: `words` words from `address`, a multiple of 8
    WRITE_MEMORY = 2  #: the payload to `address`, a multiple of 8
    READ_REGISTER = 3  #: the register at `address`; `words` is 1, the answer's word holds 32 bits
    WRITE_REGISTER = 4  #: the low 32 bits of the payload's one word to the register at `address`


class Status(enum.Enum, shape=8):
    """How a request ended."""

    OK = 0  #: done
    BAD_CHECKSUM = 1  #: the frame was damaged; nothing was done
    BAD_OPCODE = 2  #: unknown opcode; nothing was done
    BAD_LENGTH = 3  #: `words` is 0 or too large; nothing was done
    BUS_ERROR = 4  #: memory or register answered with an error


class RequestHeader(data.Struct):
    """From the host."""

    sync: 8  #: `REQUEST_SYNC`
    opcode: 8  #: see Opcode
    sequence: 8  #: any number; the answer repeats it
    words: 8  #: of the payload, or to read
    address: 32  #: in bytes; registers and memory have address spaces of their own


class AnswerHeader(data.Struct):
    """From the board."""

    sync: 8  #: `ANSWER_SYNC`
    status: 8  #: see Status
    sequence: 8  #: of the request
    words: 8  #: of the payload: what was read, or none
    address: 32  #: of the request


@dataclass(frozen=True)
class Request:
    """A request without its sequence number."""

    opcode: Opcode
    address: int
    words: int = 1  #: to read
    payload: bytes = b""  #: of whole words

    @property
    def frame_bytes(self) -> int:
        """Bytes on the line."""
        return HEADER_BYTES + len(self.payload) + CRC_BYTES

    @property
    def answer_bytes(self) -> int:
        """Bytes of the answer if all goes well."""
        reads = self.opcode in (Opcode.READ_MEMORY, Opcode.READ_REGISTER)
        return HEADER_BYTES + reads * self.words * WORD_BYTES + CRC_BYTES


@dataclass(frozen=True)
class Answer:
    """An answer whose checksum is right."""

    status: int
    sequence: int
    address: int
    payload: bytes


def _sealed(header: int, payload: bytes) -> bytes:
    content = header.to_bytes(HEADER_BYTES, "little") + payload
    return content + zlib.crc32(content).to_bytes(CRC_BYTES, "little")


def request_frame(request: Request, sequence: int) -> bytes:
    """The bytes of a request. Raises ValueError for a field that does not fit."""
    words = len(request.payload) // WORD_BYTES or request.words
    header = pack(
        RequestHeader, sync=REQUEST_SYNC, opcode=request.opcode, sequence=sequence, words=words, address=request.address
    )
    return _sealed(header, request.payload)


def answer_frame(status: Status, sequence: int, address: int, payload: bytes = b"") -> bytes:
    """The bytes of an answer."""
    words = len(payload) // WORD_BYTES
    header = pack(
        AnswerHeader, sync=ANSWER_SYNC, status=status, sequence=sequence, words=words, address=address
    )  # fmt: skip
    return _sealed(header, payload)


def find_answer(received: bytearray) -> tuple[Answer | None, int]:
    """Take the first intact answer out of `received`, with all garbage before it.

    Returns the answer, or None and how many more bytes could complete one. What may yet become an answer stays in
    `received`.
    """
    while received:
        if received[0] != ANSWER_SYNC or (len(received) > 3 and received[3] > MAX_WORDS):
            del received[0]
            continue
        size = HEADER_BYTES + CRC_BYTES + (received[3] * WORD_BYTES if len(received) > 3 else 0)
        if len(received) < size:
            return None, size - len(received)
        content, checksum = received[: size - CRC_BYTES], received[size - CRC_BYTES : size]
        if zlib.crc32(content).to_bytes(CRC_BYTES, "little") != checksum:
            del received[0]
            continue
        del received[:size]
        header = data.Const(data.Layout.cast(AnswerHeader), int.from_bytes(content[:HEADER_BYTES], "little"))
        return Answer(header.status, header.sequence, header.address, bytes(content[HEADER_BYTES:])), 0
    return None, HEADER_BYTES + CRC_BYTES
