"""Table and picture of an ablation."""

import io

from PIL import Image

from quant.ablation import Result
from vitsmith.ablation import ablation_markdown, ablation_picture

RESULTS = [
    Result(network=network, row=row, seed=seed, images=100, float_top1=0.9, top1=top1 + seed / 100, agreement=0.95)
    for seed in (0, 1, 2)
    for network in ("demo", "hard")
    for row, top1 in (("plain", 0.5), ("ours", 0.88))
]


def test_table():
    text = ablation_markdown(RESULTS, "vitsmith ablation", 64)
    assert "first 100 test images, calibrated on 64 images\ndrawn by each of 3 seeds" in text
    assert "    vitsmith ablation\n" in text and text.count("Float top-1: 90.00%") == 2
    assert text.count("| plain | 51.00 ± 1.00 | -39.00 | 95.00 ± 0.00 |") == 2
    assert text.count("| ours | 89.00 ± 1.00 | -1.00 | 95.00 ± 0.00 |") == 2
    assert "](ablation.png)" in text
    single = ablation_markdown([x for x in RESULTS if x.seed == 0], "", 64)
    assert "| plain | 50.00 | -40.00 | 95.00 |" in single


def test_picture():
    with Image.open(io.BytesIO(ablation_picture(RESULTS))) as picture:
        assert picture.format == "PNG" and picture.width > 800
    assert ablation_picture(RESULTS[:1])
