"""Which rows a load instruction takes from external memory: DMA commands, ahead of their use."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.bursts import burst_command
from hw.config import KERNEL_ROWS, AcceleratorConfig
from hw.control.descriptors import LoadBody

__all__ = ["RowFetcher"]


class RowFetcher(wiring.Component):
    """Walk the rows of load instructions: a DMA command for every row of a stored map, or image row that exists.

    Image row r = first_row + 2i + ky for output row i and kernel row ky. The first command is offered
    bit_length(max(first_row, 0)) + 2 cycles after the instruction is taken (a serial product finds its address), then
    one row per cycle. Whether a row exists is found one cycle ahead.

    Members
    -------
    instruction : In(stream of LoadBody)
    input_base, result_base : In(address_bits), of images and of stored maps
    command : Out(stream of burst_command)
    rows : Out(stream of 1 bit), for every image row: whether it exists
    body : Out(stream of LoadBody), the instruction, for who takes its rows; the next one is taken after this has gone
    busy : Out(1)
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._beat_bits = (config.bus_bytes - 1).bit_length()
        super().__init__(
            {
                "instruction": In(stream.Signature(LoadBody)),
                "input_base": In(config.address_bits),
                "result_base": In(config.address_bits),
                "command": Out(stream.Signature(burst_command(config.address_bits))),
                "rows": Out(stream.Signature(1)),
                "body": Out(stream.Signature(LoadBody)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        body = self.body.payload
        handed_over = Signal(init=1)
        m.d.comb += self.body.valid.eq(~handed_over)
        with m.If(self.body.ready):
            m.d.sync += handed_over.eq(1)

        address = Signal.like(self.input_base)  # of image row max(image_row, 0), or of the row of a stored map
        image_row = Signal(signed(18))
        skipped_rows = Signal(16)  # multiplier of the serial product, low bit first
        skipped_bytes = Signal(32)
        row = Signal(8)
        kernel_row = Signal(range(KERNEL_ROWS))
        exists = Signal()  # image_row
        last_image_row = Signal(signed(18))

        incoming = self.instruction.payload
        first_row = incoming.first_row.as_signed()
        with m.FSM():
            with m.State("idle"):
                m.d.comb += self.instruction.ready.eq(handed_over)
                with m.If(self.instruction.valid & self.instruction.ready):
                    m.d.sync += [
                        body.eq(incoming),
                        handed_over.eq(0),
                        address.eq(Mux(incoming.stored, self.result_base, self.input_base) + incoming.address),
                        image_row.eq(first_row),
                        skipped_rows.eq(Mux(first_row < 0, 0, first_row)),
                        skipped_bytes.eq(incoming.row_bytes),
                        last_image_row.eq(incoming.image_rows - 1),
                        row.eq(0),
                        kernel_row.eq(0),
                    ]
                    m.next = "locate"
            with m.State("locate"):
                # address += first_row * row_bytes
                m.d.comb += self.busy.eq(1)
                m.d.sync += [
                    skipped_rows.eq(skipped_rows >> 1),
                    skipped_bytes.eq(skipped_bytes << 1),
                    exists.eq(body.stored | (image_row >= 0) & (image_row <= last_image_row)),
                ]
                with m.If(skipped_rows[0]):
                    m.d.sync += address.eq(address + skipped_bytes)
                with m.If(skipped_rows == 0):
                    m.next = "fetch"
            with m.State("fetch"):
                m.d.comb += self.busy.eq(1)
                taken, row_ends = Signal(), Signal()
                m.d.comb += [
                    self.rows.payload.eq(exists),
                    self.rows.valid.eq((self.command.ready | ~exists) & ~body.stored),
                    self.command.payload.address.eq(address),
                    self.command.payload.beats.eq(body.row_bytes >> self._beat_bits),
                    self.command.valid.eq(exists & (self.rows.ready | body.stored)),
                    taken.eq(Mux(body.stored, self.command.ready, self.rows.valid & self.rows.ready)),
                    row_ends.eq(body.stored | (kernel_row == KERNEL_ROWS - 1)),
                ]
                # the last kernel row of an output row is the first one of the next
                with m.If(taken & row_ends):
                    m.d.sync += [kernel_row.eq(0), row.eq(row + 1)]
                    with m.If(row == body.rows - 1):
                        m.next = "idle"
                with m.Elif(taken):
                    m.d.sync += [
                        kernel_row.eq(kernel_row + 1),
                        image_row.eq(image_row + 1),
                        exists.eq((image_row >= -1) & (image_row < last_image_row)),
                    ]
                with m.If(taken & (body.stored | ~row_ends & (image_row >= 0))):
                    m.d.sync += address.eq(address + body.row_bytes)
        return m
