"""Modules that are the same."""

import re

from sim.rewriting.bits import printed
from sim.rewriting.text import MODULE
from sim.rewriting.unit import Instance, instances, name_of_module

__all__ = ["share_modules"]

#: Amaranth's names of ports that it makes itself. Behind a dot they are those of another module.
NUMBERED = re.compile(r"(?<!\.)\\port\$\S+ ")
Names = dict[str, str]


def share_modules(verilog: str) -> str:
    """Modules that differ in nothing but their name and the numbers of their ports become one.

    Amaranth numbers ports throughout the design, so that modules that are built alike are not the same text, and could
    not be lanes of a loop. Modules can be the same once those in them are, so it takes several rounds.
    """
    while True:
        first: dict[str, tuple[str, list[str]]] = {}
        same: dict[str, tuple[str, Names]] = {}  # the first module and its names for the ports, by module
        for match in MODULE.finditer(verilog):
            name, ports = name_of_module(match[0]), list(dict.fromkeys(NUMBERED.findall(match[0])))
            original, its_ports = first.setdefault(_without_names(match[0], ports), (name, ports))
            if original != name:
                same[name] = original, dict(zip(ports, its_ports, strict=True))
        if not same:
            return verilog
        verilog = MODULE.sub(lambda match, same=same: _with_shared(match[0], same), verilog)


def _without_names(text: str, ports: list[str]) -> str:
    numbers = {port: f"\\port$:{n} " for n, port in enumerate(ports)}
    text = text.replace(name_of_module(text), "", 1)
    return NUMBERED.sub(lambda match: numbers[match[0]], text)


def _with_shared(text: str, same: dict[str, tuple[str, Names]]) -> str:
    """The module with instances of other modules in place of those that are the same; nothing if it is one of them."""
    if name_of_module(text) in same:
        return ""
    for instance in instances(text):
        if instance.module in same:
            text = text.replace(instance.text, _instance_of(instance, *same[instance.module]), 1)
    return text


def _instance_of(instance: Instance, module: str, ports: Names) -> str:
    names = [ports.get(printed(port), printed(port)) for port in instance.connections]
    connections = [f"    .{name}({value})" for name, value in zip(names, instance.connections.values(), strict=True)]
    return f"  {printed(module)} {printed(instance.name)} (\n" + ",\n".join(connections) + "\n  );\n"
