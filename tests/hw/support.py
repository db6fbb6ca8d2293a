"""Shared parts of the unit tests: streams with random idle, and an AXI4 memory for Amaranth's simulator."""

from collections import deque
from collections.abc import Callable, Iterable
from random import Random

from amaranth.hdl import Elaboratable
from amaranth.sim import Simulator

from hw.bus.axi4 import BOUNDARY_BYTES, MAX_BURST_BEATS, Burst, Response

DEADLINE = 100_000  #: cycles after which a test bench gives up


async def stream_put(ctx, stream, payloads: Iterable, rng: Random | None = None, idle: float = 0.0) -> None:
    """Send `payloads`; before each, stay idle for a cycle with probability `idle`, again and again."""
    for payload in payloads:
        while rng and rng.random() < idle:
            await ctx.tick()
        ctx.set(stream.valid, 1)
        ctx.set(stream.payload, payload)
        await ctx.tick().until(stream.ready)
        ctx.set(stream.valid, 0)


async def stream_get(ctx, stream, count: int, rng: Random | None = None, idle: float = 0.0) -> list:
    """Receive `count` payloads, with back-pressure in a cycle with probability `idle`."""
    payloads = []
    for _ in range(count):
        while rng and rng.random() < idle:
            await ctx.tick()
        ctx.set(stream.ready, 1)
        (payload,) = await ctx.tick().sample(stream.payload).until(stream.valid)
        ctx.set(stream.ready, 0)
        payloads.append(payload)
    return payloads


async def random_bit(ctx, signal, rng: Random, probability: float) -> None:
    """Drive `signal` to 1 in every cycle with `probability`; a background test bench."""
    while True:
        ctx.set(signal, rng.random() < probability)
        await ctx.tick()


def simulate(
    dut: Elaboratable, *benches: Callable, background: Iterable[Callable] = (), vcd: str | None = None
) -> None:
    """Run test benches until all of `benches` have ended; fail after `DEADLINE` cycles."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)

    async def watchdog(ctx) -> None:
        for _ in range(DEADLINE):
            await ctx.tick()
        raise TimeoutError(f"still running after {DEADLINE} cycles")

    def add(bench: Callable, background: bool) -> None:
        async def testbench(ctx) -> None:
            await bench(ctx)

        simulator.add_testbench(testbench, background=background)

    for bench in benches:
        add(bench, False)
    for bench in (*background, watchdog):
        add(bench, True)
    if vcd is None:
        simulator.run()
    else:
        with simulator.write_vcd(vcd):
            simulator.run()


class AxiMemory:
    """External memory behind AXI4 ports, as background test benches `serve_reads` and `serve_writes`.

    Checks the protocol as far as this accelerator uses it: alignment, burst length, the 4096-byte boundary, stable
    requests, `wlast`. Accesses outside of `contents` fail the test, or answer SLVERR if in `bad_addresses`.

    Parameters
    ----------
    contents : bytes from address `base` on.
    latency : cycles from an accepted address to its first response.
    stall : probability of a channel not moving in a cycle.
    partial : writes may leave out bytes of a beat.
    """

    def __init__(
        self,
        contents: bytearray,
        *,
        base: int = 0,
        latency: int = 4,
        stall: float = 0.0,
        seed: int = 1,
        partial: bool = False,
    ) -> None:
        self.contents = contents
        self.base = base
        self.latency = latency
        self.stall = stall
        self.rng = Random(seed)
        self.partial = partial
        self.bad_addresses = range(0)
        self.read_bursts = []  #: (address, beats), in order of acceptance
        self.written = []  #: (address, bytes) of write beats, in order

    def _check_burst(self, address: int, beats: int, size: int, burst: int, width: int) -> None:
        assert 1 << size == width and Burst(burst) is Burst.INCR
        assert address % width == 0, f"burst at {address:#x} is not aligned"
        assert beats <= MAX_BURST_BEATS
        assert address // BOUNDARY_BYTES == (address + beats * width - 1) // BOUNDARY_BYTES, f"{address:#x} crosses"
        assert self.base <= address and address + beats * width <= self.base + len(self.contents), hex(address)

    def _ready(self) -> int:
        return self.rng.random() >= self.stall

    async def serve_reads(self, ctx, bus) -> None:
        """Answer reads of an `Axi4Read` port, one burst after the other, back to back."""
        width = len(bus.rdata) // 8
        beats = deque()  # (cycle when due, address, last)
        cycle = 0
        waiting = None  # a request that was not accepted must not change
        while True:
            if not ctx.get(bus.rvalid) and beats and beats[0][0] <= cycle and self._ready():
                _, address, last = beats[0]
                offset = address - self.base
                ctx.set(bus.rdata, int.from_bytes(self.contents[offset : offset + width], "little"))
                ctx.set(bus.rresp, Response.SLVERR if address in self.bad_addresses else Response.OKAY)
                ctx.set(bus.rlast, last)
                ctx.set(bus.rvalid, 1)
            ctx.set(bus.arready, self._ready())
            request = (bus.araddr, bus.arlen, bus.arsize, bus.arburst)
            *_, valid, ready, rvalid, rready, address, length, size, burst = await ctx.tick().sample(
                bus.arvalid, bus.arready, bus.rvalid, bus.rready, *request
            )
            cycle += 1
            assert waiting is None or (valid and (address, length) == waiting), "AR changed before it was accepted"
            waiting = (address, length) if valid and not ready else None
            if valid and ready:
                self._check_burst(address, length + 1, size, burst, width)
                self.read_bursts.append((address, length + 1))
                for i in range(length + 1):
                    beats.append((cycle + self.latency - 1, address + i * width, i == length))
            if rvalid and rready:
                beats.popleft()
                ctx.set(bus.rvalid, 0)

    async def serve_writes(self, ctx, bus) -> None:
        """Accept writes of an `Axi4Write` port; responses in order."""
        width = len(bus.wdata) // 8
        bursts, data, responses = deque(), deque(), deque()
        cycle = 0
        waiting_aw = waiting_w = None  # requests and beats that were not accepted must not change
        while True:
            if not ctx.get(bus.bvalid) and responses and responses[0][0] <= cycle and self._ready():
                ctx.set(bus.bresp, responses[0][1])
                ctx.set(bus.bvalid, 1)
            ctx.set(bus.awready, self._ready())
            ctx.set(bus.wready, self._ready())
            channels = (bus.awvalid, bus.awready, bus.wvalid, bus.wready, bus.bvalid, bus.bready)
            request = (bus.awaddr, bus.awlen, bus.awsize, bus.awburst)
            beat = (bus.wdata, bus.wstrb, bus.wlast)
            (
                *_,
                awvalid,
                awready,
                wvalid,
                wready,
                bvalid,
                bready,
                address,
                length,
                size,
                burst,
                word,
                strobe,
                last,
            ) = await ctx.tick().sample(*channels, *request, *beat)
            cycle += 1
            assert waiting_aw is None or (awvalid and (address, length) == waiting_aw), "AW changed"
            assert waiting_w is None or (wvalid and (word, last) == waiting_w), "W changed"
            waiting_aw = (address, length) if awvalid and not awready else None
            waiting_w = (word, last) if wvalid and not wready else None
            if awvalid and awready:
                self._check_burst(address, length + 1, size, burst, width)
                bursts.append((address, length + 1))
            if wvalid and wready:
                assert self.partial or strobe == (1 << width) - 1
                data.append((word.to_bytes(width, "little"), strobe, last))
            if bvalid and bready:
                responses.popleft()
                ctx.set(bus.bvalid, 0)
            if bursts and len(data) >= bursts[0][1]:
                address, length = bursts.popleft()
                for i in range(length):
                    content, strobe, last = data.popleft()
                    assert last == (i == length - 1), "wlast"
                    offset = address - self.base + i * width
                    for k in range(width):
                        if strobe >> k & 1:
                            self.contents[offset + k] = content[k]
                    self.written.append((address + i * width, content))
                bad = address in self.bad_addresses
                responses.append((cycle + self.latency - 1, Response.SLVERR if bad else Response.OKAY))
