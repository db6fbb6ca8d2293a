"""Depthwise engine: 3x3 and 5x5 convolutions of single channels, stride 1 and 2."""

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.accumulators import Accumulators
from hw.arithmetic.dot_product import DotProductFormat, DotProducts
from hw.config import DW_TAPS, AcceleratorConfig
from hw.control.descriptors import DepthwiseBody
from hw.engines.depthwise_drain import DepthwiseDrain, drain_layout
from hw.engines.depthwise_parameters import DepthwiseParameters
from hw.engines.depthwise_reader import DepthwiseReader
from hw.engines.depthwise_window import DepthwiseWindow, accumulator_depth
from hw.interfaces import EngineStatus, InstructionPort, PadRead, PadWrite
from hw.shared import place

__all__ = ["DepthwiseEngine", "DepthwiseLane"]

IN_FLIGHT_BITS = 7


def lane_format(config: AcceleratorConfig) -> DotProductFormat:
    """What a lane computes: the taps of output pixels, which share the weights."""
    code, weight = unsigned(config.act_bits), signed(config.weight_bits)
    return DotProductFormat(DW_TAPS, code, weight, (config.dw_pixels, 1), config.dw_multiplier)


class DepthwiseLane(wiring.Component):
    """Multipliers of one channel: `outputs` pixels of three taps,

        psum[p] = sum over t of (real[s * p + t] ? pixels[s * p + t] : pad) * weights[t],   s = stride

    As many pixels share a multiplier as can be packed.

    Latency: `LATENCY` cycles, one result per cycle; `weights` come one cycle after the pixels. Stage k keeps its
    registers unless `enables[k]`.
    """

    LATENCY = 3

    def __init__(self, form: DotProductFormat, outputs: int) -> None:
        self._form, self._outputs = form, outputs
        act_bits = form.a.width
        span = 2 * (outputs - 1) + DW_TAPS
        super().__init__(
            {
                "enables": In(self.LATENCY),
                "pixels": In(data.ArrayLayout(act_bits, span)),
                "real": In(span),
                "pad": In(act_bits),
                "stride2": In(1),
                "weights": In(data.ArrayLayout(form.b, DW_TAPS)),
                "psum": Out(data.ArrayLayout(form.psum_shape, outputs)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        packing = self._form.packing
        for first in range(0, self._outputs, packing.counts[0]):
            outputs = range(first, min(first + packing.counts[0], self._outputs))
            products = place(m, platform, f"products_{first}", DotProducts, self._form)
            m.d.comb += [products.enable.eq(self.enables[1:]), products.b.eq(self.weights)]
            for t in range(DW_TAPS):
                taps = [self._tap(m, p, t) for p in outputs]
                taps += [Const(0, self._form.a)] * (packing.counts[0] - len(taps))
                m.d.comb += products.a[t].eq(packing.pack_a(taps))
            m.d.comb += [self.psum[p].eq(psum) for p, (psum,) in zip(outputs, products.psum)]
        return m

    def _tap(self, m: Module, p: int, t: int) -> Signal:
        """Register of the pixel that tap t of output pixel p sees."""
        operand = Signal(self.pad.shape(), name=f"operand_{p}_{t}", reset_less=True)
        near, far = (Mux(self.real[i], self.pixels[i], self.pad) for i in (p + t, 2 * p + t))
        with m.If(self.enables[0]):
            m.d.sync += operand.eq(Mux(self.stride2, far, near))
        return operand


class DepthwiseEngine(wiring.Component):
    """Depthwise convolution, requantization, and activation of row bands: see `DepthwiseBody`.

        acc[i, p, c] = sum over ky, kx of input[i * s + ky - top, p * s + kx - k // 2, c] * weight[c, ky, kx]

    Channel block by channel block, in passes: one per kernel row of a 3x3 kernel, two of a 5x5 kernel. Each pass reads
    the rows it needs and adds the products of `dw_pixels` pixels, Ti channels, and 3 taps per cycle to the accumulators
    (no line buffers). While a block is computed, the one before is requantized and written, and the next one's
    parameters are loaded.

    Cycles per block, with K = ceil(P / dw_pixels) and T = rows * groups_per_row: the largest of
    - passes * T * max(K, stride), the multipliers and the reads (at least 3 cycles per pass); where 3x3 kernels share
      rows (see `DepthwiseReader`), 2 * T + 2 * (rows + 1) * groups_per_row (at least 9),
    - T * K * dw_subblocks, the drain (and a cycle per instruction),
    - its stream words, the parameters (and 3 cycles per instruction).
    The next instruction follows at once, or two cycles later where multipliers and reads are equally busy. An idle
    engine needs the time of its blocks, the stream words of the table and of the first block, the drain of all
    subblocks but one (T * K each), and 28 cycles.

    Members
    -------
    instruction, source, destination, parameters : see hw/interfaces.py and docs/architecture/contracts.md; ports may be
        refused at any time
    busy, stall : see `EngineStatus`
    chunk : the multipliers work
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "instruction": In(InstructionPort(DepthwiseBody)),
                "source": Out(PadRead(config)),
                "destination": Out(PadWrite(config)),
                "parameters": In(stream.Signature(config.bus_bits)),
                "status": Out(EngineStatus()),
                "chunk": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.parameters = parameters = DepthwiseParameters(config)
        m.submodules.reader = reader = DepthwiseReader(config)
        m.submodules.window = window = DepthwiseWindow(config)
        m.submodules.accumulators = accumulators = Accumulators(
            depth=accumulator_depth(config),
            lanes=config.dw_pixels * config.in_lanes,
            acc_bits=config.acc_bits,
            psum_bits=lane_format(config).psum_shape.width,
            groups=config.dw_subblocks,
        )
        m.submodules.drain = drain = DepthwiseDrain(config)

        # Instructions go to the parameters first; reader and drain get them together, later.
        body = self.instruction.body
        wiring.connect(m, wiring.flipped(body), parameters.body)
        wiring.connect(m, wiring.flipped(self.parameters), parameters.parameters)
        wiring.connect(m, parameters.table_write, drain.table_write)
        handed_on = parameters.next_body
        m.d.comb += [
            handed_on.ready.eq(reader.body.ready & drain.body.ready),
            reader.body.valid.eq(handed_on.valid & drain.body.ready),
            drain.body.valid.eq(handed_on.valid & reader.body.ready),
            reader.body.payload.eq(handed_on.payload),
            self.instruction.done.eq(drain.completed),
            parameters.completed.eq(drain.completed),
            parameters.completed_table.eq(drain.completed_table),
            parameters.completed_bank.eq(drain.completed_bank),
        ]
        m.d.comb += [drain.body.payload[name].eq(handed_on.payload[name]) for name in drain_layout().members]

        wiring.connect(m, wiring.flipped(self.source), reader.source)
        wiring.connect(m, wiring.flipped(self.destination), drain.destination)
        wiring.connect(m, reader.slots, window.slots)
        wiring.connect(m, reader.words, window.words)
        self._connect_blocks(m, parameters, window, drain)
        self._multiply(m, platform, parameters, window, accumulators, drain)

        in_flight = Signal(IN_FLIGHT_BITS)
        m.d.sync += in_flight.eq(in_flight + (body.valid & body.ready) - drain.completed)
        m.d.comb += [
            self.chunk.eq(window.chunk),
            self.status.busy.eq(in_flight != 0),
            self.status.stall.eq(self.status.busy & ~window.chunk & ~drain.read),
        ]
        return m

    def _connect_blocks(
        self, m: Module, parameters: DepthwiseParameters, window: DepthwiseWindow, drain: DepthwiseDrain
    ) -> None:
        """Who may use the parameters and the accumulators of which block."""
        m.d.comb += [
            window.block_loaded.eq(parameters.block_loaded),
            parameters.block_computed.eq(window.block_computed),
            window.block_drained.eq(drain.block_drained),
            parameters.pads_read.eq(window.pads_read),
            parameters.pads_bank.eq(window.pads_bank),
            parameters.weights_read.eq(window.weights_read),
            parameters.weights_bank.eq(window.weights_bank),
            parameters.weights_pass.eq(window.weights_pass),
            parameters.records_read.eq(drain.records_read),
            parameters.records_slot.eq(drain.records_slot),
            drain.records.eq(parameters.records),
        ]

    def _multiply(
        self,
        m: Module,
        platform: object,
        parameters: DepthwiseParameters,
        window: DepthwiseWindow,
        accumulators: Accumulators,
        drain: DepthwiseDrain,
    ) -> None:
        """Window -> lanes -> accumulators -> drain."""
        config = self._config
        enables = Signal(DepthwiseLane.LATENCY)
        operations = [accumulators.address, accumulators.first, accumulators.last, accumulators.bank]
        m.d.comb += enables[0].eq(window.chunk)
        m.d.sync += enables[1:].eq(enables)

        for c in range(config.dw_channels):
            lane = place(m, platform, f"lane_{c}", DepthwiseLane, lane_format(config), config.dw_pixels)
            m.d.comb += [
                lane.enables.eq(enables),
                lane.pixels.eq(Cat(pixel[c] for pixel in window.pixels)),
                lane.real.eq(window.real),
                lane.pad.eq(parameters.pads[c]),
                lane.stride2.eq(window.stride2),
                lane.weights.eq(Cat(tap[c] for tap in parameters.weights)),
            ]
            subblock, channel = divmod(c, config.dw_group)
            for p in range(config.dw_pixels):
                index = (subblock * config.dw_pixels + p) * config.dw_group + channel
                m.d.comb += accumulators.psum[index].eq(lane.psum[p])

        # The accumulators want to know of an operation PSUM_DELAY cycles before its psum.
        operation = [window.address, window.first, window.last, window.bank]
        for enable in range(DepthwiseLane.LATENCY - Accumulators.PSUM_DELAY):
            registers = [Signal.like(value) for value in operation]
            with m.If(enables[enable]):
                m.d.sync += [register.eq(value) for register, value in zip(registers, operation)]
            operation = registers
        m.d.comb += accumulators.valid.eq(enables[DepthwiseLane.LATENCY - Accumulators.PSUM_DELAY])
        m.d.comb += [port.eq(value) for port, value in zip(operations, operation)]

        finished = [Signal(name=f"finished_{i}") for i in range(Accumulators.OUTPUT_LATENCY)]
        m.d.comb += finished[0].eq(accumulators.valid & accumulators.last)
        m.d.sync += [later.eq(earlier) for later, earlier in zip(finished[1:], finished)]
        m.d.comb += drain.finished.eq(finished[-1])
        m.d.comb += [
            accumulators.read.eq(drain.read),
            accumulators.read_bank.eq(drain.read_bank),
            accumulators.read_address.eq(drain.read_address),
            accumulators.read_group.eq(drain.read_group),
            drain.read_data.eq(accumulators.read_data),
        ]
