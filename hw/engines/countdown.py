"""Loops of the engines, whose ends come from registers."""

from amaranth.hdl import Mux, Signal, Value

__all__ = ["Countdown"]


class Countdown:
    """Statements of a counter that goes round, with a register that tells its `last` step. A round has one step more
    than `load` is given; `single`: that is 0."""

    def __init__(self, bits: int) -> None:
        self.last = Signal()
        self._left = Signal(bits)  # after this one
        self._steps = Signal(bits)
        self._single = Signal()

    def load(self, steps: Value, single: Value) -> list:
        """Begin a round."""
        return [self._left.eq(steps), self._steps.eq(steps), self._single.eq(single), self.last.eq(single)]

    def step(self) -> list:
        """Go on; after the last step, to the first one."""
        return [
            self._left.eq(Mux(self.last, self._steps, self._left - 1)),
            self.last.eq(Mux(self.last, self._single, self._left == 1)),
        ]
