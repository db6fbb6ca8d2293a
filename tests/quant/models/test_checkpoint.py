"""The project's own checkpoint file, and the trained one that lies in the repository."""

from pathlib import Path

import pytest
import torch
from random_network import randomise
from safetensors.torch import save_file

import quant
from quant.data import load_dataset
from quant.data.cache import DEFAULT_CACHE
from quant.models.checkpoint import CheckpointError, CheckpointInfo, read_checkpoint, save_checkpoint
from quant.models.efficientvit import build_efficientvit
from quant.models.loaders import load_checkpoint
from quant.train import evaluate

TRAINED = Path(quant.__file__).parent / "checkpoints" / "b0-cifar10-96.safetensors"

INFO = CheckpointInfo(
    model="b0",
    num_classes=4,
    size=96,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
    data="made up",
    top1=0.25,
    seed=3,
    command="python -m quant.train",
)


@pytest.fixture
def written(tmp_path):
    model = randomise(build_efficientvit("b0", num_classes=4))
    path = tmp_path / "new folder" / "file.safetensors"
    save_checkpoint(path, model, INFO)
    return path, model


def test_round_trip(written):
    path, model = written
    loaded, info = read_checkpoint(path)
    assert info == INFO
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert sorted(path.parent.iterdir()) == [path]


def test_the_general_loader_reads_it_too(written):
    path, model = written
    assert load_checkpoint(path).config == model.config


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_is_told(written, kept):
    path, _ = written
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_checkpoint(path)


def test_absent_and_foreign_files_are_told(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "file.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match="not written by vitsmith.*load_checkpoint"):
        read_checkpoint(tmp_path / "file.safetensors")


@pytest.mark.parametrize("info", ["", "[]", "{}", '{"mean": 3}'])
def test_damaged_metadata_is_told(tmp_path, info):
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata={"format": "vitsmith-1", "info": info})
    with pytest.raises(CheckpointError, match="damaged metadata"):
        read_checkpoint(path)


def test_tensors_that_do_not_fit_are_told(tmp_path):
    path = tmp_path / "file.safetensors"
    save_checkpoint(path, build_efficientvit("b1", num_classes=4), INFO)
    with pytest.raises(CheckpointError, match="does not hold a whole b0"):
        read_checkpoint(path)


def test_trained_checkpoint_is_as_good_as_it_says():
    model, info = read_checkpoint(TRAINED)
    assert (info.model, info.num_classes, info.size, info.data) == ("b0", 10, 96, "cifar10")
    if not (DEFAULT_CACHE / "cifar10" / "test-images.npy").exists():
        pytest.skip("CIFAR-10 is not cached: load_dataset('cifar10', 'test', 96) fetches it")
    data = load_dataset("cifar10", "test", info.size)
    images, labels = data[:500]
    data.native, data.labels = data.native[:500], labels
    # Five standard errors of 500 images.
    spread = 5 * (info.top1 * (1 - info.top1) / len(images)) ** 0.5
    assert evaluate(model, data) == pytest.approx(info.top1, abs=spread)
