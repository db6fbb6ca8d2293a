"""The cocotb test that works with a simulated board as a user would: through the host driver and the serial line.

`test_board.py` starts it with `+plan=FILE`; it leaves scores and a report beside that file.
"""

import dataclasses
import json
from pathlib import Path

import cocotb
import numpy as np
import pytest
from cocotb.handle import SimHandleBase
from cocotb.task import bridge

from boards.driver import BoardDevice, DeviceError
from boards.link.host import HostLink
from boards.top import BoardParameters
from compiler.program import Program
from hw.config import AcceleratorConfig
from tests.boards.board_simulation import MEMORIES, SimulatedLine


def parameters(plan: dict) -> BoardParameters:
    return BoardParameters(
        config=AcceleratorConfig.from_json(plan["config"]),
        memory=MEMORIES[plan["memory"]],
        frequency=plan["frequency"],
        baud=plan["baud"],
    )


def scenario(line: SimulatedLine, plan: dict, program: Program, images: np.ndarray) -> tuple[np.ndarray, dict]:
    """Frames over a damaged line, a reset in mid-run, garbage, and a foreign program; the scores of all frames."""
    config, memory_bytes = AcceleratorConfig.from_json(plan["config"]), MEMORIES[plan["memory"]].size

    def connect(other: Program) -> BoardDevice:
        return BoardDevice(HostLink(line), config, other, memory_bytes=memory_bytes, rebuild="vitsmith build")

    line.reset_board()
    device = connect(program)
    line.noise = plan["noise"]
    scores = [device.run(images[:1])]
    line.noise = 0.0
    report = {"repetitions": device.access.repetitions, "damaged": line.damaged}
    report["cycles"] = device.counters[0].cycles
    report["matmul"] = device.counters[0].events["matmul"]

    device.start()
    line.wait_cycles(report["cycles"] // 2)
    line.reset_board()
    with pytest.raises(DeviceError, match="the board was reset during the run"):
        device.wait()
    line.write(b"\xa5\x02\x00\x80\x00garbage\x00\xa5\x5a")
    scores.append(device.run(images[1:]))

    foreign = dataclasses.replace(program, config_hash=program.config_hash ^ 1)
    with pytest.raises(DeviceError, match=f"{program.config_hash:016x}.*{foreign.config_hash:016x}.*vitsmith build"):
        connect(foreign)
    with pytest.raises(DeviceError, match="memory has 1,024"):
        BoardDevice(HostLink(line), config, program, memory_bytes=1024, rebuild="")
    return np.concatenate(scores), report


@cocotb.test()
async def board(dut: SimHandleBase) -> None:
    """Everything in one simulation."""
    path = Path(cocotb.plusargs["plan"])
    plan = json.loads(path.read_text())
    program, images = Program.load(path.with_name("program.bin")), np.load(path.with_name("images.npy"))
    line = SimulatedLine(dut, parameters(plan))
    scores, report = await bridge(scenario)(line, plan, program, images)
    assert not dut.fault.value, "the memory chip was used against its rules; see simulation.log"
    np.save(path.with_name("scores.npy"), scores)
    path.with_name("report.json").write_text(json.dumps(report | {"board_cycles": int(dut.cycle.value)}))
