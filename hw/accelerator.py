"""The accelerator: a core behind control registers."""

from amaranth import Cat, Module, ResetInserter
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.bus.axi4 import Axi4
from hw.bus.axi4lite import Axi4Lite
from hw.config import AcceleratorConfig
from hw.control.counters import PerformanceCounters
from hw.control.descriptors import Engine
from hw.control.register_bank import RegisterBank
from hw.control.registers import ADDRESS_WIDTH, BY_NAME, ENGINES
from hw.control.run_control import RunControl
from hw.core import Core
from hw.engines.matmul import MatmulActivity

__all__ = ["Accelerator", "AcceleratorSignature"]


class AcceleratorSignature(wiring.Signature):
    """Ports of the accelerator.

    Members
    -------
    m : AXI4 ports to external memory
    s : AXI4-Lite port of the control registers
    irq : level; a run has ended or was stopped, and the interrupt is enabled
    monitor : what the engines do, for traces; may stay open
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(
            {
                "m": Out(Axi4(config.bus_bits, config.address_bits)).array(config.bus_ports),
                "s": In(Axi4Lite(ADDRESS_WIDTH)),
                "irq": Out(1),
                "monitor": Out(Monitor()),
            }
        )


class Monitor(wiring.Signature):
    """What the engines do. Vectors have a bit per engine in the order of `Engine`.

    Members
    -------
    running : a program runs
    started, done : a pulse for each instruction that begins, or has completed
    busy, stall : see `EngineStatus`
    held, over : see `InstructionQueue`
    matmul, depthwise : see `MatmulActivity`; the multipliers of the depthwise engine work
    """

    def __init__(self) -> None:
        engines = ("started", "done", "busy", "stall", "held")
        super().__init__(
            {name: Out(len(Engine)) for name in engines}
            | {
                "running": Out(1),
                "over": Out(data.ArrayLayout(len(Engine), len(Engine))),
                "matmul": Out(MatmulActivity),
                "depthwise": Out(1),
            }
        )


class Accelerator(wiring.Component):
    """Runs programs of `compiler.program` on images in external memory.

    The host writes the base registers, starts, and waits for the interrupt or polls STATUS; see
    docs/architecture/registers.md. Ports are those of `AcceleratorSignature`.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(AcceleratorSignature(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.registers = registers = RegisterBank(self.config)
        m.submodules.control = control = RunControl()
        m.submodules.counters = counters = PerformanceCounters()
        core = Core(self.config)
        m.submodules.core = ResetInserter(control.clear)(core)
        connect(m, flipped(self.s), registers.bus)
        for port, bus in zip(self.m, core.buses):
            connect(m, bus, flipped(port))
        self._connect_control(m, registers, control, core)
        self._connect_status(m, registers, control, counters, core)
        return m

    def _connect_control(self, m: Module, registers: RegisterBank, control: RunControl, core: Core) -> None:
        """Commands of the host to the run control, and its orders to the core."""
        m.d.sync += [
            control.start.eq(registers.control_start),
            control.soft_reset.eq(registers.control_soft_reset),
            control.acknowledge.eq(registers.status_interrupt),
        ]
        m.d.comb += [
            control.timeout.eq(registers.timeout),
            registers.locked.eq(control.running),
            core.begin.eq(control.begin),
            core.halt.eq(control.halt),
            core.program_base.eq(Cat(registers.program_base_lo, registers.program_base_hi)),
            core.input_base.eq(Cat(registers.input_base_lo, registers.input_base_hi)),
            core.result_base.eq(Cat(registers.result_base_lo, registers.result_base_hi)),
            core.result_bytes.eq(registers.result_bytes),
            self.irq.eq(control.interrupt & registers.control[BY_NAME["CONTROL"].field("irq_enable").bit]),
        ]
        for name in ("fault", "result_range", "bus_read", "bus_write", "packet", "ended", "outstanding", "progress"):
            m.d.comb += getattr(control, name).eq(getattr(core, name))

    def _connect_status(
        self, m: Module, registers: RegisterBank, control: RunControl, counters: PerformanceCounters, core: Core
    ) -> None:
        """What the host can read."""
        for field in BY_NAME["STATUS"].fields:
            m.d.sync += registers.status[field.bit].eq(getattr(control, field.name))
        m.d.comb += [
            self.monitor.running.eq(control.running),
            self.monitor.started.eq(core.started),
            self.monitor.done.eq(core.done),
            self.monitor.busy.eq(core.busy),
            self.monitor.stall.eq(core.stall),
            self.monitor.held.eq(core.held),
            self.monitor.over.eq(core.over),
            self.monitor.matmul.eq(core.matmul_activity),
            self.monitor.depthwise.eq(core.depthwise_chunk),
            registers.error_code.eq(control.error_code),
            registers.error_info.eq(control.error_info),
            registers.packets.eq(core.packet),
            registers.turn.eq(counters.turn),
            registers.count.eq(counters.count),
            counters.begin.eq(control.begin),
            counters.running.eq(control.running),
            counters.busy.eq(core.busy),
            counters.stall.eq(core.stall),
        ]
        for engine in Engine:
            m.d.comb += getattr(registers, f"events_{ENGINES[engine]}").eq(core.events[engine])
