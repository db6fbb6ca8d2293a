"""What the accelerator did in every cycle of a simulation: the layout of the log, and its columns.

`sim.testbench` puts the fields of `fields` together for activity_log.sv, which records them whenever they change.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw.config import AcceleratorConfig
from hw.control.descriptors import Engine
from hw.engines.matmul import MatmulActivity

__all__ = ["STATE_BITS", "Activity", "fields", "read_activity"]

STATE_BITS = 96  #: of a record of activity_log.cpp
RECORD_WORDS = 4


def fields(config: AcceleratorConfig) -> dict[str, tuple[int, str]]:
    """Bits and Verilog expression of every field of the recorded state, low bits first. Beats have a bit per port."""
    engines = len(Engine)
    return {
        "running": (1, "monitor_running"),
        "busy": (engines, "monitor_busy"),
        "stall": (engines, "monitor_stall"),
        "held": (engines, "monitor_held"),
        "over": (engines * engines, "monitor_over"),
        "matmul": (MatmulActivity.as_shape().size, "monitor_matmul"),
        "depthwise": (1, "monitor_depthwise"),
        "reads": (config.bus_ports, "rvalid & rready"),
        "writes": (config.bus_ports, "wvalid & wready"),
    }


@dataclass(frozen=True)
class Activity:
    """States and how long each lasted, in order, without the cycles in which no program ran.

    `start` is the cycle of the simulation in which a state began. `columns` has the fields of `fields`, and in place of
    `matmul`, those of `MatmulActivity` as `matmul_NAME`.
    """

    start: np.ndarray
    cycles: np.ndarray
    columns: dict[str, np.ndarray]

    def run(self, index: int) -> "Activity":
        """The part of one run: states between two gaps."""
        ends = self.start + self.cycles
        breaks = np.flatnonzero(self.start[1:] != ends[:-1]) + 1
        bounds = [0, *breaks.tolist(), len(self.start)]
        part = slice(bounds[index], bounds[index + 1])
        return Activity(
            self.start[part], self.cycles[part], {name: column[part] for name, column in self.columns.items()}
        )

    def engine(self, name: str, engine: Engine) -> np.ndarray:
        """Whether a field with a bit per engine is set."""
        return (self.columns[name] >> int(engine) & 1).astype(bool)


def read_activity(path: Path, config: AcceleratorConfig) -> Activity:
    """The log of a simulation that was run with +activity=`path`."""
    records = np.fromfile(path, np.uint32).reshape(-1, RECORD_WORDS).astype(np.uint64)
    low, high = records[:, 1] | records[:, 2] << np.uint64(32), records[:, 3]
    columns, position = {}, 0
    for name, (bits, _) in fields(config).items():
        columns[name] = _bits(low, high, position, bits)
        position += bits
    matmul = columns.pop("matmul")
    for name, field in MatmulActivity.as_shape():
        columns[f"matmul_{name}"] = matmul >> field.offset & ((1 << field.width) - 1)
    start = records[:, 0].astype(np.int64)
    running = np.flatnonzero(columns["running"][:-1])  # the last record is of an idle accelerator
    cycles = np.diff(start)
    return Activity(start[running], cycles[running], {name: column[running] for name, column in columns.items()})


def _bits(low: np.ndarray, high: np.ndarray, position: int, bits: int) -> np.ndarray:
    value = low >> np.uint64(position) if position < 64 else high >> np.uint64(position - 64)
    if position < 64 < position + bits:
        value = value | high << np.uint64(64 - position)
    return (value & np.uint64((1 << bits) - 1)).astype(np.int64)
