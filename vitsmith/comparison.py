"""The comparison page: our measured cycles beside what others have published, with sources and what each leaves out."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published", "comparison_markdown"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure of somebody else."""

    design: str
    device: str
    network: str
    precision: str
    mhz: str
    frames_per_second: str
    per_dsp: str  #: operations per multiplier block and cycle (a multiply-accumulate is two)
    kind: str  #: measured on the device, claimed, modelled, or derived from other figures
    leaves_out: str
    source: str


_TRIO_VIT = "arXiv 2405.03882 (TCAS-I 2024)"
_JETSON = "mit-han-lab/efficientvit, applications/efficientvit_cls/README.md"
_DPU = "AMD Vitis-AI 2.5, model_zoo/README.md"

PUBLISHED = (
    Published(
        design="Trio-ViT, claimed", device="ZCU102", network="EfficientViT-B1 224", precision="W8A8", mhz="200",
        frames_per_second="about 750", per_dsp="3.8 (of 1,024 DSPs, derived)",
        kind="derived from the claimed 780.2 GOPS",
        leaves_out="a simulator of computation only: no external memory, no head of the network, no requantization, "
        "pixels divisible by 16; RTL not public",
        source=f"{_TRIO_VIT}; arXiv 2403.20230 for GOPS, clock, and array",
    ),
    Published(
        design="Trio-ViT, their array on whole frames", device="ZCU102", network="EfficientViT-B1 224",
        precision="W8A8", mhz="200", frames_per_second="660", per_dsp="3.34 (of 1,024 DSPs)",
        kind="modelled by us: their 2,048 multipliers, head, grouped convolutions, and pixel tails counted",
        leaves_out="still no external memory and no requantization",
        source=f"re-model of {_TRIO_VIT}: utilisation 83.6 % x 2 products x 2 operations",
    ),
    Published(
        design="QuS", device="ZCU102", network="EfficientViT (variant not stated)", precision="mostly W4A4", mhz="300",
        frames_per_second="2,257", per_dsp="not stated", kind="claimed in the abstract",
        leaves_out="variant, resolution, and DSPs are not in the abstract; RTL not public",
        source="OpenReview B2DRmwStm9 (ICLR 2026 submission), abstract and reviews",
    ),
    Published(
        design="Jetson Nano, TensorRT", device="Jetson Nano", network="EfficientViT-B1 224", precision="fp16", mhz="",
        frames_per_second="40.3", per_dsp="", kind="measured by the network's authors: 24.8 ms at batch 1",
        leaves_out="batches; transfers are included", source=_JETSON,
    ),
    Published(
        design="Jetson AGX Orin, TensorRT", device="Jetson AGX Orin", network="EfficientViT-B1 224", precision="fp16",
        mhz="", frames_per_second="676", per_dsp="",
        kind="measured by the network's authors: 1.48 ms at batch 1",
        leaves_out="batches; transfers are included", source=_JETSON,
    ),
    Published(
        design="Jetson AGX Orin, TensorRT", device="Jetson AGX Orin", network="EfficientViT-B2 224", precision="fp16",
        mhz="", frames_per_second="380", per_dsp="",
        kind="measured by the network's authors: 2.63 ms at batch 1",
        leaves_out="batches; transfers are included", source=_JETSON,
    ),
    Published(
        design="AMD DPU, 3 x B4096", device="ZCU102", network="MobileNetV2 (0.3 GMAC)", precision="INT8",
        mhz="281 (DSPs at 562)", frames_per_second="707 (268 in one thread)",
        per_dsp="12.3 % of the peak of 3,453 GOPS", kind="measured by the maker",
        leaves_out="another network; no DPU figure for EfficientViT is known", source=_DPU,
    ),
    Published(
        design="AMD DPU, B4096", device="KV260", network="MobileNetV2 (0.3 GMAC)", precision="INT8",
        mhz="300 (DSPs at 600)", frames_per_second="337 (291 in one thread)",
        per_dsp="16.5 % of the peak of 1,229 GOPS", kind="measured by the maker",
        leaves_out="another network; no DPU figure for EfficientViT is known", source=_DPU,
    ),
)  # fmt: skip

COMPARED = ("base", "max", "max4")  #: our accelerators for devices like theirs
CLOCKS = (200, 300)  #: MHz that our frames per second are given for


def comparison_markdown(benchmark: dict, published: Sequence[Published] = PUBLISHED) -> str:
    """The page; `benchmark` is the content of a benchmark.json, of which the cases of `COMPARED` are shown."""
    cases = [case for case in benchmark["cases"] if "cycles" in case and case["accelerator"] in COMPARED]
    return "\n".join(
        [
            "# Beside published figures",
            "",
            "Made by `vitsmith comparison` from `benchmark.json` and a table of sources. Nothing here has run on one",
            "bench: read what each row leaves out before comparing two of them.",
            "",
            "## Ours: cycles of whole frames in RTL",
            "From image bytes to class scores in external memory (60 cycles latency, 64 bytes per cycle), head of the",
            "network included. Frames per second are these cycles at a clock that nobody has placed and routed. DSPs",
            "are all of the accelerator's on UltraScale+, requantizers and LayerNorm included, where everything but",
            "the MAC array and one product of a requantizer multiplies in logic (`--set multiplier=dsp48e2",
            "--set logic_engines=1 --set logic_requantizers=1`; cycles and results are those of every other style).",
            "Logic in place of DSPs asks for more LUTs: `max` then takes 94 % of a ZCU102's by the estimate. `max4` is",
            "for weights, activations, and states of 4 bits.",
            "Left out: a memory controller, a host, an FPGA.",
            "",
            f"    {benchmark['command']}",
            "",
            *_table(_our_header(), [_our_row(case) for case in cases]),
            "",
            "## Theirs",
            *_table(
                ("design", "device", "network", "precision", "MHz", "frames/s", "operations per DSP and cycle"),
                [
                    (p.design, p.device, p.network, p.precision, p.mhz, p.frames_per_second, p.per_dsp)
                    for p in published
                ],
            ),
            "",
            "| design | network | kind of figure | leaves out | source |",
            "| --- | --- | --- | --- | --- |",
            *(f"| {p.design} | {p.network} | {p.kind} | {p.leaves_out} | {p.source} |" for p in published),
            "",
        ]
    )


def _our_header() -> tuple[str, ...]:
    clocks = (f"frames/s at {mhz} MHz" for mhz in CLOCKS)
    return (
        "network",
        "accelerator",
        "MAC/cycle",
        "frames per run",
        "cycles per frame",
        "MAC utilisation",
        "operations per DSP and cycle",
        *clocks,
    )


def _our_row(case: dict) -> tuple[str, ...]:
    return (
        f"EfficientViT-{case['network'].upper()} {case['size']}",
        case["accelerator"],
        f"{case['macs_per_cycle']:,}",
        str(case["batch"]),
        f"{case['cycles']:,.0f}",
        f"{case['mac_utilisation']:.1%}",
        f"{case['operations_per_dsp']:.2f} (of {case['dsps']:,} DSPs)",
        *(f"{mhz * 1e6 / case['cycles']:,.0f}" for mhz in CLOCKS),
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
