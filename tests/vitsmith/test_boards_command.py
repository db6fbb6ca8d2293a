"""Boards, flashing, and running on the command line and from Python."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from serial.tools import list_ports
from typer.testing import CliRunner

import vitsmith
from boards.board import BoardError
from boards.registry import BOARDS
from compiler.compile import compile_network
from compiler.results import decode_scores
from hw.config import CONFIGS, AcceleratorConfig
from quant.data import DataError
from tests.configs import SMALL, quantizer_settings
from tests.quant.support import tiny_network
from tests.sim.support import copy_program, random_images, stand_in
from vitsmith import cli, devices
from vitsmith.bundle import Bundle


def invoke(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_boards_are_listed(tmp_path: Path) -> None:
    status, output = invoke("boards", "--bundle", tmp_path, "--json")
    assert status == 0
    rows = {row["board"]: row for row in json.loads(output)["boards"]}
    row = rows["ulx3s-85f"]
    assert (row["board"], row["accelerator"]) == ("ulx3s-85f", "nano")
    assert "simulated" in row["status"]
    assert "no network" in row["frames/s (predicted)"]
    assert rows["kv260"]["status"] == "generated only; never run through vendor tools here"


def test_boards_have_a_speed_for_a_network(tmp_path: Path) -> None:
    network, _ = tiny_network(32, **quantizer_settings(CONFIGS["nano"]))
    network.save(tmp_path / "network.safetensors")
    board = BOARDS["ulx3s-85f"]
    row = next(row for row in devices.board_rows(Bundle(tmp_path)) if row[0] == board.name)
    program = compile_network(network, CONFIGS["nano"], memory=board.memory_timing)
    assert (
        row[devices.BOARD_HEADER.index("frames/s (predicted)")] == f"{board.frequency / program.predicted_cycles:.1f}"
    )
    assert program.predicted_cycles > compile_network(network, CONFIGS["nano"]).predicted_cycles  # slower memory


def test_a_network_too_large_for_a_board_has_no_speed(tmp_path: Path) -> None:
    network, _ = tiny_network(32, **(quantizer_settings(CONFIGS["nano"]) | {"table_index_bits": 11}))
    network.save(tmp_path / "network.safetensors")
    for row in devices.board_rows(Bundle(tmp_path)):
        assert "does not fit: " in row[devices.BOARD_HEADER.index("frames/s (predicted)")]


def test_flash_shows_its_command() -> None:
    status, output = invoke("flash", "--board", "ulx3s-85f", "--persistent", "--dry-run")
    assert status == 0
    assert "--board ulx3s --write-flash build/boards/ulx3s-85f/top.bit" in output


def test_simulated_device(tmp_path: Path) -> None:
    """The stand-in of the accelerator inverts its input."""
    program = copy_program(SMALL, bursts=4)
    bundle = Bundle(tmp_path)
    bundle.config_file.write_text(SMALL.to_json())
    bundle.verilog_file.write_text(f"// {SMALL.hash:016x}\n{stand_in(SMALL, program.input_bytes)}")
    program.save(bundle.program_file(trace=False))
    images = random_images(program, 2)
    device = vitsmith.open("sim", tmp_path)
    expected = [decode_scores(SMALL, program.stored[0], ~image.reshape(-1)) for image in images]
    np.testing.assert_array_equal(device.run(images), expected)
    device.close()


@pytest.mark.parametrize("target", ["board", "ulx9:/dev/ttyUSB0", ":/dev/ttyUSB0", "kv260:/dev/ttyUSB0"])
def test_unknown_devices(target: str, tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="give sim, BOARD, or BOARD:PORT"):
        vitsmith.open(target, tmp_path)


def bundle_for(path: Path, config: AcceleratorConfig) -> Path:
    """A bundle with an accelerator and some program."""
    bundle = Bundle(path)
    bundle.config_file.write_text(config.to_json())
    copy_program(config, bursts=4).save(bundle.program_file(trace=False))
    return path


class AbsentLine:
    """Takes the place of `SerialLine`: shows which port is opened."""

    def __init__(self, port: str, baud: float) -> None:
        raise BoardError(f"port {port}")


@pytest.mark.parametrize(
    ("target", "ports", "message"),
    [
        ("ulx3s:/dev/a", {}, "port /dev/a"),
        ("ulx3s", {"/dev/usb0": 0x403, "/dev/ttyS0": None}, "port /dev/usb0"),
        ("ulx3s-45f", {"/dev/ttyS0": None}, "is the board connected"),
        ("ulx3s", {"/dev/usb0": 1, "/dev/usb1": 2}, "several serial ports, /dev/usb0, /dev/usb1; .* BOARD:/dev/usb0"),
    ],
)
def test_ports_are_found(target: str, ports: dict, message: str, tmp_path: Path, monkeypatch) -> None:
    found = [SimpleNamespace(device=device, vid=vid) for device, vid in ports.items()]
    monkeypatch.setattr(list_ports, "comports", lambda: found)
    monkeypatch.setattr(devices, "SerialLine", AbsentLine)
    with pytest.raises(BoardError, match=message):
        vitsmith.open(target, bundle_for(tmp_path, CONFIGS["pico"]))


def test_boards_that_might_be_meant(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="may be ulx3s-25f, ulx3s-45f, ulx3s-85f, and none carries.*whole name"):
        vitsmith.open("ulx3s:/dev/a", bundle_for(tmp_path, CONFIGS["base"]))


class WrongDevice:
    """Gives the integer network's scores, but one."""

    def __init__(self, network, wrong: int) -> None:
        self.network, self.wrong = network, wrong

    def run(self, images: np.ndarray) -> np.ndarray:
        scores = self.network.run(devices.torch.from_numpy(images)).numpy().astype(np.int16)
        scores[0, 3] += self.wrong
        return scores

    def close(self) -> None:
        pass


@pytest.mark.parametrize("wrong", [0, 1])
def test_run_compares_scores(wrong: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = tiny_network(32, **quantizer_settings(SMALL))
    bundle = Bundle(tmp_path)
    network.save(bundle.network_file)
    bundle.write_document("quantize", {"size": 32, "data": "cifar10"})
    monkeypatch.setattr(devices, "open_device", lambda target, path: WrongDevice(network, wrong))
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, image in zip(pictures, images.numpy(), strict=False):
        Image.fromarray(image).save(path)
    status, output = invoke("run", "--bundle", tmp_path, "--check", "--json", *pictures)
    document = json.loads(output)
    assert (status, document["mismatches"], document["compared_scores"]) == (wrong, wrong, 20)
    scores = network.run(images[1:2]).numpy()[0]
    assert document["pictures"][1]["scores"] == sorted(scores.tolist(), reverse=True)[:5]
    assert document["pictures"][1]["classes"][0] in devices.CIFAR10_NAMES


def test_folders_hold_pictures(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert devices.picture_files([tmp_path, Path("c.png")]) == [tmp_path / "a.JPG", tmp_path / "b.png", Path("c.png")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no pictures"):
        devices.picture_files([tmp_path / "empty"])


def test_a_camera_adds_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are classified once each, when they are complete; the device stays open."""
    network, images = tiny_network(32, **quantizer_settings(SMALL))
    bundle, folder = Bundle(tmp_path / "bundle"), tmp_path / "camera"
    bundle.path.mkdir()
    folder.mkdir()
    network.save(bundle.network_file)
    bundle.write_document("quantize", {"size": 32, "data": "cifar10"})
    opened = []
    monkeypatch.setattr(devices, "open_device", lambda *_: opened.append(WrongDevice(network, 0)) or opened[0])

    def save(name: str, index: int) -> None:
        Image.fromarray(images.numpy()[index]).save(folder / name)

    waits = []

    def wait(seconds: float) -> None:
        """Between looks, the camera goes on: an empty file at first, which is a picture later."""
        waits.append(seconds)
        if len(waits) == 3:
            (folder / "second.png").write_bytes(b"")
        if len(waits) == 5:
            save("second.png", 1)
        if len(waits) == 7:
            (folder / "third.png").write_bytes(b"no picture")
        if len(waits) == 9:
            save("fourth.png", 0)

    monkeypatch.setattr(devices.time, "sleep", wait)
    save("first.png", 0)
    found = devices.watch_stage(bundle, "sim", folder, check=True)
    for name in ("first.png", "second.png", "third.png", "fourth.png"):
        document = next(found)
        if name == "third.png":
            assert "third.png cannot be read" in document["error"]
            continue
        assert [Path(p["picture"]).name for p in document["pictures"]] == [name]
        assert document["mismatches"] == 0
    found.close()
    assert len(opened) == 1
    with pytest.raises(DataError, match="is not a folder"):
        next(devices.watch_stage(bundle, "sim", folder / "first.png"))


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent.jpg cannot be read"):
        devices.read_pictures([tmp_path / "absent.jpg"], 32, "cifar10")
