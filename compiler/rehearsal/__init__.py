"""Prediction of a program's run, instruction by instruction, with everything that instructions wait for."""

from compiler.rehearsal.memory import MemoryTiming
from compiler.rehearsal.stage import Rehearsal, rehearse

__all__ = ["MemoryTiming", "Rehearsal", "rehearse"]
