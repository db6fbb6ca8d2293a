"""The boards that vitsmith knows."""

from boards import ulx3s
from boards.board import Board, BoardError

__all__ = ["BOARDS", "find_board"]

BOARDS: dict[str, Board] = {board.name: board for board in ulx3s.BOARDS}


def find_board(name: str) -> Board:
    """The board of that name. Raises `BoardError`."""
    if name not in BOARDS:
        raise BoardError(f"no board called '{name}'; known are {', '.join(BOARDS)}")
    return BOARDS[name]
