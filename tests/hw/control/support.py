"""A host for AXI4-Lite ports, and programs that are easy to damage."""

from random import Random

from compiler.program import assemble, seal
from hw.bus.axi4 import Response
from hw.control.descriptors import BODIES, PACKET_BYTES, Opcode, Packet, pack
from hw.control.registers import BY_NAME, Register


class Host:
    """Reads and writes registers by name over AXI4-Lite, with random idle on every channel."""

    def __init__(self, ctx, bus, *, idle: float = 0.0, seed: int = 1) -> None:
        self.ctx = ctx
        self.bus = bus
        self.idle = idle
        self.rng = Random(seed)

    async def _wait(self) -> None:
        while self.rng.random() < self.idle:
            await self.ctx.tick()

    async def write(self, name: str | int, value: int, strobes: int = 0xF) -> None:
        """Write a register, or an address; address and data come in any order."""
        ctx, bus = self.ctx, self.bus
        address = name if isinstance(name, int) else BY_NAME[name].offset
        waiting = {"aw", "w"}
        ctx.set(bus.awaddr, address)
        ctx.set(bus.wdata, value)
        ctx.set(bus.wstrb, strobes)
        while waiting:
            for channel in sorted(waiting):
                if self.rng.random() >= self.idle:
                    ctx.set(getattr(bus, f"{channel}valid"), 1)
            *_, aw, w = await ctx.tick().sample(bus.awvalid & bus.awready, bus.wvalid & bus.wready)
            for channel, moved in (("aw", aw), ("w", w)):
                if moved:
                    waiting.discard(channel)
                    ctx.set(getattr(bus, f"{channel}valid"), 0)
        await self._wait()
        ctx.set(bus.bready, 1)
        *_, response = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
        ctx.set(bus.bready, 0)
        assert response == Response.OKAY

    async def read(self, name: str | int) -> int:
        """Read a register, or an address."""
        ctx, bus = self.ctx, self.bus
        await self._wait()
        ctx.set(bus.araddr, name if isinstance(name, int) else BY_NAME[name].offset)
        ctx.set(bus.arvalid, 1)
        await ctx.tick().until(bus.arready)
        ctx.set(bus.arvalid, 0)
        await self._wait()
        ctx.set(bus.rready, 1)
        data, response = await ctx.tick().sample(bus.rdata, bus.rresp).until(bus.rvalid)
        ctx.set(bus.rready, 0)
        assert response == Response.OKAY
        return data

    async def set_field(self, register: str, field: str) -> None:
        """Write 1 to one field, and 0 to the others."""
        await self.write(register, field_mask(BY_NAME[register], field))

    async def field(self, register: str, field: str) -> bool:
        """Read one field."""
        return bool(await self.read(register) & field_mask(BY_NAME[register], field))


def field_mask(register: Register, field: str) -> int:
    return 1 << register.field(field).bit


def packet(opcode: Opcode, waits=(0, 0, 0, 0, 0, 0), **body) -> int:
    """One unsealed packet."""
    bits = pack(BODIES[opcode], **body) if opcode in BODIES else 0
    return pack(Packet, opcode=opcode, waits=list(waits), body=bits)


def program(packets: list[int], config_hash: int, streams: bytes = b"", port_stride: int = 0) -> bytearray:
    """Memory image of packets and streams."""
    return bytearray(
        assemble(packets, streams, config_hash=config_hash, input_bytes=0, result_bytes=0, port_stride=port_stride)
    )


def change_header(image: bytearray, position: int, content: bytes) -> None:
    """Overwrite bytes of the header and seal it again."""
    changed = image[:PACKET_BYTES]
    changed[position : position + len(content)] = content
    image[:PACKET_BYTES] = seal(int.from_bytes(changed[:-4], "little"))
