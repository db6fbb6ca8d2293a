"""The driver in one file, for a board's own Python."""

import ast
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from boards.vivado.driver import DRIVER, PACKAGES, driver_source
from tests.boards.vivado.fake_pynq import PROGRAM, FakePynq, frames
from tests.configs import ALL, SMALL

OLDEST = (3, 10)  #: Python of PYNQ's images


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_old_python_can_read_it(config) -> None:
    source = driver_source(config)
    tree = ast.parse(source, feature_version=OLDEST)
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in imported}
    assert roots - set(sys.stdlib_module_names) == {"numpy", "pynq"}
    assert not roots & set(PACKAGES)


def test_the_same_call_on_the_board(board_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file runs the program as the whole project does."""
    FakePynq(SMALL, PROGRAM).install(monkeypatch)
    PROGRAM.save(board_folder / "program.bin")
    path = board_folder / DRIVER
    path.write_text(driver_source(SMALL))
    specification = importlib.util.spec_from_file_location("driver_on_the_board", path)
    driver = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, specification.name, driver)  # dataclasses look there
    specification.loader.exec_module(driver)
    images, expected = frames(3)
    monkeypatch.chdir(board_folder)
    device = driver.open("pynq")
    scores = device.run(images)
    np.testing.assert_array_equal(scores, expected)
    assert scores.dtype == np.int16
    foreign = FakePynq(SMALL, PROGRAM, CONFIG_HASH_LO=5).install(monkeypatch)
    with pytest.raises(driver.DeviceError, match="but the program for"):
        driver.open("pynq", board_folder)
    assert foreign.memory.freed
