"""The boards, as data.

Which accelerator fits is an estimate of `compiler.resources`; of the 7 series nothing was measured, and the figures of
UltraScale+ stand in for it, whose LUTs have six inputs, too. Clocks are guesses on the safe side: no board has been
placed and routed.
"""

from boards.vivado.board import VivadoBoard
from boards.vivado.cells import HP_BITS
from boards.vivado.overlay import REACHABLE
from boards.vivado.systems import serial_system, zynq_7000_system, zynq_ultrascale_system
from hw.config import CONFIGS, Multipliers

__all__ = ["BOARDS"]

#: `base` in the block RAM of a ZU7EV: shorter scratchpads, and MAC lanes of fewer LUTs
BASE_ZU7 = CONFIGS["base"].replace(name="base-zu7", pad_words=(1024,) * 4, multiplier=Multipliers.DSP48E2)

#: the widest array whose scratchpads and requantizers fit the block RAM of a K26
BASE_K26 = BASE_ZU7.replace(
    name="base-k26", pixels=4, dw_pixels=4, requant_channels=4, dw_requant_channels=4, norm_channels=2, bus_ports=2,
    stream_bits=256,
)  # fmt: skip

BOARDS = (
    VivadoBoard(
        name="arty-a7-100",
        title="Arty A7-100T",
        device="xc7a100tcsg324-1",
        board_part="digilentinc.com:arty-a7-100:part0:1.1",  # whose settings of the memory the design relies on
        chip="artix7-100",
        system=serial_system,
        accelerator=CONFIGS["nano"],
        frequency=50e6,
        memory_title="256 MiB DDR3",
        memory_bytes=1 << 28,
        port_bits=128,
        pins={"clock": "E3", "reset_n": "C2", "rx": "A9", "tx": "D10", "interrupt": "H5"},  # the last is lamp LD4
        baud=2e6,  # the FT2232H makes it exactly, and so does a 25th of the clock
        cable="arty_a7_100t",
    ),
    VivadoBoard(
        name="pynq-z2",
        title="PYNQ-Z2",
        device="xc7z020clg400-1",
        chip="zynq-7020",
        system=zynq_7000_system,
        processor={  # as far as the design depends on it; PYNQ's own boot files set up the rest
            "PCW_CRYSTAL_PERIPHERAL_FREQMHZ": "50",
            "PCW_UIPARAM_DDR_PARTNO": "MT41J256M16 RE-125",
            "PCW_UIPARAM_DDR_BUS_WIDTH": "16 Bit",
        },
        accelerator=CONFIGS["nano"],
        frequency=50e6,
        memory_title="512 MiB DDR3",
        memory_bytes=1 << 29,
        port_bits=64,
    ),
    VivadoBoard(
        name="kv260",
        title="Kria KV260",
        device="xck26-sfvc784-2LV-c",
        board_part="xilinx.com:kv260_som:part0:*",
        chip="zu5",
        system=zynq_ultrascale_system,
        accelerator=BASE_K26,
        frequency=150e6,
        memory_title="4 GiB DDR4",
        memory_bytes=REACHABLE,
        port_bits=HP_BITS,
    ),
    VivadoBoard(
        name="zcu104",
        title="ZCU104",
        device="xczu7ev-ffvc1156-2-e",
        board_part="xilinx.com:zcu104:part0:*",
        chip="zu7",
        system=zynq_ultrascale_system,
        accelerator=BASE_ZU7,
        frequency=150e6,
        memory_title="2 GiB DDR4",
        memory_bytes=REACHABLE,
        port_bits=HP_BITS,
    ),
    VivadoBoard(
        name="zcu102",
        title="ZCU102",
        device="xczu9eg-ffvb1156-2-e",
        board_part="xilinx.com:zcu102:part0:*",
        chip="zu9",
        system=zynq_ultrascale_system,
        accelerator=CONFIGS["max"],
        frequency=150e6,
        memory_title="4 GiB DDR4",
        memory_bytes=REACHABLE,
        port_bits=HP_BITS,
    ),
)
