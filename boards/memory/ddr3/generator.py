"""LiteDRAM's controller and PHY in one module. Imported by `core_verilog` only, as it needs LiteDRAM."""

from litedram.core import LiteDRAMCore
from litedram.modules import DDR3Module, SDRAMModule, _SpeedgradeTimings, _TechnologyTimings
from litedram.phy import ECP5DDRPHY
from migen import Cat, ClockDomain, ClockDomainsRenamer, Instance, Module, Record, Signal
from migen.fhdl import verilog
from migen.fhdl.specials import Tristate

from boards.memory.ddr3.chip import CAS_LATENCY, WRITE_LATENCY, Ddr3Chip
from boards.memory.ddr3.core import CORE, LANES, PHASES, PULSES, Ddr3Core, PhyFactory

__all__ = ["convert", "litedram_module", "pads"]

HEADER = "/* Made by LiteDRAM and Migen */\n"


def convert(chip: Ddr3Chip, frequency: float, factory: PhyFactory | None) -> str:
    """See `core_verilog`."""
    module = litedram_module(chip, frequency)
    pins = pads(chip)
    phy = ECP5DDRPHY(pins, frequency, cl=CAS_LATENCY, cwl=WRITE_LATENCY)
    if factory:
        core = _Core(chip, module, factory(module, phy.settings, frequency), frequency)
    else:
        core = _Core(chip, module, phy, frequency)
        core.connect_pins(phy, pins)
    text = str(verilog.convert(core, core.ios, CORE, {Tristate: _Pin}, create_clock_domains=False))
    return HEADER + text.split("*/\n", 1)[1]


def litedram_module(chip: Ddr3Chip, frequency: float) -> SDRAMModule:
    """The chip as LiteDRAM describes chips; pairs are clock cycles and nanoseconds, of which the longer counts."""
    technology = _TechnologyTimings(
        tREFI=chip.t_refresh, tWTR=(4, chip.t_wtr), tCCD=(4, None), tRRD=(4, chip.t_rrd), tZQCS=(64, 80)
    )
    grade = _SpeedgradeTimings(
        tRP=chip.t_rp, tRCD=chip.t_rcd, tWR=chip.t_wr, tRFC=(None, chip.t_rfc), tFAW=(None, chip.t_faw), tRAS=chip.t_ras
    )
    sizes = {"nbanks": 1 << chip.bank_bits, "nrows": 1 << chip.row_bits, "ncols": 1 << chip.column_bits}
    timings = {"technology_timings": technology, "speedgrade_timings": {"default": grade}}
    return type(chip.name, (DDR3Module,), sizes | timings)(frequency, f"1:{PHASES}")


def pads(chip: Ddr3Chip) -> Record:
    """Signals of the chip's pins, named as in LiteDRAM."""
    bits = {"a": chip.row_bits, "ba": chip.bank_bits, "dq": 8 * LANES, "dqs_p": LANES, "dm": LANES}
    single = ("clk_p", "cke", "odt", "ras_n", "cas_n", "we_n", "cs_n", "reset_n")
    return Record([*bits.items(), *((name, 1) for name in single)], name="ddr3")


class _Core(Module):
    """A controller with one port, a PHY, and another source of commands for the chip."""

    def __init__(self, chip: Ddr3Chip, module: SDRAMModule, phy: Module, frequency: float) -> None:
        self.clock_domains.cd_sys = sys = ClockDomain()
        self.clock_domains.cd_phy = own = ClockDomain()
        own.clk = sys.clk
        self.ports = {}
        for path, _, signal in Ddr3Core(chip).flatten(Ddr3Core(chip).create()):
            name = "_".join(path)
            self.ports[name] = Signal(len(signal), name=name)
        self.ios = {sys.clk, sys.rst, own.rst, *self.ports.values()}
        self.submodules.phy = ClockDomainsRenamer("phy")(phy)
        self.submodules.core = core = LiteDRAMCore(phy, module.geom_settings, module.timing_settings, frequency)
        self._connect_port(core.crossbar.get_port())
        self._connect_init(core, phy)
        self._connect_tuning(phy)

    def _connect_port(self, port: Record) -> None:
        p = self.ports
        self.comb += [
            port.cmd.valid.eq(p["port_cmd_valid"]),
            p["port_cmd_ready"].eq(port.cmd.ready),
            port.cmd.we.eq(p["port_cmd_we"]),
            port.cmd.addr.eq(p["port_cmd_addr"]),
            port.wdata.valid.eq(1),
            p["port_wdata_ready"].eq(port.wdata.ready),
            port.wdata.data.eq(p["port_wdata_data"]),
            port.wdata.we.eq(p["port_wdata_mask"]),
            p["port_rdata_valid"].eq(port.rdata.valid),
            p["port_rdata_data"].eq(port.rdata.data),
            port.rdata.ready.eq(1),
        ]

    def _connect_init(self, core: LiteDRAMCore, phy: Module) -> None:
        """Commands go to the phase of their kind: that of reads, of writes, or the first."""
        p = self.ports
        read, write = Signal(), Signal()
        phases = core.dfii.ext_dfi.phases
        width = len(phases[0].wrdata)
        self.comb += [
            core.dfii.ext_dfi_sel.eq(p["init_select"]),
            read.eq(~p["init_ras"] & p["init_cas"] & ~p["init_we"]),
            write.eq(~p["init_ras"] & p["init_cas"] & p["init_we"]),
            p["init_rdata_valid"].eq(phases[0].rddata_valid),
            p["init_rdata"].eq(Cat(phase.rddata for phase in phases)),
        ]
        for index, phase in enumerate(phases):
            selected, reads, writes = Signal(), Signal(), Signal()
            self.comb += [
                reads.eq(read & (index == phy.settings.rdphase)),
                writes.eq(write & (index == phy.settings.wrphase)),
                selected.eq(reads | writes | ~read & ~write & (index == 0)),
                phase.cs_n.eq(~selected),
                phase.ras_n.eq(~(p["init_ras"] & selected)),
                phase.cas_n.eq(~(p["init_cas"] & selected)),
                phase.we_n.eq(~(p["init_we"] & selected)),
                phase.bank.eq(p["init_bank"]),
                phase.address.eq(p["init_address"]),
                phase.cke.eq(p["init_cke"]),
                phase.odt.eq(p["init_cke"]),
                phase.reset_n.eq(p["init_reset_n"]),
                phase.wrdata.eq(p["init_wdata"][index * width : (index + 1) * width]),
                phase.wrdata_en.eq(writes),
                phase.rddata_en.eq(reads),
            ]

    def _connect_tuning(self, phy: Module) -> None:
        """The PHY's registers, without the bus that LiteDRAM would put before them."""
        p = self.ports
        self.comb += [phy._dly_sel.storage.eq(p["init_dly_sel"]), p["init_burstdet_seen"].eq(phy._burstdet_seen.status)]
        self.comb += [getattr(phy, f"_{name}").re.eq(p[f"init_{name}"]) for name in PULSES]

    def connect_pins(self, phy: ECP5DDRPHY, pins: Record) -> None:
        """Pins, and the clocks that they need."""
        self.clock_domains.cd_sys2x = sys2x = ClockDomain(reset_less=True)
        self.clock_domains.cd_init = init = ClockDomain()
        stop, reset = Signal(name="clock_stop"), Signal(name="clock_reset")
        self.comb += [stop.eq(phy.init.stop), reset.eq(phy.init.reset)]
        self.ios |= {sys2x.clk, init.clk, init.rst, stop, reset, *pins.flatten()}


class _Pin(Module):
    """A bidirectional pin; its enable comes from a register in the pin, with nothing between."""

    @staticmethod
    def lower(pin: Tristate) -> Module:
        module = Module()
        module.specials += Instance("BB", io_B=pin.target, i_I=pin.o, o_O=pin.i, i_T=~pin.oe)
        return module
