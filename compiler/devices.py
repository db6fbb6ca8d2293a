"""FPGAs by name: what they have of each kind of resource, and which data sheet says so.

The figures are the commonly known ones; they have not been compared with the data sheets line by line.
"""

from dataclasses import dataclass

__all__ = ["DEVICES", "Device"]


@dataclass(frozen=True, kw_only=True)
class Device:
    """One FPGA; kinds of resources as in `compiler.resources`."""

    name: str
    title: str
    target: str  #: family in `compiler.resources`
    lut: int
    flip_flop: int
    block_ram: int  #: blocks of 36 kbit (AMD) or 18 kbit
    dsp: int
    source: str

    def shares(self, used: dict[str, float]) -> dict[str, float]:
        """Part of the device that some resources take, by kind."""
        return {kind: used[kind] / getattr(self, kind) for kind in ("lut", "flip_flop", "block_ram", "dsp")}


_ECP5 = "Lattice FPGA-DS-02012, ECP5 family data sheet, table 1.1; LUTs as nextpnr counts them"

#: by the name that the command line takes
DEVICES = {
    device.name: device
    for device in (
        Device(
            name="ecp5-25", title="ECP5-25F", target="ecp5",
            lut=24_288, flip_flop=24_288, block_ram=56, dsp=28, source=_ECP5,
        ),
        Device(
            name="ecp5-45", title="ECP5-45F", target="ecp5",
            lut=43_848, flip_flop=43_848, block_ram=108, dsp=72, source=_ECP5,
        ),
        Device(
            name="ecp5-85", title="ECP5-85F", target="ecp5",
            lut=83_640, flip_flop=83_640, block_ram=208, dsp=156, source=_ECP5,
        ),
        Device(
            name="artix7-100", title="Artix-7 XC7A100T", target="xc7",
            lut=63_400, flip_flop=126_800, block_ram=135, dsp=240, source="AMD DS180, 7 series overview, table 4",
        ),
        Device(
            name="zynq-7020", title="Zynq XC7Z020", target="xc7",
            lut=53_200, flip_flop=106_400, block_ram=140, dsp=220, source="AMD DS190, Zynq-7000 overview, table 1",
        ),
        Device(
            name="zu3", title="Zynq UltraScale+ ZU3EG", target="xcup",
            lut=70_560, flip_flop=141_120, block_ram=216, dsp=360, source="AMD DS891, table 3",
        ),
        Device(
            name="zu5", title="Zynq UltraScale+ ZU5EV (K26)", target="xcup",
            lut=117_120, flip_flop=234_240, block_ram=144, dsp=1_248,
            source="AMD DS987, K26 data sheet; its 64 UltraRAM blocks are not used",
        ),
        Device(
            name="zu7", title="Zynq UltraScale+ ZU7EV (ZCU104)", target="xcup",
            lut=230_400, flip_flop=460_800, block_ram=312, dsp=1_728,
            source="AMD DS891, EV devices; its 96 UltraRAM blocks are not used",
        ),
        Device(
            name="zu9", title="Zynq UltraScale+ ZU9EG (ZCU102)", target="xcup",
            lut=274_080, flip_flop=548_160, block_ram=912, dsp=2_520, source="AMD DS891, table 3",
        ),
        Device(
            name="gw5a-25", title="Gowin GW5A-25", target="gowin",
            lut=23_040, flip_flop=23_040, block_ram=56, dsp=28,
            source="Gowin DS1103, GW5A series data sheet; Yosys maps multipliers of the GW1N and GW2A series only",
        ),
    )
}  # fmt: skip
