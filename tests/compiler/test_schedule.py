"""Dependencies are exact, and the waits reproduce them."""

import numpy as np

from compiler.cycles import Timing
from compiler.instructions import Instruction
from compiler.schedule import dependencies, schedule
from hw.config import CONFIGS
from hw.control.descriptors import Engine

CONFIG = CONFIGS["nano"]


def words(*values: int) -> list[tuple[int, np.ndarray]]:
    return [(0, np.array(values))]


def instructions() -> list[Instruction]:
    return [
        Instruction(Engine.LOAD, "a", {}, writes=words(0, 1)),
        Instruction(Engine.MATMUL, "b", {}, reads=words(1), writes=words(2)),
        Instruction(Engine.DEPTHWISE, "c", {}, reads=words(2), writes=words(3)),
        Instruction(Engine.LOAD, "d", {}, writes=words(1)),  # must not overwrite what b reads
        Instruction(Engine.MATMUL, "e", {}, reads=words(1), writes=words(4)),
        Instruction(Engine.STORE, "f", {}, reads=words(3, 4)),
    ]


def test_hazards_are_found() -> None:
    needs = dependencies(instructions(), CONFIG)
    assert [n.done for n in needs] == [set(), {0}, {1}, {0, 1}, {3}, {2, 4}]
    assert not any(n.begun for n in needs)


def test_readers_of_one_engine_follow_each_other_without_waiting() -> None:
    program = [
        Instruction(Engine.MATMUL, "a", {}, reads=words(0), writes=words(1)),
        Instruction(Engine.MATMUL, "b", {}, reads=words(0), writes=words(2)),
        Instruction(Engine.LOAD, "c", {}, writes=words(0)),  # has to wait for the last reader, who stands for both
    ]
    needs = dependencies(program, CONFIG)
    assert [(n.done, n.begun) for n in needs] == [(set(), set()), (set(), {0}), ({1}, set())]
    scheduled = schedule(program, needs, [Timing(5, 9)] * 3)
    assert scheduled.start == [0, 5, 14]
    assert scheduled.waits[1][Engine.MATMUL] == 0


def test_waits_cover_dependencies_and_order_is_topological() -> None:
    program = instructions()
    needs = dependencies(program, CONFIG)
    scheduled = schedule(program, needs, [Timing(5, 9)] * len(program))
    position = {index: place for place, index in enumerate(scheduled.order)}
    done = dict.fromkeys(Engine, 0)
    completed: dict[int, int] = {}
    for index in scheduled.order:
        done[program[index].engine] += 1
        completed[index] = done[program[index].engine]
    for index, needed in enumerate(needs):
        for n in needed.done:
            assert position[n] < position[index]
            assert scheduled.waits[index][program[n].engine] >= completed[n]
            assert scheduled.start[index] >= scheduled.end[n]


def test_independent_work_overlaps() -> None:
    program = [Instruction(Engine.MATMUL, "a", {}, writes=words(0)), Instruction(Engine.LOAD, "b", {}, writes=words(1))]
    scheduled = schedule(program, dependencies(program, CONFIG), [Timing(10, 10)] * 2)
    assert scheduled.start == [0, 0]


def test_an_instruction_that_the_drain_holds_up_lets_another_go_first() -> None:
    """Two that drain for longer than they stream, and one that does not: in order, the second would wait."""
    program = [Instruction(Engine.MATMUL, name, {}, writes=words(i)) for i, name in enumerate("abc")]
    slow, fast = Timing(100, 200, drain=400, last_drain=100), Timing(300, 360, drain=60, last_drain=60)
    scheduled = schedule(program, dependencies(program, CONFIG), [slow, slow, fast])
    assert scheduled.order == [0, 2, 1]
    assert scheduled.start == [0, 500, 200]  # the output memory holds two tiles of the first
    assert schedule(program, dependencies(program, CONFIG), [slow, slow, fast], patience=1000).order == [0, 1, 2]
    assert schedule(program[:2], dependencies(program[:2], CONFIG), [slow, slow]).start == [0, 200]
