"""A Tcl interpreter in which Vivado's commands are recorded, and refuse cells and ports that do not exist."""

import shutil
import subprocess
from pathlib import Path

__all__ = ["TclError", "balanced", "run_script"]

#: commands whose calls are only recorded
RECORDED = (
    "create_project", "set_property", "update_ip_catalog", "create_bd_design", "apply_bd_automation", "connect_bd_net",
    "connect_bd_intf_net", "assign_bd_address", "exclude_bd_addr_seg", "validate_bd_design", "save_bd_design",
    "add_files", "update_compile_order", "launch_runs", "wait_on_run", "write_hw_platform", "current_project",
    "current_fileset", "make_wrapper", "get_files",
)  # fmt: skip

STUBS = r"""
set calls {}
set made {}
proc record {name arguments} { lappend ::calls [list $name {*}$arguments] }
foreach name {%(recorded)s} {
    proc $name args "record $name \$args; return $name"
}
proc make {name arguments} { record $name $arguments; lappend ::made [lindex $arguments end] }
foreach name {create_bd_cell create_bd_port create_bd_intf_port} {
    proc $name args "make $name \$args"
}
proc find {path} {
    if {[lindex [split $path /] 0] ni $::made} { error "there is no $path" }
    return $path
}
foreach name {get_bd_cells get_bd_pins get_bd_intf_pins get_bd_ports get_bd_intf_ports get_bd_addr_spaces} {
    proc $name path {return [find $path]}
}
proc get_bd_addr_segs args {
    set path [find [lindex $args end]]
    if {![string match {*\**} $path]} { return $path }
    return [lmap name {HP0_DDR_LOW HP1_DDR_LOW HP2_DDR_LOW HP3_DDR_LOW LPS_OCM} {string map [list * $name] /$path}]
}
proc get_board_parts args { return [expr {%(board)d ? [string map {* 1.3} [lindex $args end]] : ""}] }
proc get_runs name { return $name }
proc get_property {name of} { return [dict get {%(properties)s} $name] }
set argv0 ""
"""


class TclError(RuntimeError):
    """What a script failed with."""


def run_script(script: Path, *, board: bool = True, **properties: object) -> list[list[str]] | None:
    """Run a script; the calls of Vivado's commands, or None if there is no interpreter.

    Parameters
    ----------
    board : Vivado has the board's files.
    properties : of the implementation run, where they differ from those of one that went well.
    """
    values = {"PROGRESS": "100%", "STATUS": "route_design ERROR", "STATS.WNS": 0.5, "STATS.WHS": 0.1}
    values |= {name.replace("__", "."): value for name, value in properties.items()}
    stubs = STUBS % {
        "recorded": " ".join(RECORDED),
        "board": board,
        "properties": " ".join(f"{name} {{{value}}}" for name, value in values.items()),
    }
    # a unit separator between words and a record separator between calls, which the scripts have none of
    tail = 'set lines [lmap call $calls {join $call \\x1f}]\nset log [open "%s" w]\nputs -nonewline $log '
    log = script.with_name("calls.log")
    program = f'{stubs}\nsource "{script}"\n' + tail % log + "[join $lines \\x1e]\nclose $log\n"
    log.unlink(missing_ok=True)
    if not _evaluate(program, script.with_name("run.tcl")):
        return None
    return [call.split("\x1f") for call in log.read_text().split("\x1e")]


def _evaluate(program: str, path: Path) -> bool:
    """Run a program in Python's interpreter or in tclsh; returns whether there is one."""
    try:
        from tkinter import Tcl
        from tkinter import TclError as PythonsTclError
    except ImportError:
        if not (tclsh := shutil.which("tclsh")):
            return False
        path.write_text(program)
        run = subprocess.run([tclsh, str(path)], capture_output=True, text=True)
        if run.returncode:
            raise TclError(run.stderr) from None
        return True
    try:
        Tcl().eval(program)
    except PythonsTclError as error:
        raise TclError(str(error)) from error
    return True


def balanced(text: str) -> bool:
    """Whether braces, brackets, and quotes of a script close: enough to find a broken template without Tcl."""
    closing = {"{": "}", "[": "]"}
    waiting: list[str] = []
    escaped = quoted = False
    for character in text:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character in closing:
            waiting.append(closing[character])
        elif character in closing.values() and (not waiting or waiting.pop() != character):
            return False
    return not waiting and not quoted
