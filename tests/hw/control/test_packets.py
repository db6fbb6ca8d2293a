"""PacketAssembler and its checksum: every bit of a packet counts."""

from random import Random

import pytest

from compiler.program import seal
from hw.config import CONFIGS
from hw.control.descriptors import PACKET_BYTES
from hw.control.packets import PacketAssembler
from tests.hw.support import simulate, stream_get, stream_put


@pytest.mark.parametrize("bus_bits", [32, 64, 128, 256])
@pytest.mark.parametrize("idle", [0.0, 0.5])
def test_packets(bus_bits, idle):
    dut = PacketAssembler(CONFIGS["nano"].replace(bus_bits=bus_bits, stream_bits=256))
    rng = Random(1)
    packets = []
    for index in range(60):
        sound = index % 3 == 0
        packet = int.from_bytes(seal(rng.getrandbits(8 * PACKET_BYTES - 32)), "little")
        packets.append((packet if sound else packet ^ 1 << rng.randrange(8 * PACKET_BYTES), sound))
    beats = [packet >> i & (1 << bus_bits) - 1 for packet, _ in packets for i in range(0, 8 * PACKET_BYTES, bus_bits)]

    async def send(ctx):
        await stream_put(ctx, dut.i, beats, Random(2), idle)

    async def receive(ctx):
        got = await stream_get(ctx, dut.o, len(packets), Random(3), idle)
        assert [(packet.bits, bool(packet.intact)) for packet in got] == packets

    simulate(dut, send, receive)
