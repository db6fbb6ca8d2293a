"""Splits an instruction of the matmul engine into the tasks of its stages."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.descriptors import MatmulBody, OperandMode, RequantMode
from hw.engines.matmul_table import TableTask
from hw.engines.matmul_walk import prepare_ring, ring_layout
from hw.engines.tile_loader import LoadTask
from hw.interfaces import pad_address_bits
from hw.memory.register_fifo import RegisterFifo

__all__ = ["MatmulTasks", "drain_task", "stream_task"]

DRAIN_QUEUE = 2  #: instructions that wait between front end and drain: as many as banks of the output memory


def stream_task(config: AcceleratorConfig) -> data.StructLayout:
    """What the front end streams through the array for one instruction; see `MatmulBody`."""
    return data.StructLayout(
        {
            "source": ring_layout(pad_address_bits(config)),
            "rows": 8,
            "groups_per_row": 8,
            "last_block": 12,  # input blocks, less one
            "last_tile": 12,  # output tiles, less one
            "last_group_tile": 12,  # output tiles per group, less one; the largest number for one group
            "zero": 8,  # input zero-point below which codes are cut off; 0 without ReLU
        }
    )


def drain_task(config: AcceleratorConfig) -> data.StructLayout:
    """What the drain requantizes and writes for one instruction; see `MatmulBody`."""
    address_bits = pad_address_bits(config)
    return data.StructLayout(
        {
            "destination": ring_layout(address_bits),
            "residual": ring_layout(address_bits),
            "rows": 8,
            "groups_per_row": 8,
            "last_subblock": 14,  # channel groups that are written, less one
            "has_divisors": 1,
            "slice_stride": address_bits,
            "requant": RequantMode,
        }
    )


class MatmulTasks(wiring.Component):
    """Takes an instruction when the loader (and the table loader, if it needs it) can begin with it, gives it to them a
    cycle later, and offers it to the front end from the third cycle on. When the front end takes it, it goes to the
    queue before the drain. `held` is 0 when there is none.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._drain_task = drain_task(config)
        super().__init__(
            {
                "instruction": In(stream.Signature(MatmulBody)),
                "load": Out(stream.Signature(LoadTask)),
                "table": Out(stream.Signature(TableTask)),
                "stream": Out(stream.Signature(stream_task(config))),
                "drain": Out(stream.Signature(self._drain_task)),
                "held": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.drains = drains = RegisterFifo(width=self._drain_task.size, depth=DRAIN_QUEUE)
        task = Signal(self._drain_task)
        body = Signal(MatmulBody, reset_less=True)
        held = self.held
        prepared = Signal()
        taken = Signal()
        new = self.instruction.payload
        m.d.comb += [
            # both stay ready until `valid`, a cycle later: the way from the instruction queue is long
            self.instruction.ready.eq((held == 0) & self.load.ready & (self.table.ready | ~new.requant.table_load)),
            self.load.valid.eq(held == 1),
            self.table.valid.eq(held == 1),
            self.load.payload.table_load.eq(body.requant.table_load),
            self.load.payload.from_state.eq(body.from_state),
            self.load.payload.state_tile.eq(body.state_tile),
            self.load.payload.last_tile.eq(body.out_tiles - 1),
            self.load.payload.last_block.eq(body.in_blocks - 1),
            self.table.payload.load.eq(body.requant.table_load),
            self.table.payload.use.eq(body.requant.operand == OperandMode.TABLE),
            self.table.payload.bank.eq(body.requant.table_bank),
            prepared.eq(held == 3),
            self.stream.valid.eq(prepared & drains.i.ready),
            drains.i.valid.eq(taken),  # a cycle late, before the next task; the drain begins many cycles later
            drains.i.payload.eq(task),
            self.drain.valid.eq(drains.o.valid),
            self.drain.payload.eq(drains.o.payload),
            drains.o.ready.eq(self.drain.ready),
        ]
        m.d.sync += taken.eq(prepared & self.stream.ready & drains.i.ready)
        with m.If(held == 0):
            with m.If(self.instruction.valid & self.instruction.ready):
                m.d.sync += [body.eq(new), held.eq(1)]
        with m.Elif(~prepared):
            m.d.sync += held.eq(held + 1)
        with m.Elif(self.stream.ready & drains.i.ready):
            m.d.sync += held.eq(0)
        self._prepare(m, body, self.stream.payload, task)
        return m

    def _prepare(self, m: Module, body: data.View, stream_task: data.View, drain_task: data.View) -> None:
        """Tasks of `body`."""
        rings = {"source": stream_task.source, "destination": drain_task.destination, "residual": drain_task.residual}
        for name, ring in rings.items():
            registers = Signal(ring.shape(), name=f"{name}_ring", reset_less=True)
            prepare_ring(m, body[name], registers)
            m.d.comb += ring.eq(registers)
        for task in (stream_task, drain_task):
            m.d.comb += [task.rows.eq(body.rows), task.groups_per_row.eq(body.groups_per_row)]
        m.d.comb += [
            stream_task.last_block.eq(body.in_blocks - 1),
            stream_task.last_tile.eq(body.out_tiles - 1),
            stream_task.last_group_tile.eq(body.tiles_per_group - 1),
            stream_task.zero.eq(Mux(body.relu, body.input_zero, 0)),
            drain_task.last_subblock.eq(body.out_subblocks - 1),
            drain_task.has_divisors.eq(body.from_state),
            drain_task.slice_stride.eq(body.slice_stride),
            drain_task.requant.eq(body.requant),
        ]
