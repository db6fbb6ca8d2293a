"""AXI4 signatures with the standard signal names: what the accelerator uses of the protocol.

One transaction identifier (no id signals: everything is in order), incrementing bursts of full-width beats, normal
non-cacheable bufferable memory. Directions are those of the initiator.
"""

from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

__all__ = [
    "ADDRESS_BITS",
    "BOUNDARY_BYTES",
    "MAX_BURST_BEATS",
    "Axi4",
    "Axi4Read",
    "Axi4Write",
    "Burst",
    "Response",
    "drive_read_constants",
    "drive_write_constants",
]

ADDRESS_BITS = 40  #: at most; of the ports of memories much smaller, fewer
MAX_BURST_BEATS = 16  #: of this accelerator's bursts; also the AXI3 limit, so that every interconnect takes them
BOUNDARY_BYTES = 4096  #: no burst crosses a multiple of this


class Response(enum.Enum, shape=2):
    """`rresp` and `bresp`."""

    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


class Burst(enum.Enum, shape=2):
    """`arburst` and `awburst`."""

    FIXED = 0
    INCR = 1
    WRAP = 2


class Axi4Read(wiring.Signature):
    """Read half of an AXI4 port: channels AR and R."""

    def __init__(self, data_width: int, address_bits: int = ADDRESS_BITS) -> None:
        self.data_width = _check_width(data_width)
        super().__init__(
            {
                "araddr": Out(address_bits),
                "arlen": Out(8),
                "arsize": Out(3),
                "arburst": Out(Burst),
                "arcache": Out(4),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(data_width),
                "rresp": In(Response),
                "rlast": In(1),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )


class Axi4Write(wiring.Signature):
    """Write half of an AXI4 port: channels AW, W, and B."""

    def __init__(self, data_width: int, address_bits: int = ADDRESS_BITS) -> None:
        self.data_width = _check_width(data_width)
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awlen": Out(8),
                "awsize": Out(3),
                "awburst": Out(Burst),
                "awcache": Out(4),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(data_width),
                "wstrb": Out(data_width // 8),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(Response),
                "bvalid": In(1),
                "bready": Out(1),
            }
        )


class Axi4(wiring.Signature):
    """A whole AXI4 port: `read` and `write` halves, whose member names are the standard ones, so that
    `port.signature.flatten(port)` gives paths that end in `araddr`, `awaddr`, and so on."""

    def __init__(self, data_width: int, address_bits: int = ADDRESS_BITS) -> None:
        self.data_width = data_width
        super().__init__(
            {"read": Out(Axi4Read(data_width, address_bits)), "write": Out(Axi4Write(data_width, address_bits))}
        )


def _check_width(data_width: int) -> int:
    if data_width not in (32, 64, 128, 256, 512):
        raise ValueError(f"data_width = {data_width} is not an AXI4 data width; use 32, 64, 128, 256, or 512")
    return data_width


NORMAL_BUFFERABLE = 0b0011  #: `arcache`, `awcache`: normal, non-cacheable, bufferable memory
UNPRIVILEGED_DATA = 0b000  #: `arprot`, `awprot`: as the ports of Zynq parts expect it


def drive_read_constants(bus: wiring.PureInterface) -> list:
    """Assignments of the AR signals that are the same for all bursts."""
    return [
        bus.arsize.eq((len(bus.rdata) // 8).bit_length() - 1),
        bus.arburst.eq(Burst.INCR),
        bus.arcache.eq(NORMAL_BUFFERABLE),
        bus.arprot.eq(UNPRIVILEGED_DATA),
    ]


def drive_write_constants(bus: wiring.PureInterface) -> list:
    """Assignments of the AW and W signals that are the same for all bursts."""
    return [
        bus.awsize.eq((len(bus.wdata) // 8).bit_length() - 1),
        bus.awburst.eq(Burst.INCR),
        bus.awcache.eq(NORMAL_BUFFERABLE),
        bus.awprot.eq(UNPRIVILEGED_DATA),
        bus.wstrb.eq((1 << len(bus.wstrb)) - 1),
    ]
