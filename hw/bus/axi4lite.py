"""AXI4-Lite signature, 32 bits of data, for control registers."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import Response

__all__ = ["Axi4Lite"]


class Axi4Lite(wiring.Signature):
    """A whole AXI4-Lite port with 32 bits of data and the standard signal names. Directions are those of the
    initiator: a register bank has it as `In(Axi4Lite(address_width))`."""

    def __init__(self, address_width: int) -> None:
        self.address_width = address_width
        super().__init__(
            {
                "awaddr": Out(address_width),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(Response),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_width),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(Response),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )
