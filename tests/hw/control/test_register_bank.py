"""RegisterBank: the whole map over AXI4-Lite."""

from random import Random

import pytest

from hw.config import ABI_VERSION, CONFIGS
from hw.control.counters import COUNTERS
from hw.control.register_bank import RegisterBank
from hw.control.registers import ADDRESS_WIDTH, IDENTITY, REGISTERS, Access
from tests.hw.control.support import Host
from tests.hw.support import simulate

CONFIG = CONFIGS["nano"]
IDLES = pytest.mark.parametrize("idle", [0.0, 0.6])


def test_map_has_room_for_each_register_once():
    offsets = [register.offset for register in REGISTERS]
    assert len(set(offsets)) == len(offsets) == len({register.name for register in REGISTERS})
    assert all(offset % 4 == 0 and offset < 1 << ADDRESS_WIDTH for offset in offsets)
    for register in REGISTERS:
        assert len({field.bit for field in register.fields}) == len(register.fields)


@IDLES
def test_reads(idle):
    dut = RegisterBank(CONFIG)
    rng = Random(1)
    counts = [rng.getrandbits(32) for _ in COUNTERS]
    expected = {
        "IDENTITY": IDENTITY,
        "ABI_VERSION": ABI_VERSION,
        "CONFIG_HASH_LO": CONFIG.hash % 2**32,
        "CONFIG_HASH_HI": CONFIG.hash >> 32,
    }

    async def bench(ctx):
        for register in REGISTERS:
            if register.access is Access.RW:
                expected[register.name] = register.reset
            elif register.name in COUNTERS:
                expected[register.name] = counts[COUNTERS.index(register.name)]
            elif register.name not in expected:
                expected[register.name] = rng.getrandbits(32)
                ctx.set(getattr(dut, register.name.lower()), expected[register.name])
        host = Host(ctx, dut.bus, idle=idle)
        names = list(expected)
        rng.shuffle(names)
        for name in names:
            assert await host.read(name) == expected[name], name
        assert await host.read(0x7C) == await host.read(0xFFC) == 0

    async def count(ctx):
        while True:
            for turn, value in enumerate(counts):
                ctx.set(dut.turn, turn)
                ctx.set(dut.count, value)
                await ctx.tick()

    simulate(dut, bench, background=[count])


@IDLES
def test_writes(idle):
    dut = RegisterBank(CONFIG)
    rng = Random(1)

    async def bench(ctx):
        host = Host(ctx, dut.bus, idle=idle)
        values = {register.name: register.reset for register in REGISTERS if register.access is Access.RW}
        masks = {register.name: register.mask for register in REGISTERS}
        for _ in range(60):
            name = rng.choice(list(values))
            value, strobes = rng.getrandbits(32), rng.getrandbits(4)
            await host.write(name, value, strobes)
            enables = sum(0xFF << 8 * i for i in range(4) if strobes >> i & 1)
            values[name] = ((values[name] & ~enables) | (value & enables)) & masks[name]
            await host.write(0x7C, value)
            for other in values:
                assert ctx.get(getattr(dut, other.lower())) == values[other], other
            assert await host.read(name) == values[name]

    simulate(dut, bench)


def test_locked_registers_ignore_writes_during_a_run():
    dut = RegisterBank(CONFIG)

    async def bench(ctx):
        host = Host(ctx, dut.bus)
        ctx.set(dut.locked, 1)
        await host.write("RESULT_BYTES", 4096)
        await host.write("CONTROL", 0b100)
        assert await host.read("RESULT_BYTES") == 0
        assert await host.read("CONTROL") == 0b100
        ctx.set(dut.locked, 0)
        await host.write("RESULT_BYTES", 4096)
        assert await host.read("RESULT_BYTES") == 4096

    simulate(dut, bench)


def test_commands_are_single_pulses():
    dut = RegisterBank(CONFIG)
    commands = {
        (register.name, field.name): getattr(dut, f"{register.name}_{field.name}".lower())
        for register in REGISTERS
        for field in register.fields
        if field.command
    }
    counts = dict.fromkeys(commands, 0)

    async def bench(ctx):
        host = Host(ctx, dut.bus, idle=0.3)
        for name in commands:
            counts.update(dict.fromkeys(commands, 0))
            await host.set_field(*name)
            assert counts == {other: int(other == name) for other in commands}
        await host.write("CONTROL", 0xFFFFFFFF, strobes=0)
        assert sum(counts.values()) == 1

    async def monitor(ctx):
        while True:
            _, _, *pulses = await ctx.tick().sample(*commands.values())
            for name, pulse in zip(commands, pulses):
                counts[name] += pulse

    simulate(dut, bench, background=[monitor])
