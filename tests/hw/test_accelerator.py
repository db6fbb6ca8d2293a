"""The accelerator as its host sees it: runs, counters, errors, recovery. Its arithmetic is tested elsewhere."""

from random import Random

import pytest

from hw.accelerator import Accelerator
from hw.config import STEM_TAPS, AcceleratorConfig
from hw.control.descriptors import Opcode
from hw.control.registers import ENGINES, ErrorCode
from tests.hw.control.support import Host, packet, program
from tests.hw.support import AxiMemory, simulate

CONFIG = AcceleratorConfig(
    name="tiny", pixels=2, in_lanes=4, out_lanes=4, dw_pixels=1, requant_channels=4, bus_bits=64, bus_ports=1,
    stream_bits=64, acc_depth=8, weight_buffer_words=16, parameter_buffer_words=16, pad_words=(128, 64, 64, 64),
    state_tiles=2, table_index_bits=4, divisor_mantissa_bits=2,
)  # fmt: skip
MEMORY = 0x12_3456_0000
PROGRAM, INPUT, RESULT = MEMORY, MEMORY + 0x3000, MEMORY + 0x4000  #: in one memory, one page of results
RESULT_BYTES = 0x800
ROWS, GROUPS, IMAGE_ROWS, ROW_BYTES = 2, 3, 5, 40
PADS = (11, 22, 33)
WORDS = ROWS * 3 * CONFIG.stem_blocks * GROUPS


def load_and_store(config_hash: int = CONFIG.hash, **store) -> bytearray:
    """Unroll a small image into pad 0, and store what came."""
    load = packet(
        Opcode.LOAD,
        destination={"pad": 0, "base": 0, "limit": 128, "start": 0, "row_stride": WORDS // ROWS},
        address=0x40, row_bytes=ROW_BYTES, image_rows=IMAGE_ROWS, first_row=-1, rows=ROWS, groups_per_row=GROUPS,
        pad_code0=PADS[0], pad_code1=PADS[1], pad_code2=PADS[2],
    )  # fmt: skip
    source = {"pad": 0, "base": 0, "limit": 128, "start": 0, "row_stride": WORDS // ROWS}
    fields = {"source": source, "rows": ROWS, "words_per_row": WORDS // ROWS, "address": 0x80} | store
    store_packet = packet(Opcode.STORE, (0, 0, 0, 0, 1, 0), **fields)
    return program([load, store_packet, packet(Opcode.END, (0, 0, 0, 0, 1, 1))], config_hash)


def unrolled(image: bytes) -> bytes:
    """What `load_and_store` leaves in the result area."""
    words = []
    for row in range(ROWS):
        for ky in range(3):
            y = -1 + 2 * row + ky
            for block in range(CONFIG.stem_blocks):
                for group in range(GROUPS):
                    for pixel in range(CONFIG.pixels):
                        for lane in range(CONFIG.in_lanes):
                            tap = block * CONFIG.in_lanes + lane
                            x = 6 * (group * CONFIG.pixels + pixel) - 3 + tap
                            inside = 0 <= y < IMAGE_ROWS and 0 <= x < ROW_BYTES
                            code = image[0x40 + y * ROW_BYTES + x] if inside else PADS[x % 3]
                            words.append(code if tap < STEM_TAPS else 0)
    return bytes(words)


class System:
    """An accelerator, its memory, and its host."""

    def __init__(self, stall: float) -> None:
        self.dut = Accelerator(CONFIG)
        contents = bytearray(Random(1).randbytes(0x5000))
        self.memory = AxiMemory(contents, base=MEMORY, latency=8, stall=stall)
        self.image = bytes(contents[0x3000:0x4000])
        self.idle = stall

    def simulate(self, bench) -> None:
        async def testbench(ctx):
            self.ctx = ctx
            self.host = Host(ctx, self.dut.s, idle=self.idle)
            await self.set_up()
            await bench(self)

        bus = self.dut.m[0]
        serve = self.memory.serve_reads, self.memory.serve_writes
        simulate(
            self.dut,
            testbench,
            background=[lambda ctx: serve[0](ctx, bus.read), lambda ctx: serve[1](ctx, bus.write)],
        )

    async def set_up(self) -> None:
        for name, base in (("PROGRAM", PROGRAM), ("INPUT", INPUT), ("RESULT", RESULT)):
            await self.host.write(f"{name}_BASE_LO", base % 2**32)
            await self.host.write(f"{name}_BASE_HI", base >> 32)
        await self.host.write("RESULT_BYTES", RESULT_BYTES)

    async def start(self, image: bytes) -> None:
        self.memory.contents[: len(image)] = image
        self.memory.contents[0x4000:] = bytes(0x1000)
        self.memory.written.clear()
        await self.host.set_field("CONTROL", "start")

    async def run(self, image: bytes) -> ErrorCode:
        """Run a program until it ends; returns its error code."""
        await self.start(image)
        while await self.host.field("STATUS", "busy"):
            pass
        error = await self.host.field("STATUS", "error")
        assert await self.host.field("STATUS", "done") == (not error)
        assert await self.host.field("STATUS", "idle") == (not error)
        assert await self.host.field("STATUS", "interrupt")
        return ErrorCode(await self.host.read("ERROR_CODE"))

    async def soft_reset(self) -> None:
        await self.host.set_field("CONTROL", "soft_reset")
        while await self.host.field("STATUS", "busy"):
            pass
        assert await self.host.field("STATUS", "idle") and not await self.host.field("STATUS", "interrupt")

    async def check_good_run(self) -> None:
        assert await self.run(load_and_store()) == ErrorCode.NONE
        stored = unrolled(self.image)
        result = self.memory.contents[0x4000:]
        assert result[0x80 : 0x80 + len(stored)] == stored
        assert not any(result[:0x80]) and not any(result[0x80 + len(stored) :])


def damaged(image: bytearray, position: int) -> bytearray:
    image[position] ^= 1
    return image


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_runs_and_counters(stall):
    """Two runs in a row, with the same counts; the interrupt; a start while busy is ignored."""

    async def bench(system):
        host, ctx, dut = system.host, system.ctx, system.dut
        await system.check_good_run()
        assert not ctx.get(dut.irq)
        await host.write("CONTROL", 0b100)
        assert ctx.get(dut.irq)
        await host.set_field("STATUS", "interrupt")
        assert not ctx.get(dut.irq)
        counts = {}
        for name in ENGINES:
            counts[name] = [await host.read(f"{kind}_{name.upper()}") for kind in ("EVENTS", "BUSY", "STALL")]
        cycles = await host.read("CYCLES_LO")
        for name, (events, busy, stalled) in counts.items():
            assert events == (name in ("load", "store"))
            assert (busy > WORDS) == (name in ("load", "store"))
            assert busy < cycles and stalled <= busy
        assert await host.read("PACKETS") == 4

        await system.start(load_and_store())
        await host.set_field("CONTROL", "start")
        await host.write("RESULT_BYTES", 0)  # ignored too
        while await host.field("STATUS", "busy"):
            pass
        assert await host.read("ERROR_CODE") == ErrorCode.NONE
        assert await host.read("EVENTS_STORE") == 1
        await system.check_good_run()

    System(stall).simulate(bench)


def test_refused_programs_write_nothing_and_a_good_one_runs_after_a_soft_reset():
    cases = {
        ErrorCode.BAD_MAGIC: (damaged(load_and_store(), 1), 0),
        ErrorCode.BAD_CONFIG: (load_and_store(CONFIG.hash ^ 1), 0),
        ErrorCode.BAD_CRC: (damaged(load_and_store(), 2 * 128 + 50), 2),
        ErrorCode.RESULT_RANGE: (load_and_store(address=RESULT_BYTES - 8 * WORDS + 8), 3),
    }

    async def bench(system):
        for code, (image, index) in cases.items():
            assert await system.run(image) == code
            assert await system.host.read("ERROR_INFO") == index
            assert not system.memory.written
            await system.host.set_field("CONTROL", "start")  # ignored
            await system.ctx.tick().repeat(50)
            assert await system.host.field("STATUS", "error")
            await system.soft_reset()
            assert await system.host.read("ERROR_CODE") == ErrorCode.NONE
        await system.check_good_run()

    System(0.1).simulate(bench)


def test_bus_errors():
    async def bench(system):
        for address, code in ((PROGRAM + 128, "READ"), (INPUT + 0x40, "READ"), (RESULT + 0x80, "WRITE")):
            system.memory.bad_addresses = range(address, address + 8)
            assert await system.run(load_and_store()) == ErrorCode[f"BUS_{code}"]
            bursts = len(system.memory.read_bursts)
            await system.ctx.tick().repeat(100)
            await system.soft_reset()
            assert len(system.memory.read_bursts) == bursts
        system.memory.bad_addresses = range(0)
        await system.check_good_run()

    System(0.1).simulate(bench)


def test_timeout():
    """An instruction that waits for something that never happens."""

    async def bench(system):
        await system.host.write("TIMEOUT", 100)
        stuck = program([packet(Opcode.STORE, (0, 0, 0, 1, 0, 0)), packet(Opcode.END)], CONFIG.hash)
        assert await system.run(stuck) == ErrorCode.TIMEOUT
        assert await system.host.read("CYCLES_LO") < 250
        await system.soft_reset()
        await system.host.write("TIMEOUT", 1 << 16)
        await system.check_good_run()

    System(0.0).simulate(bench)


def test_soft_reset_at_any_time():
    rng = Random(7)

    async def bench(system):
        for _ in range(12):
            await system.start(load_and_store())
            await system.ctx.tick().repeat(rng.randint(1, 250))
            await system.soft_reset()
        await system.check_good_run()

    System(0.2).simulate(bench)
