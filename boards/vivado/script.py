"""The Tcl that makes Vivado build a project: block design, bitstream, and the check of its timing."""

from collections.abc import Iterator

from boards.vivado.board import VivadoBoard
from boards.vivado.design import Cell, Design, Kind
from boards.vivado.overlay import BITSTREAM, HANDOFF

__all__ = ["REPORT", "build_script", "constraints"]

PLATFORM = "vitsmith.xsa"  #: for software of one's own, without PYNQ
REPORT = "report.json"  #: slacks in nanoseconds

PROJECT = """
set here [file dirname [file normalize [info script]]]
create_project -force vitsmith [file join $here project] -part {part}
{board}set_property ip_repo_paths [list [file join $here ip]] [current_project]
update_ip_catalog
create_bd_design system
"""

BOARD = """set board_part [lindex [lsort -dictionary [get_board_parts -quiet {{{pattern}}}]] end]
if {{$board_part eq ""}} {{
    error "Vivado lacks the files of this board, {pattern}; in its Tcl console, type: \\
xhub::refresh_catalog \\[xhub::get_xstores xilinx_board_store\\]; \\
xhub::install \\[xhub::get_xitems *{name}*\\]"
}}
set_property board_part $board_part [current_project]
"""

#: segments beside the memory, which a processor's port offers, too
EXCLUDE = """foreach segment [get_bd_addr_segs -quiet {{{others}}}] {{
    if {{![string match {{*/{segment}}} $segment]}} {{
        exclude_bd_addr_seg -quiet -target_address_space [get_bd_addr_spaces {space}] $segment
    }}
}}
"""

IMPLEMENT = """
validate_bd_design
save_bd_design
add_files -norecurse [make_wrapper -files [get_files system.bd] -top]
set_property top system_wrapper [current_fileset]
add_files -fileset constrs_1 -norecurse [file join $here constraints.xdc]
update_compile_order -fileset sources_1
launch_runs impl_1 -to_step write_bitstream -jobs 4
wait_on_run impl_1
if {{[get_property PROGRESS [get_runs impl_1]] ne "100%"}} {{
    error "the build failed: [get_property STATUS [get_runs impl_1]]"
}}
set setup [get_property STATS.WNS [get_runs impl_1]]
set hold [get_property STATS.WHS [get_runs impl_1]]
set report [open [file join $here {report}] w]
puts $report "{{\\"setup_slack_ns\\": $setup, \\"hold_slack_ns\\": $hold}}"
close $report
if {{$setup < 0 || $hold < 0}} {{
    error "timing is not met: $setup ns of setup slack, $hold ns of hold slack"
}}
set run [file join $here project vitsmith.runs impl_1]
file copy -force [file join $run system_wrapper.bit] [file join $here {bitstream}]
{export}"""

#: for PYNQ; Vivado's folder of generated files was another one before 2020.2
EXPORT = """set designs [file join $here project vitsmith.{{gen,srcs}} sources_1 bd system]
file copy -force [lindex [glob $designs/hw_handoff/system.hwh] 0] [file join $here {handoff}]
write_hw_platform -fixed -include_bit -force [file join $here {platform}]
"""


def build_script(board: VivadoBoard, design: Design) -> str:
    """`build.tcl`: leaves `BITSTREAM` beside it, or fails."""
    pattern = board.board_part
    export = EXPORT.format(handoff=HANDOFF, platform=PLATFORM) if board.baud is None else ""
    return "".join(
        (
            f"# {board.title}: builds {BITSTREAM}; type: vivado -mode batch -source build.tcl\n",
            PROJECT.format(
                part=board.device, board=BOARD.format(pattern=pattern, name=board.name) if pattern else ""
            ),
            *_design(design),
            IMPLEMENT.format(report=REPORT, bitstream=BITSTREAM, export=export),
        )
    )  # fmt: skip


def constraints(board: VivadoBoard) -> str:
    """`constraints.xdc`: pins, and what of them needs no timing."""
    lines = ["set_property BITSTREAM.GENERAL.COMPRESS TRUE [current_design]"]
    if board.pins:
        lines += ["set_property CFGBVS VCCO [current_design]", "set_property CONFIG_VOLTAGE 3.3 [current_design]"]
    for port, pin in board.pins.items():
        lines.append(f"set_property -dict {{PACKAGE_PIN {pin} IOSTANDARD LVCMOS33}} [get_ports {port}]")
    # all but the clock are asynchronous
    asynchronous = {"-from": ("reset_n", "rx"), "-to": ("tx", "interrupt")}
    for direction, ports in asynchronous.items():
        lines += [f"set_false_path {direction} [get_ports {port}]" for port in ports if port in board.pins]
    return "\n".join(lines) + "\n"


def _design(design: Design) -> Iterator[str]:
    """The commands that make the block design."""
    for cell in design.cells:
        yield from _cell(cell)
    yield from _outside(design)
    for driver, loads in design.nets.items():
        yield f"connect_bd_net {_pin(driver)} {' '.join(map(_pin, loads))}\n"
    for master, slave in design.links.items():
        yield f"connect_bd_intf_net {_bus(master)} {_bus(slave)}\n"
    for a in design.addresses:
        yield (
            f"assign_bd_address -offset {a.offset:#x} -range {a.size:#x}"
            f" -target_address_space [get_bd_addr_spaces {a.space}] [get_bd_addr_segs {a.segment}] -force\n"
        )
        port, _, segment = a.segment.rpartition("/")
        if segment.endswith("_DDR_LOW"):
            yield EXCLUDE.format(others=f"{port}/*", segment=segment, space=a.space)


def _cell(cell: Cell) -> Iterator[str]:
    yield f"create_bd_cell -type ip -vlnv {cell.vlnv} {cell.name}\n"
    if cell.preset:
        yield f'apply_bd_automation -rule {cell.preset} -config {{apply_board_preset "1"}} [get_bd_cells {cell.name}]\n'
    if cell.config:
        settings = "".join(f"    CONFIG.{key} {{{value}}} \\\n" for key, value in cell.config.items())
        yield f"set_property -dict [list \\\n{settings}] [get_bd_cells {cell.name}]\n"


def _outside(design: Design) -> Iterator[str]:
    kinds = {Kind.CLOCK: "clk", Kind.RESET: "rst", Kind.RESET_N: "rst", Kind.INTERRUPT: "intr", Kind.DATA: "data"}
    for name, pin in design.outside.pins.items():
        frequency = f" -freq_hz {design.frequencies[name]:.0f}" if name in design.frequencies else ""
        yield f"create_bd_port -dir {'I' if pin.output else 'O'} -type {kinds[pin.kind]}{frequency} {name}\n"
        if pin.kind in (Kind.RESET, Kind.RESET_N):
            polarity = "ACTIVE_HIGH" if pin.kind is Kind.RESET else "ACTIVE_LOW"
            yield f"set_property CONFIG.POLARITY {polarity} [get_bd_ports {name}]\n"
    for name, bus in design.outside.buses.items():
        mode = "Slave" if bus.master else "Master"  # as seen from outside
        yield f"create_bd_intf_port -mode {mode} -vlnv {bus.protocol} {name}\n"


def _pin(path: str) -> str:
    return f"[get_bd_pins {path}]" if "/" in path else f"[get_bd_ports {path}]"


def _bus(path: str) -> str:
    return f"[get_bd_intf_pins {path}]" if "/" in path else f"[get_bd_intf_ports {path}]"
