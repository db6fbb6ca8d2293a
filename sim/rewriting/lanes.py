"""Identical lanes as loops: each signal of a lane becomes an array, and what all lanes share stands there once."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from sim.rewriting.bits import bits_of, part_text, printed, qualified, select, substitute, verilog_of, width_of
from sim.rewriting.text import ASSIGN, MODULE, identifiers, widths
from sim.rewriting.unit import LANE, Instance, Unit, UnknownForm, flat_unit, instances, name_of_module

__all__ = ["loop_over_lanes"]

MIN_LANES = 4
VECTOR = 32  # lanes that a processor takes at once at most, of which loops take whole ones
WORD_BITS = 64  # of wider ports, lanes get the parts that they read
Part = tuple[int | None, int | None]  # high and low, or the whole of a signal


def loop_over_lanes(verilog: str) -> str:
    """The same design, with all instances of a module in another one as loops, if there are at least `MIN_LANES`.

    Verilator writes code for each instance anew. The code of hundreds of lanes does not fit into the caches of a
    processor; a loop does. Modules of forms that are not known stay as they are.
    """
    modules = {name_of_module(match[0]): match[0] for match in MODULE.finditer(verilog)}
    return MODULE.sub(lambda match: _in_module(match[0], modules), verilog)


def _in_module(text: str, modules: dict[str, str]) -> str:
    lanes = defaultdict(list)
    for instance in instances(text):
        lanes[instance.module].append(instance)
    for module, same in lanes.items():
        if len(same) < MIN_LANES or module not in modules:
            continue
        try:
            bank = _Bank(module, flat_unit(module, modules), same, text).verilog()
        except UnknownForm:
            continue
        for instance in same:
            text = text.replace(instance.text, "", 1)
        text = f"{text.removesuffix('endmodule')}{bank}endmodule"
    return text


@dataclass
class _Stage:
    """Steps of registers that happen under one condition, which all lanes share."""

    condition: str | None
    targets: list[str] = field(default_factory=list)
    body: str = ""


class _Bank:
    """All instances of a module in another one, which has the text `around`.

    Registers of lanes are written by blocking assignments, each behind all that reads it, so that they find its old
    value and nothing is copied. Those that the module around sees, and one of each circle of registers, are `late`:
    what comes next goes to an array of its own, and a nonblocking assignment copies the array.

    The number of the lane and what is computed from registers are variables of their loop, which are not stored: only
    so do C++ compilers make instructions of it that take many lanes at once. Loops go on to lanes that do not exist,
    which nobody sees, so that no lanes are left for code of their own.
    """

    def __init__(self, module: str, unit: Unit, lanes: list[Instance], around: str) -> None:
        self._module = "\\" + module.removeprefix("\\")
        self._unit = unit
        self._lanes = lanes
        self._widths = widths(around)  # of all signals, those of a lane with the name of the module before theirs
        self._gathered: dict[str, list[str]] = {}  # inputs in which lanes differ: the expression of each
        self._declarations: dict[str, None] = {}
        self._statements: list[str] = []
        self._loops = 0
        self._locals: list[str] = []  # declarations in the process that is being written
        self._qualify()
        self._connect(_Sources(around, self._widths))
        self._differing = self._find_differing()
        self._share_memories()
        seen = {name for value in unit.outputs.values() for name in identifiers(value)} & self._differing
        self._combinational = [name for name in unit.logic if name in seen]
        cones = {one for name in self._combinational for one in self._cone(name)}
        self._late = (seen | {read for one in cones for read in self._reads(one)}) & unit.processes.keys()

    def verilog(self) -> str:
        """Declarations and statements that take the place of the instances."""
        for name in [*self._unit.logic, *self._unit.processes]:
            if name not in self._differing:
                self._add_shared(name)
        self._add_registers()
        self._add_outputs()
        return "".join(self._declarations) + _indented("".join(self._statements))

    # names and connections

    def _qualify(self) -> None:
        """Put the name of the module before all names."""
        unit = self._unit
        names = {name: qualified(self._module, name) for name in unit.widths}

        def renamed(name: str, *part: int | None) -> str | None:
            return printed(names[name]) + part_text(*part) if name in names else None

        unit.rewrite(lambda text: substitute(text, renamed))
        self._ports = {names[name]: name for name in unit.inputs}
        for members in ("widths", "initial", "depths", "logic", "processes"):
            values = getattr(unit, members)
            setattr(unit, members, {names[name]: value for name, value in values.items() if name in names})
        self._widths |= unit.widths

    def _connect(self, sources: "_Sources") -> None:
        """Put what inputs are connected to in place of those that all lanes share, and gather the others."""
        replacements: dict[tuple[str, int | None, int | None], str] = {}
        for port, parts in self._parts_of_inputs().items():
            values = [sources.of(lane.connection(self._ports[port])) for lane in self._lanes]
            if len(set(values)) == 1:
                replacements |= {(port, *part): self._pick(port, values[0], part) for part in parts}
            elif self._widths[port] <= WORD_BITS or (None, None) in parts or not _are_disjoint(parts):
                self._gather(port, port, values, (None, None))
            else:
                for part in parts:
                    name = port + part_text(*part)
                    self._gather(name, port, values, part)
                    replacements[port, *part] = printed(name)
        self._unit.rewrite(lambda text: substitute(text, lambda *reference: replacements.get(reference)))

    def _gather(self, name: str, port: str, values: list[str], part: Part) -> None:
        high, low = part
        self._widths[name] = self._widths[port] if high is None else high - low + 1
        self._gathered[name] = [self._pick(f"{port}.{n}", value, part, port) for n, value in enumerate(values)]

    def _parts_of_inputs(self) -> dict[str, set[Part]]:
        """The parts of each input that are read."""
        found: dict[str, set[Part]] = {}

        def note(name: str, *part: int | None) -> None:
            if name in self._ports:
                found.setdefault(name, set()).add(part)

        self._unit.rewrite(lambda text: substitute(text, note))
        return found

    def _pick(self, name: str, value: str, part: Part, port: str | None = None) -> str:
        """A part of what a port is connected to. What does more than pick bits gets a wire of that name."""
        width = self._widths[port or name]
        if width_of(value, self._widths) != width:
            self._widths[name] = width
            self._declare("wire", name, after=f" = {value}")
            value = printed(name)
        bits, (high, low) = bits_of(value, self._widths), part
        return verilog_of(bits if high is None else select(bits, high, low), self._widths)

    # what is computed from what

    def _reads(self, name: str) -> set[str]:
        return {read for read in identifiers(self._unit.text_of(name)) if read in self._widths} - {name}

    def _find_differing(self) -> set[str]:
        """The signals that differ between lanes."""
        readers = defaultdict(list)
        for name in [*self._unit.logic, *self._unit.processes]:
            for read in self._reads(name):
                readers[read].append(name)
        differing, waiting = set(self._gathered), list(self._gathered)
        while waiting:
            following = [name for name in readers[waiting.pop()] if name not in differing]
            differing.update(following)
            waiting += following
        return differing

    def _share_memories(self) -> None:
        """A memory that is the same in all lanes has no words for each."""
        for name in self._unit.depths.keys() - self._differing:
            of_lane = re.compile(rf"({re.escape(printed(name))}\[.*?\])\[{re.escape(printed(LANE))}\]")
            self._unit.rewrite(lambda text, of_lane=of_lane: of_lane.sub(r"\1", text))

    def _cone(self, name: str) -> list[str]:
        """The logic of a lane that a register or a signal is computed from, in an order of evaluation."""
        order: dict[str, None] = {}
        path: set[str] = set()

        def visit(one: str) -> None:
            if one in path:
                raise UnknownForm(f"a loop through {one}")
            path.add(one)
            for read in sorted(self._reads(one)):
                if read in self._unit.logic and read in self._differing and read not in order:
                    visit(read)
            path.remove(one)
            if one in self._unit.logic:
                order[one] = None

        visit(name)
        return list(order)

    # statements

    def _add_shared(self, name: str) -> None:
        """A signal that is the same in all lanes."""
        unit = self._unit
        if name in unit.logic:
            self._declare("reg", name)
            self._statements.append(f"always @* begin\n{unit.logic[name]}end\n")
        else:
            words = f"[0:{unit.depths[name] - 1}]" if name in unit.depths else ""
            self._declare("reg", name, after=f" = {unit.initial[name]}" if name in unit.initial else words)
            steps = "".join(_conditional(condition, body) for condition, body in unit.processes[name])
            self._statements.append(f"always @(posedge clk) begin\n{steps}end\n")

    def _add_registers(self) -> None:
        registers = [name for name in self._unit.processes if name in self._differing]
        stages = [stage for stage in self._stages(registers) if stage.targets]
        for name in registers:
            initial = bits_of(self._unit.initial.get(name, "1'h0"), {})
            if initial is None or any(bits.value for bits in initial):
                raise UnknownForm(f"{name} does not begin at zero")
            words = f"[0:{self._unit.depths[name] - 1}]" if name in self._unit.depths else ""
            for one in [name, f"{name}.next"] if name in self._late else [name]:
                self._declare("reg", one, self._widths[name], words + self._dimension)
        if stages:
            self._add_process("@(posedge clk)", "lanes", "".join(map(self._stage_text, stages)))

    def _stages(self, registers: list[str]) -> Iterator[_Stage]:
        """All steps of registers, neighbours under the same condition together."""
        waits_for = {name: set() for name in registers}
        for name in registers:
            for read in {read for one in [name, *self._cone(name)] for read in self._reads(one)} & waits_for.keys():
                if read != name:
                    waits_for[read].add(name)
        stage = _Stage(None)
        while waits_for:
            ready = [name for name, others in waits_for.items() if not others or name in self._late]
            if not ready:
                ready = [next(name for name in waits_for if name not in self._unit.depths)]
                self._late.add(ready[0])
            following = next((name for name in ready if self._condition(name, 0) == stage.condition), ready[0])
            self._check_own_reads(following)
            for n, (condition, body) in enumerate(self._unit.processes[following]):
                shared = self._condition(following, n)
                if shared != stage.condition:
                    yield stage
                    stage = _Stage(shared)
                stage.targets.append(following)
                stage.body += body if shared else _conditional(condition, body)
            del waits_for[following]
            for others in waits_for.values():
                others.discard(following)
        yield stage

    def _condition(self, name: str, step: int) -> str | None:
        """The condition of a step, if all lanes share it."""
        condition, _ = self._unit.processes[name][step]
        return None if condition is None or self._differing.intersection(identifiers(condition)) else condition

    def _check_own_reads(self, name: str) -> None:
        """A register that is written twice must not be read between."""
        text = self._unit.text_of(name)
        written = len(re.findall(rf"^ *{re.escape(printed(name))} ?(?:\[.*\])? ?<= ", text, re.MULTILINE))
        read = identifiers(text).count(name) > written or any(name in self._reads(one) for one in self._cone(name))
        if read and written > 1 and name not in self._late:
            raise UnknownForm(f"{name} is read between its assignments")

    def _stage_text(self, stage: _Stage) -> str:
        targets = list(dict.fromkeys(stage.targets))
        before, body, after = "", stage.body, ""
        for target in targets:
            following = f"{target}.next" if target in self._late else target
            assignment = re.compile(rf"^( *){re.escape(printed(target))}( ?(?:\[.*\])? ?)<= ", re.MULTILINE)
            if target in self._late:
                preceding = body[: assignment.search(body).start()]
                if sum(map(_nesting, preceding.splitlines())):  # it may keep its value
                    before += f"{printed(following)} = {printed(target)};\n"
                after += f"{printed(target)} <= {printed(following)};\n"
            body = assignment.sub(lambda m, name=following: f"{m[1]}{printed(name)}{m[2]}= ", body)
        logic = list(dict.fromkeys(name for target in targets for name in self._cone(target)))
        return _conditional(stage.condition, self._loop(logic, before + body) + after)

    def _loop(self, logic: list[str], body: str) -> str:
        """Statements for each lane, behind the logic that they read, and the gathering of the inputs of both."""
        text = "".join(self._unit.logic[name] for name in logic) + body
        read = set(identifiers(text))
        suffix = f".{self._loops}"
        self._loops += 1
        lane = f"{self._module}.lane{suffix}"
        index = f"{printed(lane)}[{self._size.bit_length() - 2}:0]"
        count = min(-(-len(self._lanes) // VECTOR) * VECTOR, self._size)
        self._locals.append(_declaration("automatic reg", lane, 32))
        self._locals += [_declaration("automatic reg", name + suffix, self._widths[name]) for name in logic]
        gathering = ""
        for name in self._gathered:
            if name in read:
                self._declare("reg", name + suffix, self._widths[name], self._dimension)
                values = enumerate(self._gathered[name])
                gathering += "".join(f"{printed(name + suffix)}[{n}] = {value};\n" for n, value in values)

        def of_lane(name: str, *part: int | None) -> str | None:
            plain = name.removesuffix(".next").removesuffix(".out")
            if name == LANE:
                return index
            if plain not in self._differing or name in self._unit.depths:
                return None
            is_array = plain in self._unit.processes or name != plain or name in self._gathered
            local = name + suffix if name in self._unit.logic or name in self._gathered else name
            return printed(local) + f"[{index}]" * is_array + part_text(*part)

        lane = printed(lane)
        loop = f"for ({lane}= 0; {lane}< {count}; {lane}= {lane}+ 1) begin\n{substitute(text, of_lane)}end\n"
        return f"{gathering}/* verilator unroll_disable */\n{loop}"

    def _add_process(self, event: str, name: str, body: str) -> None:
        """A process with loops, whose variables are its own."""
        name = printed(f"{self._module}:{name}")
        self._statements.append(f"always {event} begin : {name}\n{''.join(self._locals)}{body}end\n")
        self._locals = []

    def _add_outputs(self) -> None:
        body = ""
        for name in self._combinational:
            self._declare("reg", f"{name}.out", self._widths[name], self._dimension)
            body += f"{printed(f'{name}.out')} = {printed(name)};\n"
        if body:
            logic = list(dict.fromkeys(one for name in self._combinational for one in self._cone(name)))
            self._add_process("@*", "outputs", self._loop(logic, body))
        for port, value in self._unit.outputs.items():
            for n, lane in enumerate(self._lanes):
                if target := lane.connections.get(port):
                    self._statements.append(f"assign {target} = {self._output(value, n)};\n")

    def _output(self, value: str, lane: int) -> str:
        bits = bits_of(value, self._widths)
        if bits is None:
            raise UnknownForm(f"an output is {value}")

        def reference(name: str) -> str:
            if name in self._gathered:
                return self._gathered[name][lane]
            if name not in self._differing:
                return printed(name)
            return f"{printed(f'{name}.out' if name in self._unit.logic else name)}[{lane}]"

        return verilog_of(bits, self._widths, reference)

    @property
    def _size(self) -> int:
        """Of arrays, a power of two: Verilator checks indices against other bounds."""
        return 1 << (len(self._lanes) - 1).bit_length()

    @property
    def _dimension(self) -> str:
        return f"[0:{self._size - 1}]"

    def _declare(self, kind: str, name: str, width: int | None = None, after: str = "") -> None:
        self._declarations["  " + _declaration(kind, name, width or self._widths[name], after)] = None


class _Sources:
    """What wires of a module are assigned from: wires of several lanes have one source."""

    def __init__(self, text: str, bits: dict[str, int]) -> None:
        self._widths = dict(bits)
        self._values = {match["name"].rstrip(): match["value"] for match in ASSIGN.finditer(text)}
        self._first: dict[tuple[str, int], str] = {}  # wire with a value and a width
        for name, value in self._values.items():
            if name in bits:
                self._first.setdefault((value, bits[name]), printed(name))

    def of(self, expression: str) -> str:
        """The expression, or what its wire is copied from, or the first wire that has the same value."""
        while (name := expression.strip()) in self._values and name in self._widths:
            value, width = self._values[name], self._widths[name]
            if width_of(value, self._widths) != width:
                return self._first[value, width]
            expression = value
        return expression


def _declaration(kind: str, name: str, width: int, after: str = "") -> str:
    bits = "" if width == 1 else f"[{width - 1}:0] "
    return f"{kind} {bits}{printed(name)}{after};\n"


def _are_disjoint(parts: set[Part]) -> bool:
    return all(first[0] < second[1] for first, second in pairwise(sorted(parts)))


def _conditional(condition: str | None, body: str) -> str:
    return body if condition is None else f"if ({condition}) begin\n{body}end\n"


def _nesting(line: str) -> int:
    """Blocks that the line opens, less those that it closes."""
    opens = re.match(r" *case[xz]?\b", line) or re.search(r"\bbegin(?: : \S+ )?$", line)
    return bool(opens) - bool(re.match(r" *end(?:case)?\b", line))


def _indented(statements: str) -> str:
    """Each block two columns further than what is around it."""
    lines, depth = [], 1
    for line in map(str.lstrip, statements.splitlines()):
        closes = line.startswith("end")
        lines.append(f"{'  ' * (depth - closes)}{line}\n")
        depth += _nesting(line)
    return "".join(lines)
