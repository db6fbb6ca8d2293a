"""Proofs that two Verilog texts are the same hardware."""

import re
import subprocess
import sys
from pathlib import Path

from amaranth.back import verilog
from amaranth.lib import wiring

from hw.shared import ModuleLibrary
from hw.synthesis import RUN_YOSYS
from hw.time_zero import evaluate_at_time_zero
from sim.rewriting.modules import share_modules
from sim.rewriting.text import MODULE, NAME
from sim.rewriting.unit import instances, name_of_module

BANK = re.compile(r"^  always @\(posedge clk\) begin : \\(?P<module>\S+):lanes \n", re.MULTILINE)
SIGNAL = re.compile(
    rf"^  reg (?P<range>\[\d+:0\] )?(?P<name>{NAME})(?P<words>\[0:\d+\])?(?P<lanes>\[0:\d+\])?(?: = .*)?;\n",
    re.MULTILINE,
)


STEPS = 2  # of an induction


def prove(tmp_path: Path, name: str, gold: str, gate: str) -> subprocess.CompletedProcess:
    """Whether all signals of the same name, outputs and registers among them, are always equal.

    Induction alone proves that they stay equal if they were for some cycles; so they are compared in the first cycles
    too, from registers that are all zero.
    """
    for file, text in (("gold.v", gold), ("gate.v", with_separate_lanes(gold, gate))):
        (tmp_path / file).write_text(text)
    script = [
        *(
            f"read_verilog -sv -D VERILATOR -mem2reg {side}.v; hierarchy -top {name}; proc; flatten; memory_map; "
            f"opt_clean; rename {name} {side}; design -stash {side}"
            for side in ("gold", "gate")
        ),
        "design -copy-from gold -as gold gold; design -copy-from gate -as gate gate",
        "expose -shared -dff gold gate; miter -equiv -flatten gold gate miter",
        f"sat -verify -prove trigger 0 -tempinduct-baseonly -maxsteps {STEPS} -set-init-zero miter",
        "delete miter; equiv_make gold gate equiv; hierarchy -top equiv; opt_clean",
        f"equiv_struct; equiv_simple; equiv_induct -seq {STEPS}; equiv_status -assert",
    ]
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-p", "; ".join(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)


def with_separate_lanes(gold: str, gate: str) -> str:
    """The text with its loops over lanes unrolled, and with the names of signals of lanes as in the text without."""
    golds = {name_of_module(text): text for text in MODULE.findall(share_modules(gold))}

    def unrolled(match: re.Match[str]) -> str:
        text = match[0].removesuffix("endmodule")
        for bank in BANK.finditer(text):
            same = [
                one.name for one in instances(golds[name_of_module(text)]) if one.module.lstrip("\\") == bank["module"]
            ]
            text = _unrolled(text, bank["module"], [name.removeprefix("\\") for name in same])
        return f"{text}endmodule"

    return MODULE.sub(unrolled, gate)


def _unrolled(text: str, module: str, lanes: list[str]) -> str:
    prefix = re.escape(f"\\{module}.")
    loop = rf"^( *)/\* verilator unroll_disable \*/\n\1for \({prefix}lane.*\n(?P<body>(?:\1 .*\n)*)\1end\n"
    index = rf"\[{prefix}lane\.\d+ \[\d+:0\]\]"
    text = text.replace("automatic reg", "reg")  # Yosys gives processes no variables of their own
    text, memories = _with_separate_memories(text, module, lanes)

    def of_lane(body: str, n: int) -> str:
        for name, own in memories.items():
            body = body.replace(name, f"\\{lanes[n]}.{own} ")
        return re.sub(index, f"[{n}]", body)

    text = re.sub(loop, lambda m: "".join(of_lane(m["body"], n) for n in range(len(lanes))), text, flags=re.M)
    text = re.sub(  # copies of whole arrays
        rf"^ *(?P<to>{prefix}\S+)  <= (?P<source>\S+\.next) ;\n",
        lambda m: "".join(f"    {m['to']} [{n}] <= {m['source']} [{n}];\n" for n in range(len(lanes))),
        text,
        flags=re.MULTILINE,
    )
    for signal in list(SIGNAL.finditer(text)):
        name = signal["name"].rstrip()
        own = name.removeprefix(f"\\{module}.")
        if own == name:
            continue
        bits = signal["range"] or ""
        if not signal["words"]:
            if not re.search(rf"^ *{re.escape(name)}  <= ", text, re.MULTILINE):
                continue  # not a register
            text += "".join(f"  wire {bits}\\{lane}.{own} = {name} ;\n" for lane in lanes)
            continue
        address = r"(?P<address>\[(?:[^][]|\[[^][]*\])*\])" if signal["lanes"] else "(?P<address>)"
        element = rf"{re.escape(name)} {address}\[(?P<lane>\d+)\]"
        text = text.replace(signal[0], "")
        text = re.sub(element, lambda m, own=own: f"\\{lanes[int(m['lane'])]}.{own} {m['address']}", text)
        words = signal["words"] if signal["lanes"] else ""
        text += "".join(f"  reg {bits}\\{lane}.{own} {words};\n" for lane in lanes)
    return text


def _with_separate_memories(text: str, module: str, lanes: list[str]) -> tuple[str, dict[str, str]]:
    """The text with a memory for each lane, all written alike, in place of those that all lanes share, and the names of
    these without that of the module."""
    memories = {}
    processes = re.findall(r"^  always @\(posedge clk\) begin\n(?:    .*\n)*  end\n", text, re.MULTILINE)
    for signal in list(SIGNAL.finditer(text)):
        name, own = signal["name"], signal["name"].rstrip().removeprefix(f"\\{module}.")
        written = re.compile(rf"^ *{re.escape(name)}\[.*\] <= ", re.MULTILINE)
        writers = [process for process in processes if written.search(process)]
        if own != name.rstrip() and writers:
            memories[name] = own
            for part in (signal[0], *writers):
                text = text.replace(part, "".join(part.replace(name, f"\\{lane}.{own} ") for lane in lanes))
    return text, memories


def text_of(component: wiring.Component) -> str:
    library = ModuleLibrary()
    top = verilog.convert(component, name="dut", platform=library, emit_src=False, strip_internal_attrs=True)
    return evaluate_at_time_zero(top + library.verilog())
