"""Serial ports as streams of bytes."""

from importlib.util import find_spec

from boards.board import BoardError
from boards.link.uart import FRAME_BITS

__all__ = ["SerialLine", "find_port"]

LATENCY = 0.1  #: seconds; drivers of USB serial adapters hold bytes back for up to 16 ms


class SerialLine:
    """A `ByteStream` on a serial port. Raises `BoardError` if pyserial or the port is missing."""

    latency = LATENCY

    def __init__(self, port: str, baud: float) -> None:
        _require_pyserial()
        import serial

        self.name = port
        self.byte_seconds = FRAME_BITS / baud
        try:
            self._port = serial.Serial(port, int(baud), timeout=0)
        except (serial.SerialException, ValueError) as error:
            raise BoardError(
                f"{port} cannot be opened ({error}); is the cable plugged in, and may you use the port? "
                f"Ports here: {', '.join(_ports()) or 'none'}"
            ) from error

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._port.write(data)

    def read(self, count: int, seconds: float) -> bytes:
        """Up to `count` bytes; fewer only if no more came within `seconds`."""
        self._port.timeout = seconds
        return self._port.read(count)

    def close(self) -> None:
        """Release the port."""
        self._port.close()


def find_port() -> str:
    """The one serial port at a USB cable. Raises `BoardError` if there are none, or several."""
    _require_pyserial()
    from serial.tools import list_ports

    ports = [port.device for port in list_ports.comports() if port.vid is not None]
    if not ports:
        raise BoardError("no serial port at a USB cable; is the board connected, and its cable one that carries data?")
    if len(ports) > 1:
        raise BoardError(f"several serial ports, {', '.join(ports)}; name the board's, as BOARD:{ports[0]}")
    return ports[0]


def _require_pyserial() -> None:
    if find_spec("serial") is None:
        raise BoardError("pyserial is missing; pip install pyserial")


def _ports() -> list[str]:
    from serial.tools import list_ports

    return [port.device for port in list_ports.comports()]
