"""Modules that are emitted once: identical lanes become instances of one Verilog module.

Amaranth writes a copy of a module for each of its instances. For the hundreds of identical lanes of an array that is
slow to generate and to synthesize. A component that is placed with `place` is an ordinary submodule in Amaranth's
simulator; while Verilog is generated, with a `ModuleLibrary` as platform, it is an instance of a module of the library.
"""

from collections.abc import Callable

from amaranth.back import verilog
from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

__all__ = ["ModuleLibrary", "place"]


class ModuleLibrary:
    """The platform of Verilog generation: collects the shared modules of a design.

    Convert the top with the library as `platform`, then append `verilog()`. Shared modules have clock `clk` and reset
    `rst` of the domain they are placed in. A `ResetInserter` or `EnableInserter` around their parent has no effect on
    them: keep state that it must reach outside of shared modules.
    """

    def __init__(self) -> None:
        self._components: dict[str, wiring.Component] = {}
        self._texts: dict[str, str] = {}

    def instance(self, module: str, factory: Callable[[], wiring.Component]) -> tuple[Instance, wiring.PureInterface]:
        """A new instance of `module`, and its ports; `factory` makes the component if the module is new."""
        if module not in self._components:
            self._components[module] = factory()
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
    m: Module, platform: object, name: str, module: str, factory: Callable[[], wiring.Component]
) -> wiring.PureInterface | wiring.Component:
    """Add a component as submodule `name`, sharing the Verilog module `module` with its equals; return its ports.

    `factory` makes the component, which has to use the clock domain `sync`; `module` must name everything that the
    result depends on.
    """
    if isinstance(platform, ModuleLibrary):
        m.submodules[name], ports = platform.instance(module, factory)
        return ports
    m.submodules[name] = component = factory()
    return component
