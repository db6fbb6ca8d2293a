"""Devices that run a bundle's program, in simulation or on a board, and pictures for them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from boards.board import Board, BoardError
from boards.driver import BoardDevice
from boards.link.host import HostLink
from boards.registry import BOARDS, VIVADO_BOARDS, find_board
from boards.serial_line import SerialLine, find_port
from boards.vivado.board import VivadoBoard
from boards.vivado.overlay import BITSTREAM, TARGET, open_overlay
from compiler.compile import compile_network
from compiler.errors import CompileError
from hw.config import AcceleratorConfig
from quant.data import DataError
from quant.data.cifar10 import CLASS_NAMES as CIFAR10_NAMES
from quant.data.fashion_mnist import CLASS_NAMES as FASHION_NAMES
from quant.data.image_folder import CROP_RATIO, SUFFIXES, preprocess
from quant.integer_network import IntegerNetwork
from sim.runner import MemoryModel, simulate
from vitsmith.bundle import Bundle

__all__ = [
    "BOARD_HEADER",
    "Device",
    "SimulatedDevice",
    "board_rows",
    "open_device",
    "picture_files",
    "read_pictures",
    "run_stage",
    "watch_stage",
]

Progress = Callable[[float, str], None]

TOP_CLASSES = 5
LOOK_SECONDS = 0.5  #: between two looks into the folder of a camera
OWN_DATA = {"cifar10": CIFAR10_NAMES, "fashion-mnist": FASHION_NAMES}  #: class names; pictures are used whole


class Device(Protocol):
    """Something that runs a program."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Class scores, int16 (N, classes), of images, uint8 (N, H, W, 3)."""

    def close(self) -> None:
        """Release it."""


class SimulatedDevice:
    """A bundle's accelerator in Verilator."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._config, self._program, self._verilog = bundle.load_config(), bundle.load_program(), bundle.load_verilog()

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `Device`."""
        work_dir = self._bundle.path / "simulation"
        result = simulate(
            self._config, self._verilog, self._program, images, memory=MemoryModel(), work_dir=work_dir
        )  # fmt: skip
        return result.scores

    def close(self) -> None:
        """Nothing to release."""


def open_device(target: str, path: Path) -> Device:
    """See `vitsmith.open`. Raises `BoardError` or `DeviceError`, which say what to do."""
    bundle = Bundle(path)
    name, _, port = target.partition(":")
    if target == "sim":
        return SimulatedDevice(bundle)
    if name == TARGET:
        return open_overlay(Path(port) if port else path / BITSTREAM, bundle.load_config(), bundle.load_program())
    board = _board_with_line(name, bundle)
    config, program = bundle.load_config(), bundle.load_program()
    fitting = f"vitsmith build --board {board.name} --config {bundle.config_file}"
    rebuild = f"{fitting} && vitsmith flash --board {board.name}"
    line = SerialLine(port or find_port(), board.baud)
    try:
        return BoardDevice(HostLink(line), config, program, memory_bytes=board.memory_bytes, rebuild=rebuild)
    except Exception:
        line.close()
        raise


def _board_with_line(name: str, bundle: Bundle) -> Board | VivadoBoard:
    """The board that a name means, or the beginning of one; of several, that with the bundle's accelerator."""
    boards = [board for board in (BOARDS | VIVADO_BOARDS).values() if board.baud]
    matches = [board for board in boards if name and board.name.startswith(name)]
    if not matches:
        names = ", ".join(board.name for board in boards)
        raise BoardError(
            f"no device called '{name}'; give sim, BOARD, or BOARD:PORT, as ulx3s-85f:/dev/ttyUSB0, or, on a board "
            f"that PYNQ runs on, {TARGET} or {TARGET}:BITSTREAM; boards with a port are {names}"
        )
    fitting = matches
    if len(matches) > 1:
        config = bundle.load_config()
        fitting = [board for board in matches if board.accelerator == config]
    if len(fitting) != 1:
        raise BoardError(
            f"'{name}' may be {', '.join(board.name for board in matches)}, and "
            f"{'several carry' if fitting else 'none carries'} the bundle's accelerator; give the whole name"
        )
    return fitting[0]


def read_pictures(paths: Sequence[Path], size: int, data: str) -> np.ndarray:
    """Pictures, resized and cropped as for the network's training data. Raises `DataError`."""
    ratio = 1.0 if data in OWN_DATA else CROP_RATIO
    images = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                images.append(preprocess(picture, size, ratio))
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a picture ({error})") from error
    return np.stack(images)


def class_name(index: int, data: str) -> str:
    """Name of a class of a data set, or its number."""
    if data in OWN_DATA:
        return OWN_DATA[data][index]
    folders = sorted(entry.name for entry in Path(data).iterdir() if entry.is_dir()) if Path(data).is_dir() else []
    return folders[index] if index < len(folders) else f"class {index}"


def picture_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and the pictures in the folders, by name. Raises `DataError` for a folder without any."""
    files = []
    for path in paths:
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not found:
            raise DataError(f"{path} holds no pictures ({', '.join(SUFFIXES)})")
        files += found
    return files


def run_stage(bundle: Bundle, target: str, paths: Sequence[Path], *, check: bool = False) -> dict[str, object]:
    """Classes of pictures, and of those in folders, the best first; frames per second, and with `check` the scores that
    differ from the integer network's."""
    files = picture_files(paths)
    facts = bundle.load_document("quantize")
    images = read_pictures(files, facts["size"], facts["data"])  # before the device, so that errors come at once
    with closing(open_device(target, bundle.path)) as device:
        return _classify(bundle, device, target, files, images, check)


def watch_stage(bundle: Bundle, target: str, folder: Path, *, check: bool = False) -> Iterator[dict[str, object]]:
    """`run_stage` for the pictures of a folder, and then for what a camera adds to it, without an end.

    A file is taken when it has the same size at two looks, `LOOK_SECONDS` apart: a camera may still be writing it. Of
    one that cannot be read, the document has the `error` only.
    """
    facts = bundle.load_document("quantize")
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; --watch looks into one for new pictures")
    with closing(open_device(target, bundle.path)) as device:
        done: set[Path] = set()
        sizes: dict[Path, int] = {}
        while True:
            waiting = _picture_sizes(folder, done)
            ready = sorted(path for path, size in waiting.items() if size and sizes.get(path) == size)
            for path in ready:
                done.add(path)
                try:
                    images = read_pictures([path], facts["size"], facts["data"])
                except DataError as error:
                    yield {"device": target, "error": str(error)}
                else:
                    yield _classify(bundle, device, target, [path], images, check)
            if not ready:
                time.sleep(LOOK_SECONDS)
            sizes = waiting


def _picture_sizes(folder: Path, done: set[Path]) -> dict[Path, int]:
    """Bytes of the folder's pictures that are not done; files may vanish at any time."""
    sizes = {}
    for path in folder.iterdir():
        if path.suffix.lower() in SUFFIXES and path not in done:
            with suppress(OSError):
                sizes[path] = path.stat().st_size
    return sizes


def _classify(
    bundle: Bundle, device: Device, target: str, paths: Sequence[Path], images: np.ndarray, check: bool
) -> dict[str, object]:
    quantized = bundle.load_document("quantize")
    begin = time.perf_counter()
    scores = device.run(images)
    seconds = time.perf_counter() - begin
    best = np.argsort(-scores.astype(int), axis=1, kind="stable")[:, :TOP_CLASSES]
    document = {
        "device": target,
        "seconds_per_frame": seconds / len(images),
        "frames_per_second": len(images) / seconds,
        "pictures": [
            {
                "picture": str(path),
                "classes": [class_name(int(i), quantized["data"]) for i in row],
                "scores": [int(scores[frame, i]) for i in row],
            }
            for frame, (path, row) in enumerate(zip(paths, best, strict=True))
        ],
    }
    if check:
        expected = bundle.load_network().run(torch.from_numpy(images)).numpy()
        document["mismatches"] = int((scores != expected).sum())
        document["compared_scores"] = int(expected.size)
    return document


BOARD_HEADER = (
    "board", "title", "device", "accelerator", "memory", "clock", "line", "frames/s (predicted)", "status"
)  # fmt: skip


def board_rows(bundle: Bundle) -> list[tuple[str, ...]]:
    """A row of `BOARD_HEADER` for every board; frames per second are those of the bundle's network, if there is one."""
    network = bundle.load_network() if bundle.network_file.exists() else None
    return [
        (
            board.name, board.title, board.device, board.config, board.memory_title, f"{board.frequency / 1e6:g} MHz",
            f"{board.baud / 1e6:g} Mbaud" if board.baud else "none: PYNQ",
            _frames_per_second(network, board) if network else f"no network in {bundle.path}", board.status,
        )
        for board in (BOARDS | VIVADO_BOARDS).values()
    ]  # fmt: skip


def _frames_per_second(network: IntegerNetwork, board: Board | VivadoBoard) -> str:
    """Predicted for one frame per run, the images in the board's memory; or why the network does not fit."""
    try:
        program = compile_network(network, board.accelerator, memory=board.memory_timing)
    except CompileError as error:
        return f"does not fit: {error.obstacles[0].why}"
    return f"{board.frequency / program.predicted_cycles:.1f}"


def board_folder(board: Board | VivadoBoard) -> Path:
    """Where a board's project and bitstream lie."""
    return Path("build/boards") / board.name


def bitstream_file(board: Board | VivadoBoard) -> Path:
    """A board's bitstream."""
    return board_folder(board) / (BITSTREAM if isinstance(board, VivadoBoard) else "top.bit")


def build_stage(
    name: str,
    config: AcceleratorConfig | None,
    *,
    project_only: bool,
    seed: int | None = None,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Generate a board's project, and make its bitstream: blocks used, clock frequency, slack.

    The accelerator is the board's own if `config` is None, and so is the seed of place and route. Without Vivado, the
    project of a board that needs it is all, with the command to type.
    """
    from boards.build import build_bitstream, write_project

    board = find_board(name)
    folder = board_folder(board)
    if isinstance(board, VivadoBoard):
        return _build_with_vivado(board, config, folder, project_only=project_only)
    write_project(board, config, folder)
    document: dict[str, object] = {"board": name, "folder": str(folder)}
    if project_only:
        return document
    report = build_bitstream(board, folder, progress, seed=seed)
    return document | {
        **{kind: f"{used} of {available}" for kind, (used, available) in report.used.items()},
        "frequency_mhz": report.achieved,
        "required_mhz": report.required,
        "slack_ns": report.slack,
        "bitstream": str(bitstream_file(board)),
    }


def _build_with_vivado(
    board: VivadoBoard, config: AcceleratorConfig | None, folder: Path, *, project_only: bool
) -> dict[str, object]:
    from boards.vivado.project import command_line, run_vivado, vivado_found, write_project

    write_project(board, config, folder)
    document: dict[str, object] = {"board": board.name, "folder": str(folder), "status": board.status}
    if project_only or not vivado_found():
        return document | {"to build the bitstream, type": command_line(folder)}
    return document | run_vivado(folder) | {"bitstream": str(bitstream_file(board))}
