"""What the compiler says when something cannot be mapped."""

from dataclasses import dataclass

__all__ = ["CompileError", "Obstacle"]


@dataclass(frozen=True)
class Obstacle:
    """One reason why a network does not fit a configuration."""

    node: str
    why: str
    what_to_do: str


class CompileError(ValueError):
    """A network that cannot be mapped; `obstacles` lists every reason found, the message is their table."""

    def __init__(self, obstacles: list[Obstacle]) -> None:
        self.obstacles = tuple(obstacles)
        rows = "\n".join(f"  {o.node}: {o.why}; {o.what_to_do}" for o in obstacles)
        super().__init__(f"the network cannot be mapped onto this configuration:\n{rows}")
