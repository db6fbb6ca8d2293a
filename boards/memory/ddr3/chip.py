"""DDR3 chips: sizes and timings from data sheets, and the settings of their mode registers."""

from dataclasses import dataclass

__all__ = ["CAS_LATENCY", "MODE_REGISTERS", "MT41K256M16", "WRITE_LATENCY", "Ddr3Chip"]

CAS_LATENCY, WRITE_LATENCY = 6, 5  #: the lowest there are, in clock cycles of the chip; for clocks up to 400 MHz

#: settings by mode register: 60 ohm termination while written; output of 34 ohm, termination of 60 ohm; bursts of 8,
#: `CAS_LATENCY`, write recovery of 5 cycles, reset of the DLL
MODE_REGISTERS = {
    2: 1 << 9 | (WRITE_LATENCY - 5) << 3,
    3: 0,
    1: 1 << 1 | 1 << 2,
    0: (CAS_LATENCY - 4) << 4 | 1 << 8 | 1 << 9,
}


@dataclass(frozen=True, kw_only=True)
class Ddr3Chip:
    """A DDR3 SDRAM with 16 data bits; times in nanoseconds, named as in the data sheets."""

    name: str
    bank_bits: int = 3
    row_bits: int
    column_bits: int = 10
    t_rcd: float  #: activate to read or write
    t_rp: float  #: precharge to anything
    t_ras: float  #: activate to precharge
    t_rrd: float  #: activate to activate of another bank, at least 4 clock cycles
    t_faw: float  #: window of at most four activations
    t_rfc: float  #: refresh to anything
    t_wr: float  #: last data written to precharge
    t_wtr: float  #: last data written to read, at least 4 clock cycles
    t_refresh: float  #: between refreshes, on average

    @property
    def size(self) -> int:
        """Bytes."""
        return 2 << (self.bank_bits + self.row_bits + self.column_bits)


#: 4 Gbit, 256 M x 16, in the slowest grade (-125)
MT41K256M16 = Ddr3Chip(
    name="MT41K256M16", row_bits=15, t_rcd=13.75, t_rp=13.75, t_ras=35, t_rrd=7.5, t_faw=40, t_rfc=260, t_wr=15,
    t_wtr=7.5, t_refresh=64e6 / 8192,
)  # fmt: skip
