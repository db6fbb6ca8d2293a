"""The front door: command line, bundle, reports, and devices that run programs."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vitsmith.devices import Device

__all__ = ["open"]


def open(target: str, bundle: str | Path = "build/demo") -> "Device":
    """A device that runs a bundle's program: "sim", the RTL in Verilator; a board, as "ulx3s:/dev/ttyUSB0", or "ulx3s"
    at the only USB serial port; or, on a board that PYNQ runs on, "pynq", with the bundle's vitsmith.bit, or
    "pynq:BITSTREAM". The beginning of a name means the board with the bundle's accelerator.

    `device.run(images)` gives the class scores, int16 (N, classes), of images, uint8 (N, H, W, 3).
    """
    from vitsmith.devices import open_device

    return open_device(target, Path(bundle))
