"""What networks ask of hardware, as a page: products, other elements, and the lanes that keep up with an array."""

from collections.abc import Mapping, Sequence

from quant.workload import Work

__all__ = ["Lanes", "lanes", "workload_markdown"]

#: elements per cycle of the units beside an array of multipliers
Lanes = dict[str, float]


def lanes(work: Work, macs_per_cycle: int) -> Lanes:
    """Elements per cycle of each kind with which no unit is slower than an array that never waits.

    Requantizers take every output of a product, and the terms of the softmax once more.
    """
    cycles = (work.products + work.attention_products) / macs_per_cycle
    return {
        "requantizer": (work.outputs + work.exponentials) / cycles,
        "exponential": work.exponentials / cycles,
        "activation table": work.tables / cycles,
        "normalisation": work.normalised / cycles,
    }


def workload_markdown(works: Mapping[str, Work], macs_per_cycle: int, *, size: int, command: str) -> str:
    """Counts per frame, and lanes for an array of so many products of 8 x 8 bits per cycle, or twice as many of 4 x 4
    in the same multipliers."""
    counts = [("network", "MMAC", "of attention", "weights, M", "exponentials, k", "rows, k", "table, k",
               "normalised, k", "rows, k", "residual, k", "products per other element")]  # fmt: skip
    table = [("network", "bits", "cycles, k", *next(iter(map(lanes, works.values(), [macs_per_cycle]))))]
    for name, work in works.items():
        counts.append((name, *_counts(work)))
        for bits, macs in ((8, macs_per_cycle), (4, 2 * macs_per_cycle)):
            cycles = (work.products + work.attention_products) / macs
            table.append((name, str(bits), f"{cycles / 1e3:,.0f}", *(f"{x:.1f}" for x in lanes(work, macs).values())))
    lines = [
        f"# What networks ask of hardware, {size} pixels, one frame",
        "",
        f"    {command}",
        "",
        *_table(counts),
        "",
        "## Elements per cycle beside the array",
        "",
        f"The array makes {macs_per_cycle:,} products of 8 x 8 bits per cycle, or {2 * macs_per_cycle:,} of 4 x 4 in",
        "the same multipliers, and never waits. A unit with fewer lanes than here is what the others wait for.",
        "Counted from the graphs, not measured.",
        "",
        *_table(table),
    ]
    return "\n".join(lines) + "\n"


def _counts(work: Work) -> list[str]:
    products = work.products + work.attention_products
    other = work.exponentials + work.tables + work.normalised
    thousands = (
        work.exponentials,
        work.softmax_rows,
        work.tables,
        work.normalised,
        work.normalised_rows,
        work.residuals,
    )
    return [
        f"{products / 1e6:,.1f}",
        f"{work.attention_products / products:.1%}",
        f"{work.weights / 1e6:.2f}",
        *(f"{x / 1e3:,.1f}" for x in thousands),
        f"{products / max(other, 1):,.0f}",
    ]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
