"""Prediction of runs: the clock, the memory, the ports, and what programs depend on."""

import pytest

from compiler.compile import compile_network
from compiler.rehearsal import MemoryTiming
from compiler.rehearsal.clock import Clock, Flag, Process
from compiler.rehearsal.memory import BUFFER, REQUEST, Memory, Stream
from compiler.rehearsal.ports import PadPorts, Usage
from hw.config import CONFIGS, AcceleratorConfig
from tests.configs import ALL, SMALL, quantizer_settings
from tests.quant.support import tiny_network

BASE = CONFIGS["base"]


def run(clock: Clock, process: Process) -> None:
    clock.start(process)
    clock.run()


def test_processes_go_on_in_order_of_time() -> None:
    clock, seen = Clock(), []
    flag = Flag(clock)

    def first() -> Process:
        yield 5
        seen.append(("first", clock.now))
        flag.raised()

    def second() -> Process:
        yield flag
        seen.append(("second", clock.now))
        yield clock.now + 2
        seen.append(("second", clock.now))

    clock.start(second())
    run(clock, first())
    assert seen == [("first", 5), ("second", 5), ("second", 7)]


@pytest.mark.parametrize(("rate", "cycles_per_word"), [(64, 1), (16, 4), (1e9, 1)])
def test_streams_come_at_the_rate_of_the_memory(rate: float, cycles_per_word: int) -> None:
    clock, arrivals = Clock(), []
    memory = Memory(BASE, MemoryTiming(latency=50, bytes_per_cycle=rate))
    stream = Stream(clock, memory, words=512, every_port=True)  # a word is a beat on each of four ports

    def reader() -> Process:
        stream.fetch(64)
        for index in range(64):
            arrivals.append((yield from stream.arrival(index)))

    run(clock, reader())
    assert arrivals[0] == REQUEST + 50 + BUFFER
    assert arrivals[-1] - arrivals[0] == 63 * cycles_per_word


def test_streams_wait_for_room() -> None:
    clock = Clock()
    stream = Stream(clock, Memory(BASE, MemoryTiming(latency=10)), words=32)
    late: list[int] = []

    def reader() -> Process:
        stream.fetch(48)
        yield from stream.arrival(31)
        yield 500
        stream.take(16)
        late.append((yield from stream.arrival(32)))

    run(clock, reader())
    assert late == [500 + REQUEST + 10 + BUFFER]


def test_usage_counts_cycles() -> None:
    usage = Usage()
    usage.add(10, 20, 10)
    usage.add(20, 30, 10)
    usage.add(40, 60, 10)
    assert [usage.until(t) for t in (0, 10, 15, 30, 35, 50, 60, 100)] == [0, 0, 5, 20, 20, 25, 30, 30]
    assert [usage.until(t, 0.0) for t in (15, 50, 100)] == [5, 20, 20]  # those of complete stretches only
    usage.extend(80)
    assert [usage.until(t) for t in (50, 60, 100)] == [22.5, 25, 30]


def test_a_complete_stretch_that_is_extended_is_no_longer_complete() -> None:
    usage = Usage()
    usage.add(0, 10, 10)
    usage.extend(20)
    usage.add(20, 25, 5)
    assert [usage.until(t, share) for t in (20, 25) for share in (1.0, 0.0)] == [10, 0, 15, 5]


def test_lower_priorities_wait() -> None:
    clock, ends = Clock(), []
    ports = PadPorts(clock, ("high", "low"))

    def low() -> Process:
        ports.use("high", 1, 5, 25, 20)
        ends.append((yield from ports.finish("low", 1, 0, 10, 10)))  # 5 cycles before, 5 after
        ends.append((yield from ports.finish("low", 0, 30, 40, 10)))  # another pad
        ports.use("high", 1, 50, 60, 10)
        ends.append((yield from ports.grant("low", 1, 52)))

    run(clock, low())
    assert ends == [30, 40, 60]


def test_a_rigid_requester_is_late_by_what_others_use_completely() -> None:
    clock, ends = Clock(), []
    ports = PadPorts(clock, ("high", "low"))

    def low() -> Process:
        ports.use("high", 0, 10, 20, 10)
        ports.use("high", 0, 30, 40, 5)
        ends.append((yield from ports.finish("low", 0, 0, 50, 10)))
        ports.use("high", 0, 110, 120, 10)
        ports.use("high", 0, 130, 140, 5)
        ends.append((yield from ports.finish("low", 0, 100, 150, 10, rigid=True)))

    run(clock, low())
    assert ends == [50, 160]


def test_grants_leave_others_their_share() -> None:
    """A port that is used in three of four cycles gives one in four to whoever asks all the time."""
    clock, cycles = Clock(), []
    ports = PadPorts(clock, ("high", "low"))

    def low() -> Process:
        ports.use("high", 0, 0, 400, 300)
        time = 0
        for _ in range(50):
            time = (yield from ports.grant("low", 0, time)) + 1
            cycles.append(time)

    run(clock, low())
    assert cycles[-1] == pytest.approx(200, abs=4)


def test_a_refused_requester_does_not_hold_up_others_twice() -> None:
    """Ten cycles each for three that begin together: the last one is done after thirty."""
    clock, ends = Clock(), []
    ports = PadPorts(clock, ("high", "middle", "low"))

    def middle() -> Process:
        ports.use("high", 0, 0, 10, 10)
        ends.append((yield from ports.finish("middle", 0, 0, 10, 10)))

    def low() -> Process:
        yield 1
        ends.append((yield from ports.finish("low", 0, 0, 10, 10)))

    clock.start(middle())
    clock.start(low())
    clock.run()
    assert ends == [20, 30]


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.name)
def test_every_configuration_is_predicted(config: AcceleratorConfig) -> None:
    network, _ = tiny_network(64, **quantizer_settings(config))
    program = compile_network(network, config.replace(pad_words=(4096,) * 4), batch=2)
    last = [0] * 6
    for engine, _, _, start, done in program.timeline:
        assert last[engine] < start < done <= program.predicted_cycles  # engines work in order
        last[engine] = start


def test_memory_matters_to_the_prediction_and_the_choice() -> None:
    network, _ = tiny_network(64, **quantizer_settings(SMALL))
    fast, slow = (
        compile_network(network, SMALL, memory=MemoryTiming(latency=latency, bytes_per_cycle=rate))
        for latency, rate in ((1, 1e9), (300, 1))
    )
    assert fast.predicted_cycles < slow.predicted_cycles
    assert fast.image != slow.image  # longer bands, which load weights less often
    assert len(fast.timeline) > len(slow.timeline)
