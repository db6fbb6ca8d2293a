"""The SDRAM controller keeps the chip's rules for ever, whatever it is asked: Yosys proves it by induction."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.back import rtlil
from amaranth.hdl import Cat, Elaboratable, Module, Shape, Signal

from boards.memory.chips import SLOWEST_256_MBIT, SdramTiming
from boards.memory.interface import MemoryAccess
from boards.memory.sdram import SdramController
from hw.synthesis import RUN_YOSYS
from tests.boards.memory.sdram_rules import SdramRules

CHIP = SLOWEST_256_MBIT
FREQUENCY = 100e6  #: where one cycle less of anything is too few
READY = 3  #: the last state of the controller's sequence after power-up
LONGEST = 16  #: steps of an induction at most: waiting that began before them is over


class Claim(Elaboratable):
    """The controller and its rules.

    What the controller knows, `claimed`, is what the rules know, too: which banks and rows are open, and the access to
    be done. The proof connects `claimed` to the controller's registers.
    """

    def __init__(self, timing: SdramTiming, rules: SdramTiming) -> None:
        self.controller = SdramController(CHIP, timing, pin_registers=True)
        self.rules = SdramRules(CHIP, rules)
        banks = 1 << CHIP.bank_bits
        self.claimed = {
            "open_banks": Signal(banks, name="claimed_open_banks"),
            **{f"row_{bank}": Signal(CHIP.row_bits, name=f"claimed_row_{bank}") for bank in range(banks)},
            "valid": Signal(name="claimed_valid"),
            "payload": Signal(Shape.cast(MemoryAccess), name="claimed_payload"),
            "fsm_state": Signal(2, name="claimed_fsm_state"),
        }
        self.holds = Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.controller, m.submodules.rules = controller, rules = self.controller, self.rules
        for name in ("clk_en", "cs", "ras", "cas", "we", "ba", "a", "dqm", "dq_o", "dq_oe"):
            m.d.comb += getattr(rules.pins, name).eq(getattr(controller.pins, name))
        m.d.comb += [
            rules.taken.eq(controller.access.valid & controller.access.ready),
            rules.taken_payload.eq(controller.access.payload),
        ]
        claimed = self.claimed
        agrees = [
            rules.open == claimed["open_banks"],
            rules.pending == claimed["valid"],
            ~rules.pending | (rules.payload.as_value() == claimed["payload"]),
            (claimed["fsm_state"] == READY) | ~rules.open.any(),
            *(
                ~rules.open[bank] | (rules.rows.word_select(bank, CHIP.row_bits) == claimed[f"row_{bank}"])
                for bank in range(1 << CHIP.bank_bits)
            ),
        ]
        m.d.comb += self.holds.eq(rules.holds & Cat(agrees).all())
        return m


def prove(tmp_path: Path, timing: SdramTiming, rules: SdramTiming) -> subprocess.CompletedProcess:
    claim = Claim(timing, rules)
    access = claim.controller.access
    ports = [claim.holds, claim.controller.pins.dq_i, access.valid, access.payload.as_value(), *claim.claimed.values()]
    (tmp_path / "claim.il").write_text(rtlil.convert(claim, name="claim", ports=ports, emit_src=False))
    known = " ".join(f"-set claimed_{name} controller.{name}" for name in claim.claimed)
    script = [
        "read_rtlil claim.il",
        "hierarchy -top claim",
        "proc",
        "flatten",
        "opt_clean",
        f"sat -verify -tempinduct -maxsteps {LONGEST} -set rst 0 {known} -prove holds 1",
    ]
    command = [sys.executable, "-c", RUN_YOSYS, "-q", "-p", "; ".join(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=550, cwd=tmp_path)


@pytest.mark.parametrize("frequency", [25e6, 60e6, 130e6])
def test_the_rules_are_kept(frequency: float, tmp_path: Path) -> None:
    timing = CHIP.timing(frequency)
    proof = prove(tmp_path, timing, timing)
    assert proof.returncode == 0, proof.stdout + proof.stderr


@pytest.mark.parametrize(
    "field", ["wr", *(pytest.param(x, marks=pytest.mark.slow) for x in ("rcd", "rp", "ras", "rfc", "cas_latency"))]
)
def test_the_proof_fails_for_a_controller_that_waits_less(field: str, tmp_path: Path) -> None:
    rules = CHIP.timing(FREQUENCY)
    proof = prove(tmp_path, replace(rules, **{field: getattr(rules, field) - 1}), rules)
    assert "proof did fail" in proof.stdout + proof.stderr
