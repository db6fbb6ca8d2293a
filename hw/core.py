"""The part of the accelerator that executes programs: sequencer, queues, engines, memories, and bus masters."""

from amaranth import Cat, Module, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus.arbiter import ReadArbiter
from hw.bus.axi4 import Axi4, drive_write_constants
from hw.config import AcceleratorConfig
from hw.control.descriptors import BODIES, Engine, Opcode
from hw.control.instruction_queue import InstructionQueue, event_counts
from hw.control.registers import ErrorCode
from hw.control.sequencer import Sequencer
from hw.engines.attention import LinearAttentionUnit
from hw.engines.depthwise import DepthwiseEngine
from hw.engines.load import Loader
from hw.engines.matmul import MatmulActivity, MatmulEngine
from hw.engines.norm import NormEngine
from hw.engines.store import Storer
from hw.memory.parameter_stream import ParameterStream
from hw.memory.read_buffer import ReadBuffer
from hw.memory.read_register import ReadRegister
from hw.memory.scratchpads import Scratchpads
from hw.memory.state_buffer import StateBuffer
from hw.memory.weight_stream import WeightStream

__all__ = ["Core"]


class Core(wiring.Component):
    """Executes one program after the other; a reset of this component is a soft reset of the accelerator.

    Members
    -------
    begin : one cycle: run the program at `program_base`
    halt : begin no instruction and no bus burst
    program_base, input_base, result_base, result_bytes : constant during a run
    buses : AXI4 ports; port 0 is shared by all bus masters, the others carry weights only
    events : instructions completed, per engine
    busy, stall : one bit per engine, one cycle late
    started, done : one bit per engine; an instruction begins, or has completed
    held, over : per engine, see `InstructionQueue`
    matmul_activity, depthwise_chunk : see the engines
    packet, fault, ended : see `Sequencer`
    bus_read, bus_write, result_range : errors of bus masters
    outstanding : some bus transfer is not complete
    progress : an instruction has ended, or a beat has moved on a bus
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "begin": In(1),
                "halt": In(1),
                "program_base": In(config.address_bits),
                "input_base": In(config.address_bits),
                "result_base": In(config.address_bits),
                "result_bytes": In(32),
                "buses": Out(Axi4(config.bus_bits, config.address_bits)).array(config.bus_ports),
                "events": Out(event_counts()),
                "busy": Out(len(Engine)),
                "stall": Out(len(Engine)),
                "started": Out(len(Engine)),
                "done": Out(len(Engine)),
                "held": Out(len(Engine)),
                "over": Out(data.ArrayLayout(len(Engine), len(Engine))),
                "matmul_activity": Out(MatmulActivity),
                "depthwise_chunk": Out(1),
                "packet": Out(32),
                "fault": Out(range(max(ErrorCode) + 1)),
                "ended": Out(1),
                "bus_read": Out(1),
                "bus_write": Out(1),
                "result_range": Out(1),
                "outstanding": Out(1),
                "progress": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        self._sequencer = m.submodules.sequencer = Sequencer(config)
        self._engines = {
            Engine.MATMUL: MatmulEngine(config),
            Engine.DEPTHWISE: DepthwiseEngine(config),
            Engine.ATTENTION: LinearAttentionUnit(config),
            Engine.NORM: NormEngine(config),
            Engine.LOAD: Loader(config),
            Engine.STORE: Storer(config),
        }
        for engine, component in self._engines.items():
            m.submodules[engine.name.lower()] = component
        queues = self._connect_queues(m)
        self._connect_memories(m)
        streams = self._connect_streams(m, queues)
        self._connect_buses(m, streams)
        statuses = [self._engines[engine].status for engine in Engine]
        m.d.sync += [
            self.busy.eq(Cat(status.busy for status in statuses)),
            self.stall.eq(Cat(status.stall for status in statuses)),
        ]
        m.d.comb += [
            self.matmul_activity.eq(self._engines[Engine.MATMUL].activity),
            self.depthwise_chunk.eq(self._engines[Engine.DEPTHWISE].chunk),
            self.packet.eq(self._sequencer.packet),
            self.fault.eq(self._sequencer.fault),
            self.ended.eq(self._sequencer.ended),
        ]
        return m

    def _connect_queues(self, m: Module) -> dict[Engine, InstructionQueue]:
        """A queue between the sequencer and each engine; event counts to everyone."""
        sequencer = self._sequencer
        queues = {}
        for engine, component in self._engines.items():
            queue = InstructionQueue(self._config, BODIES[Opcode(engine.value)])
            queues[engine] = m.submodules[f"{engine.name.lower()}_queue"] = queue
            packets = sequencer.queues[engine]
            connect(m, queue.instruction, component.instruction)
            m.d.comb += [
                queue.i.payload.waits.eq(packets.payload.waits),
                queue.i.payload.body.eq(packets.payload.body),
                queue.i.valid.eq(packets.valid),
                packets.ready.eq(queue.i.ready),
                queue.begin.eq(self.begin),
                queue.halt.eq(self.halt),
                queue.reached.eq(sequencer.reached),
                queue.events.eq(self.events),
                self.events[engine].eq(queue.completed),
                self.held[engine].eq(queue.held),
                self.over[engine].eq(queue.over),
            ]
        idle = Cat(queue.idle for queue in queues.values()).all()
        m.d.comb += [
            sequencer.start.eq(self.begin),
            sequencer.halt.eq(self.halt),
            sequencer.base.eq(self.program_base),
            sequencer.events.eq(self.events),
        ]
        # the END packet comes many cycles after the last instruction, so that it may see this late
        m.d.sync += sequencer.idle.eq(idle & ~self.outstanding)
        return queues

    def _connect_memories(self, m: Module) -> None:
        """Scratchpad ports in order of priority, and the attention states."""
        matmul, depthwise, attention, norm, load, store = (self._engines[engine] for engine in Engine)
        m.submodules.matmul_reads = register = ReadRegister(self._config)
        connect(m, matmul.source, register.i)
        reads = [register.o, matmul.residual]
        for engine in (Engine.DEPTHWISE, Engine.ATTENTION, Engine.NORM, Engine.STORE):
            m.submodules[f"{engine.name.lower()}_reads"] = buffer = ReadBuffer(self._config)
            connect(m, self._engines[engine].source, buffer.i)
            reads.append(buffer.o)
        writes = (
            matmul.destination, depthwise.destination, attention.destination, norm.destination, load.destination,
        )  # fmt: skip
        m.submodules.scratchpads = pads = Scratchpads(self._config, readers=len(reads), writers=len(writes))
        for port, pad_port in (*zip(reads, pads.reads), *zip(writes, pads.writes)):
            connect(m, port, pad_port)
        m.submodules.states = states = StateBuffer(self._config)
        connect(m, attention.state, states.write)
        connect(m, matmul.state, states.read)

    def _connect_streams(self, m: Module, queues: dict[Engine, InstructionQueue]) -> dict[Engine, wiring.Component]:
        """Parameter streams between the queues, which send for them, and the engines."""
        streams = {
            Engine.MATMUL: WeightStream(self._config),
            Engine.DEPTHWISE: ParameterStream(self._config),
            Engine.NORM: ParameterStream(self._config),
        }
        for engine, component in streams.items():
            m.submodules[f"{engine.name.lower()}_stream"] = component
            connect(m, queues[engine].fetch, component.fetch)
            connect(m, component.words, self._engines[engine].parameters)
            m.d.comb += queues[engine].program_base.eq(self.program_base)
        m.d.comb += streams[Engine.MATMUL].port_stride.eq(self._sequencer.port_stride)
        return streams

    def _connect_buses(self, m: Module, streams: dict[Engine, wiring.Component]) -> None:
        """All masters on port 0, weights also on the other ports; halt, errors, and activity."""
        loader, storer = self._engines[Engine.LOAD], self._engines[Engine.STORE]
        weights = streams[Engine.MATMUL]
        small_streams = [streams[Engine.DEPTHWISE], streams[Engine.NORM]]
        readers = [self._sequencer.bus, loader.bus, weights.buses[0], *(s.bus for s in small_streams)]
        m.submodules.arbiter = arbiter = ReadArbiter(
            data_width=self._config.bus_bits, readers=len(readers), address_bits=self._config.address_bits
        )
        for bus, port in zip(readers, arbiter.readers):
            connect(m, bus, port)
        connect(m, arbiter.bus, flipped(self.buses[0].read))
        connect(m, storer.bus, flipped(self.buses[0].write))
        for lane in range(1, self._config.bus_ports):
            connect(m, weights.buses[lane], flipped(self.buses[lane].read))
            m.d.comb += idle_writes(self.buses[lane].write)

        m.d.comb += [
            loader.input_base.eq(self.input_base),
            loader.result_base.eq(self.result_base),
            storer.result_base.eq(self.result_base),
            storer.result_bytes.eq(self.result_bytes),
        ]
        masters = [loader, weights, *small_streams, storer]
        m.d.comb += [master.halt.eq(self.halt) for master in masters]
        m.d.comb += [
            self.outstanding.eq(Cat(master.outstanding for master in [self._sequencer, *masters]).any()),
            self.bus_read.eq(Cat(self._sequencer.read_error, *(master.error for master in masters[:-1])).any()),
            self.bus_write.eq(storer.error),
            self.result_range.eq(storer.range_error),
        ]
        ports = [component.instruction for component in self._engines.values()]
        m.d.sync += [
            self.started.eq(Cat(port.body.valid & port.body.ready for port in ports)),
            self.done.eq(Cat(port.done for port in ports)),
            self.progress.eq(Cat(*(port.done for port in ports), *(moved(bus) for bus in self.buses)).any()),
        ]


def idle_writes(bus: wiring.PureInterface) -> list:
    """Assignments that make a write port do nothing."""
    zeros = [value.eq(0) for _, member, value in bus.signature.flatten(bus) if member.flow is Out]
    return [*zeros, *drive_write_constants(bus), bus.bready.eq(1)]


def moved(bus: wiring.PureInterface) -> Value:
    """Whether a beat or a response moves on a port."""
    return Cat(
        bus.read.rvalid & bus.read.rready, bus.write.wvalid & bus.write.wready, bus.write.bvalid & bus.write.bready
    ).any()
