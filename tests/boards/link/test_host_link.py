"""The host's side of the link, against a board in Python and a noisy line."""

from random import Random

import pytest

from boards.link.host import ATTEMPTS, HostLink, LinkError, NoAnswer
from boards.link.protocol import (
    REQUEST_SYNC,
    WORD_BYTES,
    Opcode,
    Request,
    Status,
    answer_frame,
    find_answer,
    request_frame,
)


class Line:
    """A line to a board in Python; each byte of either direction is damaged or lost with probability `noise`."""

    name = "test line"
    byte_seconds = 1e-6
    latency = 0.0

    def __init__(self, noise: float = 0.0, seed: int = 1) -> None:
        self.memory = bytearray(1 << 16)
        self.registers: dict[int, int] = {}
        self.noise = noise
        self.rng = Random(seed)
        self.to_host = bytearray()
        self.broken = False
        self.requests = 0

    def _through(self, data: bytes) -> bytes:
        passed = bytearray()
        for byte in data:
            if self.rng.random() < self.noise:
                if self.rng.random() < 0.5:
                    continue
                byte ^= 1 << self.rng.randrange(8)
            passed.append(byte)
        return bytes(passed)

    def write(self, data: bytes) -> None:
        assert data[0] == REQUEST_SYNC
        self.requests += 1
        passed = self._through(data)
        if not self.broken and passed == data:
            self.to_host += self._through(self._answer(data))

    def _answer(self, frame: bytes) -> bytes:
        opcode, sequence, words = frame[1:4]
        address = int.from_bytes(frame[4:8], "little")
        payload, size = frame[8:-4], words * WORD_BYTES
        if address >= len(self.memory):
            return answer_frame(Status.BUS_ERROR, sequence, address)
        if opcode == Opcode.WRITE_MEMORY.value:
            self.memory[address : address + size] = payload
        if opcode == Opcode.WRITE_REGISTER.value:
            self.registers[address] = int.from_bytes(payload, "little")
        if opcode == Opcode.READ_MEMORY.value:
            return answer_frame(Status.OK, sequence, address, bytes(self.memory[address : address + size]))
        if opcode == Opcode.READ_REGISTER.value:
            return answer_frame(Status.OK, sequence, address, self.registers.get(address, 0).to_bytes(8, "little"))
        return answer_frame(Status.OK, sequence, address)

    def read(self, count: int, seconds: float) -> bytes:
        taken = bytes(self.to_host[:count])
        del self.to_host[:count]
        return taken

    def close(self) -> None:
        pass


@pytest.mark.parametrize("noise", [0.0, 1e-4, 5e-4])
def test_transfers_over_a_noisy_line(noise: float) -> None:
    line = Line(noise, seed=2)
    link = HostLink(line)
    rng = Random(3)
    for size in (1, 8, 1024, 1025, 9000):
        address, content = 8 * rng.randrange(2000), rng.randbytes(size)
        link.write_memory(address, content)
        assert link.read_memory(address, size) == content
    link.write_register(16, 0xDEADBEEF)
    assert link.read_register(16) == 0xDEADBEEF
    assert (link.repetitions > 0) == (noise > 0)


def test_errors() -> None:
    line = Line()
    link = HostLink(line)
    with pytest.raises(LinkError, match="READ_MEMORY at 0x10000 was answered with a bus error"):
        link.read_memory(1 << 16, 8)
    line.requests, line.broken = 0, True
    with pytest.raises(NoAnswer, match="no answer from the board after 5 attempts"):
        link.read_register(0)
    assert line.requests == ATTEMPTS
    line.broken = False
    assert link.read_register(0) == 0


def test_answers_in_garbage() -> None:
    """An answer is found behind bytes that look like the beginning of another one."""
    frame = answer_frame(Status.OK, 5, 64, bytes(16))
    received = bytearray(b"\x00\x5a\x01" + frame + b"\x5a")
    answer = None
    while answer is None and received:
        answer, missing = find_answer(received)
        if answer is None:
            received += bytes(missing)  # bytes that the false beginning asked for
    assert answer and (answer.sequence, answer.address, answer.payload) == (5, 64, bytes(16))


def test_fields_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="address"):
        request_frame(Request(Opcode.READ_MEMORY, 1 << 32), 0)
