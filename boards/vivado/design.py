"""Block designs as data: cells, what connects them, addresses; and the check that nothing is left open.

Paths are `cell/pin`, or `pin` for what is outside of the design. Directions are those of the cell: what comes from
outside is an output of the outside.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from boards.board import BoardError

__all__ = ["ANY_AXI", "Address", "Bus", "Cell", "Design", "Kind", "Pin", "check_design"]

ANY_AXI = "AXI"  #: protocol of a bus that takes AXI3, AXI4, and AXI4-Lite


class Kind(StrEnum):
    """What a pin carries."""

    CLOCK = "clock"
    RESET = "active-high reset"
    RESET_N = "active-low reset"
    INTERRUPT = "interrupt"
    DATA = "data"


@dataclass(frozen=True)
class Pin:
    """A pin of a cell."""

    kind: Kind
    output: bool = False
    optional: bool = False  #: may stay open


@dataclass(frozen=True, kw_only=True)
class Bus:
    """An interface of a cell."""

    protocol: str  #: AXI4, AXI4LITE, AXI3, `ANY_AXI`, or the interface's VLNV
    master: bool
    clocks: tuple[str, ...] = ()  #: pins of the cell; the bus belongs to one of these clocks
    space: str | None = None  #: name within the cell of the address space of a master
    segment: str | None = None  #: that of the segment of a slave


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An instance of an IP."""

    name: str
    vlnv: str = ""
    config: dict[str, str] = field(default_factory=dict)  #: its properties, without `CONFIG.`
    pins: dict[str, Pin]
    buses: dict[str, Bus] = field(default_factory=dict)
    crossbar: bool = False  #: its masters pass on what its slaves get
    preset: str = ""  #: name of the rule that applies the board's preset

    def path(self, name: str) -> str:
        """Of a pin, bus, space, or segment."""
        return f"{self.name}/{name}" if self.name else name


@dataclass(frozen=True)
class Address:
    """Where an address space has a segment; bytes."""

    space: str
    segment: str
    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Design:
    """A block design."""

    cells: tuple[Cell, ...]
    outside: Cell  #: pins and buses of the FPGA
    nets: dict[str, tuple[str, ...]]  #: pins by the pin that drives them
    links: dict[str, str]  #: slave bus by master bus
    addresses: tuple[Address, ...]
    frequencies: dict[str, float] = field(default_factory=dict)  #: of clocks from outside, in Hz

    def pins(self) -> dict[str, Pin]:
        """All pins by path."""
        return {cell.path(name): pin for cell in (*self.cells, self.outside) for name, pin in cell.pins.items()}

    def buses(self) -> dict[str, tuple[Cell, Bus]]:
        """All buses by path, with their cells."""
        return {
            cell.path(name): (cell, bus) for cell in (*self.cells, self.outside) for name, bus in cell.buses.items()
        }

    def drivers(self) -> dict[str, str]:
        """The driving pin by driven pin."""
        return {load: driver for driver, loads in self.nets.items() for load in loads}


def check_design(design: Design) -> None:
    """Raise `BoardError` that names every pin, bus, and address at fault."""
    faults = [*_doubles(design), *_net_faults(design), *_link_faults(design)]
    faults += _address_faults(design) if not faults else []  # which segments a space reaches depends on the links
    if faults:
        raise BoardError("the block design is wrong:\n" + "\n".join(f"- {fault}" for fault in faults))


def _doubles(design: Design) -> Iterator[str]:
    names = Counter(cell.name for cell in design.cells)
    yield from (f"{count} cells are called {name}" for name, count in names.items() if count > 1)
    loads = Counter(load for loads in design.nets.values() for load in loads)
    yield from (f"{pin} is driven {count} times" for pin, count in loads.items() if count > 1)
    slaves = Counter(design.links.values())
    yield from (f"{bus} has {count} masters" for bus, count in slaves.items() if count > 1)


def _net_faults(design: Design) -> Iterator[str]:
    pins, drivers = design.pins(), design.drivers()
    for driver, loads in design.nets.items():
        yield from (f"there is no pin {path}" for path in (driver, *loads) if path not in pins)
        if driver in pins and not pins[driver].output:
            yield f"{driver} is an input, and drives a net"
        for load in loads:
            if load in pins and pins[load].output:
                yield f"{load} is an output, and is driven by {driver}"
            if load in pins and driver in pins and pins[load].kind != pins[driver].kind:
                yield f"{load} takes {pins[load].kind}, but {driver} gives {pins[driver].kind}"
    for path, pin in pins.items():
        if not pin.optional and path not in (design.nets if pin.output else drivers):
            yield f"{path} ({pin.kind}) is not connected"


def _link_faults(design: Design) -> Iterator[str]:
    buses, drivers = design.buses(), design.drivers()
    connected = {*design.links, *design.links.values()}
    yield from (f"there is no bus {path}" for path in connected if path not in buses)
    yield from (f"{path} is not connected" for path in buses if path not in connected)
    for first, second in design.links.items():
        if first not in buses or second not in buses:
            continue
        (_, master), (_, slave) = ends = buses[first], buses[second]
        if not master.master or slave.master:
            yield f"{first} and {second} are not a master and a slave"
        if not _compatible(master.protocol, slave.protocol):
            yield f"{first} speaks {master.protocol}, but {second} {slave.protocol}"
        clocks = [{drivers.get(path, path) for path in map(cell.path, bus.clocks)} for cell, bus in ends]
        if all(clocks) and not clocks[0] & clocks[1]:
            yield f"{first} and {second} have different clocks"


def _compatible(first: str, second: str) -> bool:
    return first == second or (ANY_AXI in (first, second) and first.startswith(ANY_AXI) and second.startswith(ANY_AXI))


def _address_faults(design: Design) -> Iterator[str]:
    given = {(a.space, a.segment) for a in design.addresses}
    reached = set(_reached(design))
    yield from (f"{segment} has no address in {space}" for space, segment in sorted(reached - given))
    yield from (f"{space} does not reach {segment}" for space, segment in sorted(given - reached))
    for index, a in enumerate(design.addresses):
        if a.size & (a.size - 1) or a.offset % a.size:
            yield f"{a.segment} in {a.space}: {a.offset:#x} is not a multiple of its size, {a.size:#x}, a power of two"
        for b in design.addresses[:index]:
            if a.space == b.space and a.offset < b.offset + b.size and b.offset < a.offset + a.size:
                yield f"{b.segment} and {a.segment} overlap in {a.space}"


def _reached(design: Design) -> Iterator[tuple[str, str]]:
    """Spaces, and segments behind the masters that they belong to."""
    buses = design.buses()

    def segments(master: str) -> Iterator[str]:
        cell, slave = buses[design.links[master]]
        if slave.segment:
            yield cell.path(slave.segment)
        if cell.crossbar:
            for name, bus in cell.buses.items():
                if bus.master:
                    yield from segments(cell.path(name))

    for path, (cell, bus) in buses.items():
        if bus.space:
            yield from ((cell.path(bus.space), segment) for segment in segments(path))
