"""Instructions of a program before they are scheduled: what they do, read, write, and stream."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from hw.control.descriptors import Engine
from quant.integer_network import Requant

__all__ = ["MEMORY_BUFFER", "STATE_BUFFER", "Access", "Instruction", "Parameters"]

STATE_BUFFER = 4  #: pseudo-pad of the state buffer: its addresses are tiles
MEMORY_BUFFER = 5  #: pseudo-pad of spilled maps in external memory

Access = list[tuple[int, np.ndarray]]  #: (pad, word addresses)


@dataclass(frozen=True)
class Parameters:
    """An instruction's part of a parameter stream. Instructions with equal keys share one copy in memory."""

    key: tuple[object, ...]
    content: Callable[[], bytes]  #: without the table
    requant: Requant


@dataclass(eq=False)
class Instruction:
    """One descriptor in the making. `fields` are those of its body; streams, tables, and waits come later."""

    engine: Engine
    node: str
    fields: dict[str, object]
    reads: Access = field(default_factory=list)
    writes: Access = field(default_factory=list)
    parameters: Parameters | None = None
    macs: int = 0  #: useful multiply-accumulates, for utilisation

    def copy(self) -> "Instruction":
        """The same with fields of its own, nested ones included."""
        return replace(self, fields={n: dict(v) if isinstance(v, dict) else v for n, v in self.fields.items()})
