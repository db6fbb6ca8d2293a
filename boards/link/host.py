"""The host's side of the link, over any stream of bytes."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from boards.link.protocol import (
    GAP_BYTES,
    MAX_WORDS,
    REQUEST_BUFFER_BYTES,
    WORD_BYTES,
    Answer,
    Opcode,
    Request,
    Status,
    find_answer,
    request_frame,
)

__all__ = ["ByteStream", "HostLink", "LinkError", "NoAnswer"]

ATTEMPTS = 5  #: times that a request is sent before it is given up
WINDOW = 16  #: requests on their way
PAYLOAD_BYTES = MAX_WORDS * WORD_BYTES


class LinkError(RuntimeError):
    """The board refused a request, or the line is too noisy."""


class NoAnswer(LinkError):
    """Nothing intact came back from the board."""


class ByteStream(Protocol):
    """A serial line."""

    name: str  #: for messages
    byte_seconds: float  #: duration of a byte on the line
    latency: float  #: seconds that drivers and cables add to an answer, at most

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def read(self, count: int, seconds: float) -> bytes:
        """Up to `count` bytes; fewer only if no more came within `seconds`."""

    def close(self) -> None:
        """Release the line."""


class HostLink:
    """A `boards.driver.Access` over a line; repeats what was damaged or lost.

    Raises `NoAnswer` or `LinkError` when a request has failed `ATTEMPTS` times in a row.
    """

    memory_base = 0

    def __init__(self, stream: ByteStream) -> None:
        self.name = stream.name
        self.stream = stream
        self.repetitions = 0  #: requests that had to be sent again
        self._received = bytearray()
        self._sequence = 0

    def write_memory(self, address: int, content: bytes, progress: Callable[[int, int], None] | None = None) -> None:
        """Write bytes from `address`, a multiple of 8, on; the last word is filled up with zeros."""
        content = content.ljust(-(-len(content) // WORD_BYTES) * WORD_BYTES, b"\0")
        requests = [
            Request(Opcode.WRITE_MEMORY, address + i, payload=content[i : i + PAYLOAD_BYTES])
            for i in range(0, len(content), PAYLOAD_BYTES)
        ]
        self._exchange(requests, progress)

    def read_memory(self, address: int, size: int) -> bytes:
        """Read `size` bytes from `address`, a multiple of 8, on."""
        words = -(-size // WORD_BYTES)
        requests = [
            Request(Opcode.READ_MEMORY, address + i * WORD_BYTES, words=min(MAX_WORDS, words - i))
            for i in range(0, words, MAX_WORDS)
        ]
        return b"".join(self._exchange(requests))[:size]

    def write_register(self, offset: int, value: int) -> None:
        """Write a register of the accelerator."""
        self._exchange([Request(Opcode.WRITE_REGISTER, offset, payload=value.to_bytes(WORD_BYTES, "little"))])

    def read_register(self, offset: int) -> int:
        """Read a register of the accelerator."""
        (payload,) = self._exchange([Request(Opcode.READ_REGISTER, offset)])
        return int.from_bytes(payload, "little")

    def close(self) -> None:
        """Release the line."""
        self.stream.close()

    def _exchange(self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None) -> list[bytes]:
        """Payloads of the answers to all requests, which are of one kind, so that any order does."""
        payloads: dict[int, bytes] = {}
        waiting = deque(range(len(requests)))
        on_the_way: dict[int, int] = {}  # index by sequence number
        failures = 0
        while len(payloads) < len(requests):
            while waiting and self._fits([requests[i] for i in (*on_the_way.values(), waiting[0])]):
                index = waiting.popleft()
                on_the_way[self._send(requests[index])] = index
            answer = self._receive([requests[i] for i in on_the_way.values()])
            if answer and self._answers(answer, on_the_way, requests) and answer.status == Status.OK.value:
                payloads[on_the_way.pop(answer.sequence)] = answer.payload
                failures = 0
                if progress:
                    progress(len(payloads), len(requests))
            elif answer is None or answer.sequence in on_the_way:
                failures += 1
                first = answer.sequence if answer else next(iter(on_the_way))
                self._give_up(answer, failures, requests[on_the_way[first]])
                self._drain()
                self.repetitions += len(on_the_way)
                waiting = deque(sorted((*on_the_way.values(), *waiting)))
                on_the_way.clear()
        return [payloads[i] for i in range(len(requests))]

    def _fits(self, requests: Sequence[Request]) -> bool:
        """Whether the board can take so many: it sends answers more slowly than it gets requests to read."""
        short = sum(r.frame_bytes for r in requests if r.answer_bytes > r.frame_bytes)
        return len(requests) == 1 or (len(requests) <= WINDOW and short <= REQUEST_BUFFER_BYTES)

    def _send(self, request: Request) -> int:
        self._sequence = (self._sequence + 1) & 0xFF
        self.stream.write(request_frame(request, self._sequence))
        return self._sequence

    def _receive(self, requests: Sequence[Request]) -> Answer | None:
        """The next answer, or None if the line stays silent for so long that the board has forgotten what it had."""
        line_bytes = GAP_BYTES + sum(r.frame_bytes + r.answer_bytes for r in requests)
        while True:
            answer, missing = find_answer(self._received)
            if answer:
                return answer
            more = self.stream.read(missing, 2 * line_bytes * self.stream.byte_seconds + self.stream.latency)
            if not more:
                return None
            self._received += more

    def _answers(self, answer: Answer, on_the_way: dict[int, int], requests: Sequence[Request]) -> bool:
        if answer.sequence not in on_the_way:
            return False  # to a request that was repeated since
        request = requests[on_the_way[answer.sequence]]
        reads = request.opcode in (Opcode.READ_MEMORY, Opcode.READ_REGISTER)
        return answer.address == request.address and len(answer.payload) == reads * request.words * WORD_BYTES

    def _give_up(self, answer: Answer | None, failures: int, request: Request) -> None:
        """Raise if there is no point in trying again."""
        if answer and answer.status == Status.BUS_ERROR.value:
            self._drain()
            raise LinkError(f"{request.opcode.name} at {request.address:#x} was answered with a bus error")
        if failures == ATTEMPTS and answer:
            raise LinkError(
                f"{self.stream.name}: {request.opcode.name} failed {failures} times, the last time with "
                f"{Status(answer.status).name}; check the cable, or use a lower baud rate"
            )
        if failures == ATTEMPTS:
            raise NoAnswer(f"{self.stream.name}: no answer from the board after {failures} attempts")

    def _drain(self) -> None:
        """Forget what has come and what still comes."""
        self._received.clear()
        while self.stream.read(1 << 16, GAP_BYTES * self.stream.byte_seconds + self.stream.latency):
            pass
