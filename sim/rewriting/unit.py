"""A module as data, with the modules in it put in place of their instances."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sim.rewriting.bits import Bits, bits_of, part_text, printed, qualified, select, substitute, verilog_of, width_of
from sim.rewriting.text import NAME, PROCESS, identifiers

__all__ = ["LANE", "Instance", "Unit", "UnknownForm", "flat_unit", "instances", "name_of_module"]

LANE = "\\$lane"  #: stands for the number of the lane behind the address of a memory
Parts = dict[str, list[tuple[int, int, str]]]  # high, low, and value of what is assigned, by signal
Step = tuple[str | None, str]  # statements, and the condition under which they run

NAME_OF_MODULE = re.compile(r"module (\\\S+|[\w$]+)")
HEADER = re.compile(r"module (?:\\\S+|[\w$]+) ?\([^;]*?\);\n")
IGNORED = re.compile(r"  \(\*.*\*\)\n|`.*\n|  reg time_zero = 1;\n|  initial time_zero <= 0;\n|endmodule\n?")
PORT = re.compile(rf"  (?P<kind>input|output) (?:\[\d+:0\] )?(?P<name>{NAME}) ?;\n")
SIGNAL = re.compile(rf"  (?:wire|reg) (?:\[(?P<high>\d+):0\] )?(?P<name>{NAME}) ?(?:= (?P<initial>\S+))?;\n")
ASSIGN = re.compile(rf"  assign (?P<name>{NAME}) ?(?:\[(?P<high>\d+)(?::(?P<low>\d+))?\])? ?= (?P<value>.*);\n")
CLOCKED = re.compile(r"  always @\(posedge clk\)(?: begin\n(?P<body>(?:    .*\n)*)  end\n|\n(?P<line>    \S.*;\n))")
INSTANCE = re.compile(rf"  (?P<module>{NAME}) ?(?P<name>{NAME}) ?\(\n(?P<ports>(?:    \..*\n)*)  \);\n")
CONNECTION = re.compile(rf"    \.(?P<port>{NAME}) ?\((?P<value>.*)\),?\n")
STEP = re.compile(r"    if \((?P<condition>.*)\) begin\n(?P<body>(?:      .*\n)*)    end\n(?!    else)|    \S.*;\n")
MEMORY = re.compile(
    r"module ram_\w+\(.*?  input \[1-1:0\] write_enable;.*?output reg \[(?P<width>\d+)-1:0\] read_data;\n"
    r"  reg \[\d+-1:0\] words \[0:(?P<depth>\d+)-1\];",
    re.DOTALL,
)


class UnknownForm(Exception):
    """A module is not of the forms that are known here."""


@dataclass(frozen=True)
class Instance:
    """Of a module: its name and what its ports are connected to."""

    text: str
    module: str
    name: str
    connections: dict[str, str]

    def connection(self, port: str) -> str:
        """What a port is connected to."""
        if not self.connections.get(port):
            raise UnknownForm(f"{port} of {self.name} is not connected")
        return self.connections[port]


@dataclass
class Unit:
    """A module without instances. Names are without the space behind escaped ones.

    Members
    -------
    outputs : expressions by port
    logic : combinational, the blocking statements that give a signal its value
    processes : what a clock edge does to a register or to the words of a memory
    depths : of the memories
    """

    inputs: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    initial: dict[str, str] = field(default_factory=dict)
    depths: dict[str, int] = field(default_factory=dict)
    logic: dict[str, str] = field(default_factory=dict)
    processes: dict[str, list[Step]] = field(default_factory=dict)

    def rewrite(self, change: Callable[[str], str]) -> None:
        """Change all expressions."""
        self.outputs = {port: change(text) for port, text in self.outputs.items()}
        self.logic = {name: change(text) for name, text in self.logic.items()}
        self.processes = {
            name: [(condition and change(condition), change(body)) for condition, body in steps]
            for name, steps in self.processes.items()
        }

    def text_of(self, name: str) -> str:
        """All that drives a signal."""
        if name in self.logic:
            return self.logic[name]
        return "".join(f"{condition} {body}" for condition, body in self.processes[name])


def name_of_module(text: str) -> str:
    """As in its instances."""
    return NAME_OF_MODULE.match(text)[1]


def instances(text: str) -> list[Instance]:
    """In a module."""
    return [
        Instance(
            match[0],
            match["module"].rstrip(),
            match["name"].rstrip(),
            {port["port"].rstrip(): port["value"] for port in CONNECTION.finditer(match["ports"])},
        )
        for match in re.finditer(rf"^{INSTANCE.pattern}", text, re.MULTILINE)
    ]


def flat_unit(module: str, modules: dict[str, str]) -> Unit:
    """The module, and in it all that is instantiated in it.

    Raises
    ------
    UnknownForm : it has anything but logic, registers, and memories with one port each to write and to read
    """
    unit, inner, parts = _parsed(modules[module])
    for instance in inner:
        if instance.module not in modules:
            raise UnknownForm(f"{module} has an instance of {instance.module}, which is not in the text")
        if match := MEMORY.match(modules[instance.module]):
            _add_memory(unit, instance, int(match["width"]), int(match["depth"]))
        else:
            _add(unit, instance, flat_unit(instance.module, modules))
    _split(unit, parts)
    _follow_copies(unit)
    _drop_unused(unit)
    return unit


def _parsed(text: str) -> tuple[Unit, list[Instance], Parts]:
    unit, inner, parts = Unit(), [], {}
    for match in _statements(text):
        groups = match.groupdict()
        name = (groups.get("name") or "").rstrip()
        if match.re is PORT:
            if match["kind"] == "input":
                unit.inputs.append(name)
            else:
                unit.outputs[name] = printed(name)
        elif match.re is SIGNAL:
            unit.widths[name] = int(match["high"] or 0) + 1
            if match["initial"]:
                unit.initial[name] = match["initial"]
        elif match.re is ASSIGN and match["high"]:
            parts.setdefault(name, []).append((int(match["high"]), int(match["low"] or match["high"]), match["value"]))
        elif match.re is ASSIGN:
            unit.logic[name] = f"    {printed(name)} = {match['value']};\n"
        elif match.re is PROCESS:
            unit.logic[name] = match["body"]
        elif match.re is CLOCKED:
            name, steps = _process(match["body"] or match["line"])
            if name in unit.processes:
                raise UnknownForm(f"{name} has two processes")
            unit.processes[name] = steps
        elif match.re is INSTANCE:
            inner += instances(match[0])
    return unit, inner, parts


def _statements(text: str) -> Iterator[re.Match[str]]:
    position = HEADER.match(text).end()
    while position < len(text):
        for form in (IGNORED, PORT, SIGNAL, ASSIGN, PROCESS, CLOCKED, INSTANCE):
            if match := form.match(text, position):
                break
        else:
            raise UnknownForm(text[position : position + 80])
        position = match.end()
        yield match


def _process(body: str) -> tuple[str, list[Step]]:
    """The register that a clocked process writes, and its steps."""
    steps, position = [], 0
    while position < len(body):
        match = STEP.match(body, position)
        if not match:
            raise UnknownForm(body[position : position + 80])
        steps.append((match["condition"], match["body"] if match["condition"] else match[0]))
        position = match.end()
    targets = {name.rstrip() for name in re.findall(rf"^ *({NAME}) ?(?:\[[^]]*\])? ?<= ", body, re.MULTILINE)}
    if len(targets) != 1 or re.search(rf"^ *{NAME} ?(?:\[[^]]*\])? ?= ", body, re.MULTILINE):
        raise UnknownForm(f"a process that writes {sorted(targets)}")
    return targets.pop(), steps


def _split(unit: Unit, parts: Parts) -> None:
    """Signals whose parts are assigned one by one become as many signals."""
    wholes = {}
    for name, pieces in parts.items():
        whole = []
        for high, low, value in sorted(pieces, reverse=True):
            piece = _piece(name, high, low)
            unit.widths[piece] = high - low + 1
            unit.logic[piece] = f"    {printed(piece)} = {value};\n"
            whole.append(Bits(piece, 0, high - low + 1))
        if name in unit.logic or sum(bits.width for bits in whole) != unit.widths[name]:
            raise UnknownForm(f"bits of {name} have no driver, or two")
        wholes[name] = whole
    _replace(unit, wholes)


def _piece(name: str, high: int, low: int) -> str:
    return "\\" + name.removeprefix("\\") + f"[{high}:{low}]"


def _replace(unit: Unit, wholes: dict[str, list[Bits]]) -> None:
    """Put the parts of signals in place of these signals, wherever they are read."""

    def replacement(name: str, high: int | None, low: int | None) -> str | None:
        if name not in wholes:
            return None
        parts = wholes[name] if high is None else select(wholes[name], high, low)
        return verilog_of(parts, unit.widths)

    unit.rewrite(lambda text: substitute(text, replacement))


def _add(unit: Unit, instance: Instance, inner: Unit) -> None:
    """Put a module in place of its instance; its names get that of the instance before them."""

    def name_of(name: str) -> str:
        return qualified(instance.name, name)

    def renamed(name: str, *part: int | None) -> str | None:
        return printed(name_of(name)) + part_text(*part) if name in inner.widths else None

    inner.rewrite(lambda text: substitute(text, renamed))
    for mine, theirs in (
        (unit.widths, inner.widths),
        (unit.initial, inner.initial),
        (unit.depths, inner.depths),
        (unit.logic, inner.logic),
        (unit.processes, inner.processes),
    ):
        mine.update({name_of(name): value for name, value in theirs.items()})
    for port in inner.inputs:
        if port != "clk":
            unit.logic[name_of(port)] = f"    {printed(name_of(port))} = {instance.connection(port)};\n"
    for port, value in inner.outputs.items():
        if instance.connections.get(port):
            _drive(unit, instance.connections[port], value)


def _drive(unit: Unit, target: str, value: str) -> None:
    bits = bits_of(target, unit.widths)
    if bits is None or len(bits) != 1 or bits[0].width != unit.widths[bits[0].name]:
        raise UnknownForm(f"an output is connected to {target}")
    unit.logic[bits[0].name] = f"    {printed(bits[0].name)} = {value};\n"


def _add_memory(unit: Unit, instance: Instance, width: int, depth: int) -> None:
    """A memory; what is read while it is written is inverted, as in `hw.memory.ram`."""
    read_data, words = qualified(instance.name, "read_data"), qualified(instance.name, "words")
    unit.widths |= {read_data: width, words: width}
    unit.depths[words] = depth
    port = instance.connections
    word = f"{printed(words)}[{port['read_address']}][{printed(LANE)}]"
    collides = f"{port['write_enable']} && {port['write_address']} == {port['read_address']}"
    unit.processes[read_data] = [
        (port["read_enable"], f"      {printed(read_data)} <= {collides} ? ~{word} : {word};\n")
    ]
    written = f"{printed(words)}[{port['write_address']}][{printed(LANE)}]"
    unit.processes[words] = [(port["write_enable"], f"      {written} <= {port['write_data']};\n")]
    _drive(unit, port["read_data"], printed(read_data))


def _follow_copies(unit: Unit) -> None:
    """Signals that only pick bits of others are not read any more."""
    copies: dict[str, list[Bits]] = {}
    for name, body in unit.logic.items():
        match = re.fullmatch(rf" *{re.escape(printed(name))} ?= (.*);\n", body)
        if match and width_of(match[1], unit.widths) == unit.widths[name]:
            copies[name] = bits_of(match[1], unit.widths)

    def followed(parts: list[Bits]) -> list[Bits]:
        result = []
        for part in parts:
            if part.name in copies:
                high = part.low + part.width - 1
                result += followed(select(copies[part.name], high, part.low))
            else:
                result.append(part)
        return result

    _replace(unit, {name: followed(parts) for name, parts in copies.items()})


def _drop_unused(unit: Unit) -> None:
    used: set[str] = set()
    waiting = [name for value in unit.outputs.values() for name in identifiers(value)]
    while waiting:
        name = waiting.pop()
        if name not in used and name in unit.widths:
            used.add(name)
            if name in unit.logic or name in unit.processes:
                waiting += identifiers(unit.text_of(name))
    unit.logic = {name: body for name, body in unit.logic.items() if name in used}
    unit.processes = {name: steps for name, steps in unit.processes.items() if name in used}
    unit.widths = {name: width for name, width in unit.widths.items() if name in used or name in unit.inputs}
