"""Modules that are emitted once: identical lanes become instances of one Verilog module.

Amaranth writes a copy of a module for each of its instances. For the hundreds of identical lanes of an array that is
slow to generate and to synthesize. A component that is placed with `place` is an ordinary submodule in Amaranth's
simulator; while Verilog is generated, with a `ModuleLibrary` as platform, it is an instance of a module of the library.
"""

import re
from typing import TypeVar

from amaranth.back import verilog
from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

__all__ = ["ModuleLibrary", "place"]

Component = TypeVar("Component", bound=wiring.Component)


class ModuleLibrary:
    """The platform of Verilog generation: collects the shared modules of a design.

    Convert the top with the library as `platform`, then append `verilog()`. Shared modules have clock `clk` and reset
    `rst` of the domain they are placed in. A `ResetInserter` or `EnableInserter` around their parent has no effect on
    them: keep state that it must reach outside of shared modules.
    """

    def __init__(self) -> None:
        self._names: dict[tuple, str] = {}  # by class and arguments
        self._components: dict[str, wiring.Component] = {}
        self._texts: dict[str, str] = {}

    def instance(
        self, kind: type[wiring.Component], args: tuple, kwargs: dict[str, object]
    ) -> tuple[Instance, wiring.PureInterface]:
        """A new instance of the module of `kind(*args, **kwargs)`, and its ports.

        Modules are named after the class; further ones of the same class, of other arguments, are numbered.
        """
        key = (kind, args, tuple(sorted(kwargs.items())))
        if key not in self._names:
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()
            others = sum(other[0] is kind for other in self._names)
            self._names[key] = f"{name}_{others}" if others else name
            self._components[self._names[key]] = kind(*args, **kwargs)
        module = self._names[key]
        signature = self._components[module].signature
        ports = signature.create()
        connections = {
            f"{'i' if member.flow == In else 'o'}_{'__'.join(map(str, path))}": Value.cast(value)
            for path, member, value in signature.flatten(ports)
        }
        return Instance(module, i_clk=ClockSignal(), i_rst=ResetSignal(), **connections), ports

    def include(self, module: str, text: str) -> None:
        """Add a module that is written in Verilog, and instantiated by its user."""
        self._texts[module] = text

    def verilog(self) -> str:
        """The Verilog text of all collected modules: written ones, then placed ones in the order of their first use."""
        texts: dict[str, str] = {}
        while pending := [module for module in self._components if module not in texts]:
            for module in pending:  # converting a module may collect more
                texts[module] = verilog.convert(
                    self._components[module], name=module, platform=self, emit_src=False, strip_internal_attrs=True
                )
        return "".join([*self._texts.values(), *texts.values()])


def place(
    m: Module, platform: object, name: str, kind: type[Component], *args: object, **kwargs: object
) -> wiring.PureInterface | Component:
    """Add `kind(*args, **kwargs)` as submodule `name`, sharing one Verilog module with its equals; return its ports.

    The component has to use the clock domain `sync`; its arguments must be hashable.
    """
    if isinstance(platform, ModuleLibrary):
        m.submodules[name], ports = platform.instance(kind, args, kwargs)
        return ports
    m.submodules[name] = component = kind(*args, **kwargs)
    return component
