"""A DDR3 chip with its pins for `core_verilog`: LiteDRAM's model, which checks times, and reads that need tuning.

Violations of times are lines with the word "violation" in the simulation's log.
"""

from litedram.modules import SDRAMModule
from litedram.phy.dfi import Interface
from litedram.phy.model import SDRAM_VERBOSE_STD, SDRAMPHYModel
from litex.soc.interconnect.csr import CSR, CSRStatus, CSRStorage
from migen import Cat, If, Module, Mux, Signal

from boards.memory.ddr3.core import PULSES

__all__ = ["RIGHT", "ModelPhy"]

RIGHT = ((2, 1, 5), (1, 3, 7))  #: by lane: alignment, and first and last delay, with which reads are right
DELAYS, SLIPS = 8, 4


class ModelPhy(Module):
    """A `PhyFactory`: LiteDRAM's model behind the registers of its ECP5 PHY."""

    def __init__(self, module: SDRAMModule, settings: object, frequency: float) -> None:
        lanes = settings.databits // 8
        self.settings = settings
        self._dly_sel = CSRStorage(lanes)
        for name in PULSES:
            setattr(self, f"_{name}", CSR(name=name))
        self._burstdet_seen = CSRStatus(lanes)
        geometry = module.geom_settings
        self.dfi = Interface(
            geometry.addressbits, geometry.bankbits, settings.nranks, settings.dfi_databits, settings.nphases
        )
        self.submodules.chip = chip = SDRAMPHYModel(
            module, settings, clk_freq=frequency, verbosity=SDRAM_VERBOSE_STD
        )  # fmt: skip
        self.comb += self.dfi.connect(chip.dfi, omit={"rddata"})
        right = [self._tune(lane) for lane in range(lanes)]
        for phase, inner in zip(self.dfi.phases, chip.dfi.phases, strict=True):
            for byte in range(len(phase.rddata) // 8):
                data, lane = inner.rddata[8 * byte : 8 * byte + 8], byte % lanes
                self.comb += phase.rddata[8 * byte : 8 * byte + 8].eq(Mux(right[lane], data, Cat(data[1:], ~data[0])))

    def _tune(self, lane: int) -> Signal:
        """The settings of a lane; returns whether its reads are right."""
        delay, slip, right, near = Signal(max=DELAYS), Signal(max=SLIPS), Signal(), Signal()
        good, first, last = RIGHT[lane]
        selected, seen = self._dly_sel.storage[lane], self._burstdet_seen.status[lane]
        self.comb += [near.eq((delay >= first) & (delay <= last)), right.eq(near & (slip == good))]
        self.sync += [
            If(selected & self._rdly_dq_inc.re, delay.eq(delay + 1)),
            If(selected & self._rdly_dq_rst.re, delay.eq(0)),
            If(selected & self._rdly_dq_bitslip.re, slip.eq(slip + 1)),
            If(selected & self._rdly_dq_bitslip_rst.re, slip.eq(0)),
            If(self.dfi.phases[0].rddata_valid & near & ~self._dly_sel.storage[lane], seen.eq(1)),
            If(self._burstdet_clr.re, seen.eq(0)),
        ]
        return right
