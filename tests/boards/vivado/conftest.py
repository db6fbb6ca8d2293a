"""What the tests of these boards share."""

from pathlib import Path

import pytest

from boards.vivado.overlay import BITSTREAM, HANDOFF


@pytest.fixture
def board_folder(tmp_path: Path) -> Path:
    """A folder with a bitstream, as on a board."""
    for name in (BITSTREAM, HANDOFF):
        (tmp_path / name).write_bytes(b"")
    return tmp_path
