"""The boards that vitsmith knows."""

from boards import ecpix5, ulx3s
from boards.board import Board, BoardError
from boards.vivado import catalog
from boards.vivado.board import VivadoBoard

__all__ = ["BOARDS", "VIVADO_BOARDS", "find_board"]

BOARDS: dict[str, Board] = {board.name: board for board in (*ulx3s.BOARDS, *ecpix5.BOARDS)}
VIVADO_BOARDS: dict[str, VivadoBoard] = {board.name: board for board in catalog.BOARDS}


def find_board(name: str) -> Board | VivadoBoard:
    """The board of that name. Raises `BoardError`."""
    boards = BOARDS | VIVADO_BOARDS
    if name not in boards:
        raise BoardError(f"no board called '{name}'; known are {', '.join(boards)}")
    return boards[name]
