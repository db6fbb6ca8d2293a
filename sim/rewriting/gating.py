"""Logic that Verilator evaluates only when a register takes its result."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from sim.rewriting.text import ASSIGN, NAME, PROCESS, identifiers, port_names, widths

__all__ = ["compute_where_enabled"]

CLOCKED = re.compile(
    r"^  always @\(posedge clk\) begin\n    if \((?P<enable>.*)\) begin\n(?P<body>(?:      .*\n)*)    end\n"
    r"(?P<rest>(?:    .*\n)*)  end\n",
    re.MULTILINE,
)


@dataclass
class Stage:
    """The registers that load with one enable, and the logic that nothing but these registers wants."""

    processes: list[re.Match[str]] = field(default_factory=list)
    logic: list[str] = field(default_factory=list)  # names, in an order of evaluation


@dataclass(frozen=True)
class Logic:
    """What drives a signal."""

    statement: str  # as it stands
    body: str  # within a process
    reads: frozenset[str]


def compute_where_enabled(text: str) -> str:
    """The same module, with shared logic of registers inside of the `if (enable)` of these registers.

    Verilator itself moves an expression that is used once to its use, but evaluates those that are used twice, and
    combinational processes, in every cycle. These, and what is computed from them, go into one process with the
    registers; what they are computed from may stay. Logic moves if all who read it are registers with the same enable,
    or logic that moves with it.
    """
    stages: dict[str, Stage] = defaultdict(Stage)
    for match in CLOCKED.finditer(text):
        stages[match["enable"]].processes.append(match)
    logic = _logic(text)
    homes = _homes(text, stages, logic)
    for name in _in_order(homes, logic):
        stages[homes[name]].logic.append(name)
    merged = {enable: stage for enable, stage in stages.items() if stage.logic}
    for stage in merged.values():
        for statement in [*(match[0] for match in stage.processes), *(logic[name].statement for name in stage.logic)]:
            text = text.replace(statement, "", 1)
    moved = {name for stage in merged.values() for name in stage.logic}
    text = re.sub(
        rf"^  wire ((?:\[\d+:0\] )?({NAME}) ?;)",
        lambda match: f"  reg {match[1]}" if match[2].rstrip() in moved else match[0],
        text,
        flags=re.MULTILINE,
    )
    processes = "".join(_process(enable, stage, logic) for enable, stage in merged.items())
    head, tail = text.rsplit("endmodule", 1)
    return f"{head}{processes}endmodule{tail}"


def _logic(text: str) -> dict[str, Logic]:
    """Everything that drives a whole signal which is not a port, by name."""
    internal = widths(text).keys() - port_names(text)
    logic = {}
    for match in ASSIGN.finditer(text):
        name, value = match["name"].rstrip(), match["value"]
        if name in internal:
            logic[name] = Logic(match[0], f"      {match['name']} = {value};\n", frozenset(identifiers(value)))
    for match in PROCESS.finditer(text):
        name, body = match["name"].rstrip(), match["body"]
        assigned = len(re.findall(rf"^ *{re.escape(match['name'])} ?= ", body, re.MULTILINE))
        # assigned as a whole, and not read
        if name in internal and identifiers(body).count(name) == assigned:
            indented = re.sub("^", "  ", body.rstrip("\n"), flags=re.MULTILINE) + "\n"
            logic[name] = Logic(match[0], indented, frozenset(identifiers(body)) - {name})
    return logic


def _homes(text: str, stages: dict[str, Stage], logic: dict[str, Logic]) -> dict[str, str]:
    """The enable of the stage that each signal moves to; those that stay are absent."""
    everywhere = Counter(identifiers(text))
    in_stages: dict[str, Counter[str]] = defaultdict(Counter)  # occurrences by signal and enable
    for enable, stage in stages.items():
        for match in stage.processes:
            for name in identifiers(match["body"]):
                in_stages[name][enable] += 1
    readers: dict[str, Counter[str]] = defaultdict(Counter)  # occurrences by signal and what it drives
    own: dict[str, int] = {}
    for target, driver in logic.items():
        occurrences = Counter(identifiers(driver.statement))
        own[target] = 1 + occurrences.pop(target)  # and the declaration
        for name, count in occurrences.items():
            readers[name][target] += count

    candidates: dict[str, str] = {}
    waiting = list(logic)
    while waiting:
        name = waiting.pop()
        if name in candidates or not all(reader in candidates for reader in readers[name]):
            continue
        seen = own[name] + in_stages[name].total() + readers[name].total()
        enables = {*in_stages[name], *(candidates[reader] for reader in readers[name])}
        if seen == everywhere[name] and len(enables) == 1:
            candidates[name] = enables.pop()
            waiting += [source for source in logic[name].reads if source in logic]

    homes: dict[str, str] = {}
    waiting = [
        name
        for name in candidates
        if in_stages[name].total() + readers[name].total() > 1 or PROCESS.match(logic[name].statement)
    ]
    while waiting:
        name = waiting.pop()
        if name not in homes:
            homes[name] = candidates[name]
            waiting += readers[name]
    return homes


def _in_order(homes: dict[str, str], logic: dict[str, Logic]) -> list[str]:
    """The signals that move, each behind those that it reads."""
    order: dict[str, None] = {}
    for first in sorted(homes):
        pending = [first]
        while pending:
            name = pending[-1]
            before = [source for source in sorted(logic[name].reads) if source in homes and source not in order]
            if before:
                pending += before
            else:
                order[pending.pop()] = None
    return list(order)


def _process(enable: str, stage: Stage, logic: dict[str, Logic]) -> str:
    computed = "".join(logic[name].body for name in stage.logic)
    loaded = "".join(match["body"] for match in stage.processes)
    rest = "".join(match["rest"] for match in stage.processes)
    return f"  always @(posedge clk) begin\n    if ({enable}) begin\n{computed}{loaded}    end\n{rest}  end\n"
