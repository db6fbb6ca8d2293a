"""What the mantissa bits of the attention's divisors cost and are worth, as a table."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from amaranth.back import verilog

from hw.arithmetic.reciprocal import Reciprocal
from hw.config import AcceleratorConfig
from hw.synthesis import synthesize
from hw.verilog import TOP
from quant import numerics
from quant.divisors import DivisorRow

__all__ = ["ReciprocalCost", "divisor_markdown", "reciprocal_cost"]


@dataclass(frozen=True, kw_only=True)
class ReciprocalCost:
    """Of one reciprocal unit; the accelerator has one per pixel of a word."""

    mantissa_bits: int
    table_bits: int
    multiplier_bits: int  #: significant bits by which the numerator is multiplied; 0 is a shift
    lut: int
    flip_flop: int
    block_ram: int


def reciprocal_cost(config: AcceleratorConfig, target: str, work_dir: Path) -> ReciprocalCost:
    """Synthesize the reciprocal unit of a configuration; see `hw.synthesis`."""
    bits = config.divisor_mantissa_bits
    work_dir.mkdir(parents=True, exist_ok=True)
    file = work_dir / f"reciprocal{bits}.v"
    file.write_text(verilog.convert(Reciprocal(config), name=TOP))
    cells = synthesize(file, target, work_dir).kinds
    table = numerics.reciprocal_table(bits)
    return ReciprocalCost(
        mantissa_bits=bits,
        table_bits=len(table) * (numerics.RECIPROCAL_BITS + 1) if bits else 0,
        multiplier_bits=max(table).bit_length() if bits else 0,
        lut=cells["lut"],
        flip_flop=cells["flip_flop"],
        block_ram=cells["block_ram"],
    )


def divisor_markdown(
    rows: Sequence[DivisorRow], costs: Sequence[ReciprocalCost], *, network: str, images: int, target: str, command: str
) -> str:
    """Errors, accuracy, and cost by width of the mantissa."""
    header = (
        "mantissa bits", "worst error", "rms error", "same class as float", "top-1",
        "table bits", "multiplier bits", "LUT", "flip-flops", "block RAM",
    )  # fmt: skip
    table = [header, ["---"] * len(header)]
    for row, cost in zip(rows, costs, strict=True):
        shares = [f"{x:.2%}" for x in (row.worst_error, row.rms_error, row.agreement, row.top1)]
        cells = [f"{x:,}" for x in astuple(cost)[1:]]
        table.append([str(row.mantissa_bits), *shares, *cells])
    lines = [
        "# Bits of the attention's divisors",
        "",
        f"Quotients of {network} by reciprocals of so many mantissa bits, against exact division by the same integer",
        f"divisors; classes of the first {images:,} test images; cells of one reciprocal unit on {target}.",
        "",
        f"    {command}",
        "",
        *(f"| {' | '.join(row)} |" for row in table),
    ]
    return "\n".join(lines) + "\n"
