"""Checkpoints made by others load exactly, and damaged ones fail with a clear text."""

import os
import pickle
import re

import pytest
import torch
from random_network import randomise
from safetensors.torch import save_file

from quant.models.efficientvit import EFFICIENTVIT, build_efficientvit
from quant.models.loaders import CheckpointError, evaluation_crop, load_checkpoint
from quant.models.registry import MODELS, build, build_model


@pytest.fixture(scope="module")
def model():
    return randomise(build_efficientvit("b0", num_classes=10))


def timm_key(key: str) -> str:
    """Official key to timm key, by the table of renamed prefixes."""
    stem, stages = "backbone.input_stem.op_list.", "backbone.stages."
    if key.startswith(stem):
        index, rest = key.removeprefix(stem).split(".", 1)
        return f"stem.in_conv.{rest}" if index == "0" else f"stem.res{int(index) - 1}.{rest}"
    if key.startswith(stages):
        return key.removeprefix("backbone.").replace(".op_list.", ".blocks.", 1)
    heads = {
        "head.op_list.0.": "head.in_conv.",
        "head.op_list.2.linear.": "head.classifier.0.",
        "head.op_list.2.norm.": "head.classifier.1.",
        "head.op_list.3.linear.": "head.classifier.4.",
    }
    official = next(prefix for prefix in heads if key.startswith(prefix))
    return heads[official] + key.removeprefix(official)


def timm_state(state):
    return {timm_key(key): value for key, value in state.items()}


FORMS = {
    "flat.pt": lambda state, path: torch.save(state, path),
    "wrapped.pt": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    "model.pth": lambda state, path: torch.save({"model": state}, path),
    "module.pt": lambda state, path: torch.save({f"module.{k}": v for k, v in state.items()}, path),
    "flat.safetensors": lambda state, path: save_file(state, path),
    "timm.safetensors": lambda state, path: save_file(timm_state(state), path),
    "timm.bin": lambda state, path: torch.save(timm_state(state), path),
    "old_format.pth": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_network(model, tmp_path, form):
    path = tmp_path / form
    FORMS[form](model.state_dict(), path)
    loaded = load_checkpoint(path)
    assert loaded.config == model.config
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_crop_ratios_are_those_of_the_checkpoint_makers(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "official.safetensors")
    save_file(timm_state(model.state_dict()), tmp_path / "timm.safetensors")
    crops = {
        name: [evaluation_crop(tmp_path / f"{name}.safetensors", size) for size in (224, 256, 288)]
        for name in ("official", "timm")
    }
    assert crops == {"official": [0.95, 0.95, 0.95], "timm": [0.95, 1.0, 1.0]}


@pytest.mark.parametrize("name", EFFICIENTVIT)
def test_timm_keys_of_every_variant_are_known(tmp_path, name):
    model = build_efficientvit(name, num_classes=3)
    path = tmp_path / "timm.safetensors"
    save_file(timm_state(model.state_dict()), path)
    loaded = load_checkpoint(path)
    assert loaded.config == EFFICIENTVIT[name].replace(num_classes=3)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_batch_norm_counters_may_be_absent(model, tmp_path):
    state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "file.pt")
    load_checkpoint(tmp_path / "file.pt")


def save_changed(model, path, change):
    state = dict(model.state_dict())
    change(state)
    torch.save(state, path)
    return path


PROJ = "backbone.stages.2.op_list.1.context_module.main.proj.conv.weight"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda state: state.update(extra=torch.zeros(1)), "1 unknown: extra"),
        (lambda state: state.pop(PROJ), f"1 missing: {PROJ}"),
        (
            lambda state: state.update({PROJ: torch.zeros(64, 64, 1, 1)}),
            r"1 wrongly shaped: .*proj.conv.weight \(64, 64, 1, 1\) instead of \(64, 128, 1, 1\)",
        ),
        (lambda state: state.update({PROJ: state[PROJ] * float("nan")}), f"1 not finite: {PROJ}"),
        (lambda state: [state.pop(key) for key in list(state) if ".proj." in key], "missing: .* and 16 more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(model, tmp_path, change, text):
    with pytest.raises(CheckpointError, match=text):
        load_checkpoint(save_changed(model, tmp_path / "file.pt", change))


def test_wrong_variant_and_class_count_are_told(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="does not fit b1"):
        load_checkpoint(tmp_path / "file.pt", name="b1")
    with pytest.raises(CheckpointError, match=r"linear.weight \(10, 1280\) instead of \(1000, 1280\)"):
        load_checkpoint(tmp_path / "file.pt", num_classes=1000)


def test_other_networks_are_refused(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, tmp_path / "resnet.pt")
    with pytest.raises(CheckpointError, match="not an EfficientViT B0..B3, DeiT, or Swin.*layer1.0.conv1.weight"):
        load_checkpoint(tmp_path / "resnet.pt")
    wide = {"backbone.input_stem.op_list.0.conv.weight": torch.zeros(48, 3, 3, 3)}
    torch.save(wide, tmp_path / "wide.pt")
    with pytest.raises(CheckpointError, match="starts with 48 channels"):
        load_checkpoint(tmp_path / "wide.pt")


@pytest.mark.parametrize("form", ["flat.pt", "flat.safetensors", "old_format.pth"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files_are_told(model, tmp_path, form, kept):
    path = tmp_path / form
    FORMS[form](model.state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("data", [b"hello, world\n" * 100, bytes(range(256)) * 40, b"PK\x03\x04" + bytes(99)])
def test_other_files_are_told(tmp_path, data):
    (tmp_path / "file.pt").write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint") as error:
        load_checkpoint(tmp_path / "file.pt")
    assert "weights_only" not in str(error.value)  # PyTorch's advice is to run whatever code the file holds


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, {"epoch": 3, "lr": 0.1}, torch.zeros(3)])
def test_files_without_tensors_by_name_are_told(tmp_path, content):
    torch.save(content, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="no state dict|other things than named tensors"):
        load_checkpoint(tmp_path / "file.pt")


def test_absent_file_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)


def test_code_in_a_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=2))
    torch.save({"state_dict": Evil()}, tmp_path / "evil_zip.pt")
    for name in ("evil.pt", "evil_zip.pt"):
        with pytest.raises(CheckpointError, match="plain tensors"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "made").exists()


# -- DeiT and Swin --


def original_swin_state(state):
    """timm's keys and tensors as the original files have them."""
    original = {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16)}
    for key, value in state.items():
        if found := re.match(r"layers\.(\d+)\.(downsample\..*)", key):
            key = f"layers.{int(found[1]) - 1}.{found[2]}"
        original[key.replace("head.fc.", "head.")] = value
        if key.endswith("relative_position_bias_table"):
            original[key.replace("bias_table", "index")] = torch.zeros(16, 16, dtype=torch.int64)
    return original


@pytest.mark.parametrize("name", ["deit-cifar", "deit-cifar-distilled", "swin-cifar"])
def test_transformers_load_in_every_form(tmp_path, name):
    model = randomise(build_model(name, num_classes=7))
    forms = {"timm.safetensors": lambda state, path: save_file(state, path), "wrapped.pth": FORMS["model.pth"]}
    if name.startswith("swin"):
        forms["original.pth"] = lambda state, path: torch.save({"model": original_swin_state(state)}, path)
    for form, save in forms.items():
        save(model.state_dict(), tmp_path / form)
        loaded = load_checkpoint(tmp_path / form)
        assert loaded.config == model.config and not loaded.training
        assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
        assert evaluation_crop(tmp_path / form, 32) == 0.9


@pytest.mark.parametrize(("name", "key"), [("deit-cifar", "blocks.3.mlp.fc1.bias"), ("swin-cifar", "norm.weight")])
def test_transformers_that_lack_something_are_told(tmp_path, name, key):
    state = dict(build_model(name).state_dict())
    del state[key]
    torch.save(state, tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match=f"does not fit {name}: 1 missing: {key}"):
        load_checkpoint(tmp_path / "file.pt")


def test_other_transformers_are_told(tmp_path):
    torch.save(build(MODELS["deit-cifar"].replace(depth=2)).state_dict(), tmp_path / "shallow.pt")
    with pytest.raises(CheckpointError, match="has 2 blocks of 64 channels on patches of 4 pixels"):
        load_checkpoint(tmp_path / "shallow.pt")
    torch.save(build(MODELS["swin-cifar"].replace(depths=(2, 2, 1))).state_dict(), tmp_path / "shallow.pt")
    with pytest.raises(CheckpointError, match=r"has stages of \(2, 2, 1\) blocks"):
        load_checkpoint(tmp_path / "shallow.pt")
    torch.save(build_model("deit-cifar").state_dict(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="no network is called 'deit-z'"):
        load_checkpoint(tmp_path / "whole.pt", name="deit-z")


@pytest.mark.parametrize("kept", [0.001, 0.9])
def test_truncated_transformers_are_told(tmp_path, kept):
    torch.save({"model": build_model("deit-cifar").state_dict()}, tmp_path / "file.pth")
    data = (tmp_path / "file.pth").read_bytes()
    (tmp_path / "file.pth").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "file.pth")


def test_sizes_come_from_the_tensors_and_can_be_changed(tmp_path):
    torch.save(build_model("deit-cifar", size=48).state_dict(), tmp_path / "deit.pt")
    assert load_checkpoint(tmp_path / "deit.pt").config.size == 48
    assert load_checkpoint(tmp_path / "deit.pt", size=32).pos_embed.shape == (1, 65, 64)
    wide = build(MODELS["swin-cifar"].replace(size=64, window=8))
    torch.save(wide.state_dict(), tmp_path / "swin.pt")
    assert load_checkpoint(tmp_path / "swin.pt").config == wide.config
    with pytest.raises(CheckpointError, match="windows of 8 do not tile"):
        load_checkpoint(tmp_path / "swin.pt", size=40)
