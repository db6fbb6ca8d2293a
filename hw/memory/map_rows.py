"""Rows of a feature map in a scratchpad."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data

from hw.interfaces import ADDRESS_BITS

__all__ = ["last_row", "next_row"]


def last_row(m: Module, view: data.View, address_bits: int = ADDRESS_BITS) -> Signal:
    """A register: address of the row before the one at `view.base`; right one cycle after `view`.

    If the view is no ring, no row lies there: it would be as large as all addresses.
    """
    last = Signal(address_bits)
    m.d.sync += last.eq(view.limit - view.row_stride)
    return last


def next_row(view: data.View, row: Value, last: Value) -> Value:
    """Address of the row after the one at `row`: see `hw.control.descriptors.MapView`, and `last_row`."""
    return Mux(row == last, view.base, row + view.row_stride)
