"""Rows of a feature map in a scratchpad."""

from amaranth.hdl import Mux, Value
from amaranth.lib import data

__all__ = ["next_row"]


def next_row(view: data.View, row: Value) -> Value:
    """Address of the row after the one at `row`: see `hw.control.descriptors.MapView`."""
    following = row + view.row_stride
    return Mux(following == view.limit, view.base, following)
