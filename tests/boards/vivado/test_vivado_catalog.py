"""The boards: their accelerators fit, as far as one can tell without the vendor's tools."""

import pytest

from boards.board import BoardError
from boards.link.uart import line_divider
from boards.registry import BOARDS, VIVADO_BOARDS, find_board
from compiler.devices import DEVICES
from compiler.resources import estimate_resources
from hw.config import CONFIGS

ROOM = 0.97  #: of any kind of resource; the rest of the design takes a few thousand LUTs


@pytest.mark.parametrize("board", VIVADO_BOARDS.values(), ids=lambda board: board.name)
def test_accelerators_fit(board) -> None:
    """Estimated; for the 7 series, with the figures of UltraScale+, as no others were measured."""
    device = DEVICES[board.chip]
    shares = device.shares(estimate_resources(board.accelerator, "xcup").total)
    assert all(share < ROOM for share in shares.values()), shares
    assert board.device.startswith({"xc7": ("xc7a", "xc7z"), "xcup": ("xczu", "xck26")}[device.target])


def test_names() -> None:
    assert not set(BOARDS) & set(VIVADO_BOARDS)
    assert set(VIVADO_BOARDS) == {"arty-a7-100", "pynq-z2", "kv260", "zcu104", "zcu102"}
    assert find_board("kv260") is VIVADO_BOARDS["kv260"]
    with pytest.raises(
        BoardError, match="no board called 'zcu106'; known are ulx3s-25f, ulx3s-45f, ulx3s-85f, .*zcu102"
    ):
        find_board("zcu106")


def test_claims() -> None:
    """No board claims more than was done."""
    assert {board.status for board in VIVADO_BOARDS.values()} == {"generated only; never run through vendor tools here"}


def test_lines() -> None:
    board = VIVADO_BOARDS["arty-a7-100"]
    assert line_divider(board.frequency, board.baud) == 25


def test_accelerators_that_a_board_cannot_carry() -> None:
    with pytest.raises(BoardError, match="dsp48e2 is for UltraScale"):
        VIVADO_BOARDS["pynq-z2"].build_system(CONFIGS["max"])


def test_memory_is_as_fast_as_its_ports() -> None:
    rates = {name: board.memory_timing.bytes_per_cycle for name, board in VIVADO_BOARDS.items()}
    assert rates == {"arty-a7-100": 8, "pynq-z2": 8, "kv260": 32, "zcu104": 64, "zcu102": 64}
