"""SDR SDRAM chips: sizes and timings from data sheets, and the same in clock cycles."""

from dataclasses import dataclass
from math import ceil, floor

__all__ = ["SLOWEST_256_MBIT", "SdramChip", "SdramTiming"]

BURST_LENGTH = 4  #: columns of an access; with 16 data bits, the 64 bits of a bus beat


@dataclass(frozen=True, kw_only=True)
class SdramChip:
    """A single-data-rate SDRAM; times in nanoseconds, named as in the data sheets."""

    name: str
    bank_bits: int = 2
    row_bits: int = 13
    column_bits: int = 9
    data_bits: int = 16
    cas_frequency: dict[int, float]  #: highest clock frequency by CAS latency
    t_rcd: float  #: activate to read or write
    t_rp: float  #: precharge to anything
    t_ras: float  #: activate to precharge
    t_rc: float  #: activate to activate of the same bank
    t_rrd: float  #: activate to activate of another bank
    t_rfc: float  #: refresh to anything
    t_wr: float  #: last data written to precharge
    t_refresh: float  #: between refreshes, on average
    t_init: float  #: from stable clock to the first command

    @property
    def size(self) -> int:
        """Bytes."""
        return (self.data_bits // 8) << (self.bank_bits + self.row_bits + self.column_bits)

    @property
    def address_bits(self) -> int:
        """Of a word of a burst."""
        return self.bank_bits + self.row_bits + self.column_bits - (BURST_LENGTH.bit_length() - 1)

    def timing(self, frequency: float) -> "SdramTiming":
        """Its timing in cycles of a clock in Hz. Raises ValueError if the clock is too fast for it."""
        latencies = [latency for latency, limit in sorted(self.cas_frequency.items()) if frequency <= limit]
        if not latencies:
            fastest = max(self.cas_frequency.values())
            raise ValueError(f"{self.name}: {frequency / 1e6:g} MHz exceeds the {fastest / 1e6:g} MHz of the chip")

        def cycles(time: float) -> int:
            return max(1, ceil(time * 1e-9 * frequency - 1e-6))

        return SdramTiming(
            cas_latency=latencies[0],
            rcd=max(cycles(self.t_rcd), cycles(self.t_rrd)),
            rp=cycles(self.t_rp),
            ras=max(cycles(self.t_ras), cycles(self.t_rc) - cycles(self.t_rp)),
            rfc=cycles(self.t_rfc),
            wr=cycles(self.t_wr),
            refresh=floor(self.t_refresh * 1e-9 * frequency),
            init=cycles(self.t_init),
        )


@dataclass(frozen=True, kw_only=True)
class SdramTiming:
    """Cycles. `rcd` and `ras` also cover the distances of two activations (t_rrd, t_rc)."""

    cas_latency: int
    rcd: int
    rp: int
    ras: int
    rfc: int
    wr: int
    refresh: int
    init: int


#: the slowest figures among the 256-Mbit chips (16 M x 16, grades -7 and -75) that such boards carry
SLOWEST_256_MBIT = SdramChip(
    name="256-Mbit SDRAM", cas_frequency={2: 100e6, 3: 133e6},
    t_rcd=21, t_rp=21, t_ras=45, t_rc=67.5, t_rrd=15, t_rfc=67.5, t_wr=15, t_refresh=64e6 / 8192, t_init=200_000,
)  # fmt: skip
