"""The driver for a board's own Python, in one file: parts of this project, put together.

PYNQ images have neither this project's version of Python nor its packages; the file needs NumPy and PYNQ only.
"""

import ast
import re
from pathlib import Path

from boards.vivado.overlay import BITSTREAM, TARGET
from hw.config import ABI_VERSION, AcceleratorConfig

__all__ = ["DRIVER", "driver_source"]

DRIVER = "vitsmith.py"  #: so that the same calls work as with the whole project
ROOT = Path(__file__).parents[2]
PARTS = ("hw/control/registers.py", "compiler/results.py", "boards/driver.py", "boards/vivado/overlay.py")
PACKAGES = ("boards", "compiler", "hw")
#: what the parts use of a configuration
FIELDS = ("act_bits", "pixels", "in_lanes", "slices", "pad_word_bits", "pad_word_beats", "bus_bytes")

HEAD = '''"""Runs programs of vitsmith on accelerator `{name}` ({hash:016x}), through PYNQ.

Generated from {parts}; do not edit.

    device = vitsmith.open("{target}", FOLDER)  # with {bitstream}, its .hwh, program.bin, program.json
    scores = device.run(images)  # int16 (N, classes) of uint8 (N, H, W, 3)
"""

from __future__ import annotations

import json
from types import SimpleNamespace

ABI_VERSION = {abi}
CONFIG = SimpleNamespace({fields})


class NoAnswer(RuntimeError):
    """Of a serial line; never raised here."""
'''

TAIL = '''
def open(target: str = TARGET, bundle: str | Path = ".") -> BoardDevice:
    """The accelerator with the program in a folder; `target` is "{target}", or "{target}:BITSTREAM"."""
    folder = Path(bundle)
    document = json.loads((folder / "program.json").read_text())
    stored = [SimpleNamespace(**place) for place in document.pop("stored")]
    program = SimpleNamespace(
        **document, image=(folder / "program.bin").read_bytes(), scores=[place for place in stored if place.scores]
    )
    bitstream = target.partition(":")[2]
    return open_overlay(Path(bitstream) if bitstream else folder / BITSTREAM, CONFIG, program)
'''


def driver_source(config: AcceleratorConfig) -> str:
    """The file's text, for an accelerator of this configuration."""
    head = HEAD.format(
        name=config.name,
        hash=config.hash,
        parts=", ".join(PARTS),
        target=TARGET,
        bitstream=BITSTREAM,
        abi=ABI_VERSION,
        fields=", ".join(f"{name}={getattr(config, name)}" for name in FIELDS),
    )
    parts = [_stripped((ROOT / part).read_text()) for part in PARTS]
    text = "\n\n".join([head, *parts, TAIL.format(target=TARGET)])
    return re.sub(r"\n{4,}", "\n\n\n", text)  # where something was taken out


def _stripped(source: str) -> str:
    """A module without its docstring, its `__all__`, and imports from this project."""
    lines = source.splitlines()
    for node in ast.parse(source).body:
        docstring = isinstance(node, ast.Expr)
        exports = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        own = isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in PACKAGES
        if docstring or exports or own:
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    return "\n".join(lines).strip("\n")
