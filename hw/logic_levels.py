"""The longest combinational path of a mapped netlist, counted in levels of logic.

A LUT is one level, and so are a carry chain, a multiplier, and the read of a LUT RAM. Multiplexers and inverters beside
LUTs are none. Wires have no delay, so this is a figure for comparing designs, not a clock period.

Modules are analysed one by one, from the leaves up. All that a parent needs to know about a module is its `Timing`.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

__all__ = ["Path", "Timing", "analyse"]

REGISTERS = re.compile(r"TRELLIS_FF|DP16KD|FD[RSCP]E|RAMB\d+E\d|DFF\w*|(SD?P|DP)X?9?B?")
LUT_RAM = re.compile(r"TRELLIS_DPR16X4|RAM\d+\w+|SRL\w+")
READ_ADDRESS = re.compile(r"RAD|ADDR[A-H]|DPRA\d|A\d?")
CARRY = re.compile(r"CCU2C|CARRY[48]|ALU")
CARRY_IN = re.compile(r"CIN?|CYINIT")
FREE = re.compile(r"MUXF\d|MUX2_LUT\d|PFUMX|L6MUX21|INV")

Bit = tuple[str, int]  #: port, and bit of it
START: Bit = ("", 0)  #: source of paths that begin at a register of the module, not at a port


@dataclass(frozen=True, order=True)
class Path:
    """A combinational path: its levels, and the names of the registers or ports at its ends."""

    levels: int
    start: str
    end: str = ""

    def through(self, levels: int) -> "Path":
        """The path, extended by some levels."""
        return Path(self.levels + levels, self.start)


@dataclass
class Timing:
    """Longest paths of a module, those within its children included.

    outputs : for each output bit that is not a constant, the longest path from every source (`START` or an input bit)
    inputs : for each input bit, the longest path from there to a register
    worst : the longest path from register to register
    """

    outputs: dict[Bit, dict[Bit, Path]] = field(default_factory=dict)
    inputs: dict[Bit, Path] = field(default_factory=dict)
    worst: Path = Path(0, "")


def analyse(module: dict, children: dict[str, Timing]) -> Timing:
    """Longest paths of a module of a Yosys JSON netlist. Raises `ValueError` for a combinational loop."""
    return _Analysis(module, children).timing


class _Analysis:
    """Walks the nets of one module in topological order; `arrivals` has the longest path to a net from each source."""

    def __init__(self, module: dict, children: dict[str, Timing]) -> None:
        self.timing = Timing()
        self._children = children
        self._arrivals: dict[int, dict[Bit, Path]] = defaultdict(dict)
        self._arcs: dict[int, list[tuple[int, int]]] = defaultdict(list)  # net: (source net, levels)
        self._ends: list[tuple[int, Path]] = []  # net, and the path from there to a register
        for port, content in module["ports"].items():
            if content["direction"] == "input":
                for i, net in enumerate(content["bits"]):
                    self._arrivals[net][port, i] = Path(0, f"{port}[{i}]")
        for name, cell in module["cells"].items():
            if cell["type"] in children:
                self._add_child(name, cell, children[cell["type"]])
            else:
                self._add_cell(name, cell)
        self._propagate()
        for net, tail in self._ends:
            self._finish(net, tail)
        for port, content in module["ports"].items():
            if content["direction"] == "output":
                bits = enumerate(content["bits"])
                self.timing.outputs |= {(port, i): self._arrivals[net] for i, net in bits if self._arrivals.get(net)}

    def _add_cell(self, name: str, cell: dict) -> None:
        """A primitive: registers begin and end paths, all others lead from every input to every output; bits of a carry
        chain to no lower bits."""
        kind = cell["type"]
        chain = CARRY.fullmatch(kind)
        registered = REGISTERS.fullmatch(kind) or any(_is_set(cell, register) for register in ("MREG", "PREG"))
        levels = 0 if FREE.fullmatch(kind) else 1
        inputs: list[tuple[int, int, int]] = []  # bit of the chain, net, levels
        outputs: list[tuple[int, int]] = []
        begins = False  # paths, with logic behind the register
        for port, bits in cell["connections"].items():
            nets = [(i if chain else 0, net) for i, net in enumerate(bits) if isinstance(net, int)]  # not constants
            if cell["port_directions"][port] == "output":
                outputs += nets
            elif _is_set(cell, f"{port}REG") and not registered:  # an operand's own register in a DSP block
                self._ends += [(net, Path(0, "", name)) for _, net in nets]
                begins = True
            elif registered or (LUT_RAM.fullmatch(kind) and not READ_ADDRESS.fullmatch(port)):
                self._ends += [(net, Path(0, "", name)) for _, net in nets]
            else:
                chained = chain and CARRY_IN.fullmatch(port)
                inputs += [(bit, net, 0 if chained else levels) for bit, net in nets]
        for bit, net in outputs:
            if registered:
                self._arrivals[net][START] = Path(0, name)
            else:
                if begins:
                    self._arrivals[net][START] = Path(levels, name)
                self._arcs[net] += [(source, cost) for lowest, source, cost in inputs if lowest <= bit]

    def _add_child(self, name: str, cell: dict, timing: Timing) -> None:
        """A module that has been analysed: its paths, with its name before those of its registers."""
        nets = cell["connections"]
        worst = timing.worst
        self.timing.worst = max(self.timing.worst, Path(worst.levels, f"{name}.{worst.start}", f"{name}.{worst.end}"))
        for (port, i), sources in timing.outputs.items():
            net = nets[port][i]
            for source, path in sources.items():
                if source == START:
                    self._arrivals[net][START] = Path(path.levels, f"{name}.{path.start}")
                elif isinstance(origin := nets[source[0]][source[1]], int):
                    self._arcs[net].append((origin, path.levels))
        for (port, i), path in timing.inputs.items():
            if isinstance(net := nets[port][i], int):
                self._ends.append((net, Path(path.levels, "", f"{name}.{path.end}")))

    def _propagate(self) -> None:
        graph = {net: [source for source, _ in arcs] for net, arcs in self._arcs.items()}
        try:
            order = list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            raise ValueError(f"a combinational loop over {len(error.args[1])} nets") from error
        for net in order:
            arrivals = self._arrivals[net]
            for source, levels in self._arcs.get(net, ()):
                for origin, path in self._arrivals[source].items():
                    if origin not in arrivals or path.levels + levels > arrivals[origin].levels:
                        arrivals[origin] = path.through(levels)

    def _finish(self, net: int, tail: Path) -> None:
        """Record the paths that end at a register."""
        for origin, path in self._arrivals.get(net, {}).items():
            whole = Path(path.levels + tail.levels, path.start, tail.end)
            if origin == START:
                self.timing.worst = max(self.timing.worst, whole)
            elif origin not in self.timing.inputs or whole.levels > self.timing.inputs[origin].levels:
                self.timing.inputs[origin] = whole


def _is_set(cell: dict, parameter: str) -> bool:
    """Whether a parameter of a cell, in binary, is not 0."""
    return "1" in str(cell["parameters"].get(parameter, "0"))
