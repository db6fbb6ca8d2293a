"""Training on made-up images: it learns, resumes exactly, and keeps to its time."""

import numpy as np
import pytest
import torch
from rich.console import Console

from quant.data.dataset import ArrayDataset, normalise
from quant.models.checkpoint import read_checkpoint
from quant.models.efficientvit import build_efficientvit
from quant.train import Schedule, TrainConfig, Trainer, augment, evaluate, main, train, with_fresh_statistics


def coloured_images(count: int, size: int) -> ArrayDataset:
    """Noise around one of two colours."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    colours = np.array([[190, 60, 60], [60, 60, 190]])[labels]
    native = colours[:, None, None, :] + rng.integers(-40, 41, (count, 32, 32, 3))
    return ArrayDataset(
        name="colours",
        native=native.astype(np.uint8),
        size=size,
        labels=labels,
        class_names=("red", "blue"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
    )


def config(schedule: str, **changes: object) -> TrainConfig:
    settings = {"minutes": 60.0, "batch_size": 16, "evaluate_every": 2, "ema_decay": 0.5}
    return TrainConfig(model="b0", schedule=Schedule.parse(schedule), **settings | changes)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_learns_and_writes_an_honest_checkpoint(tmp_path, precision):
    data = coloured_images(64, 64)
    out = tmp_path / "b0.safetensors"
    settings = config("32:8,64:1", evaluate_every=9, precision=precision)
    console = Console(file=(tmp_path / "log").open("w"))
    top1 = train(settings, data, data, out, command="by hand", console=console)
    model, info = read_checkpoint(out)
    assert top1 > 0.9
    assert (info.top1, info.size, info.data, info.command) == (top1, 64, "colours", "by hand")
    assert "after 9 epochs" in info.note
    assert evaluate(model, data) == top1


def test_fresh_statistics_are_those_of_the_data():
    data = coloured_images(256, 32)
    model = build_efficientvit("b0", num_classes=2).eval()
    fresh = with_fresh_statistics(model, data, images=256)
    first = fresh.backbone.input_stem.op_list[0]
    with torch.no_grad():
        x = first.conv(normalise(data[0:256][0], data.mean, data.std))
    torch.testing.assert_close(first.norm.running_mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(first.norm.running_var, x.var((0, 2, 3)), rtol=1e-2, atol=0)
    assert not fresh.training and not model.backbone.input_stem.op_list[0].norm.running_mean.any()


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    data = coloured_images(32, 32)
    whole = Trainer(config("32:3"), data)
    for _ in range(3):
        whole.run_epoch(lambda progress: None)
    half = Trainer(config("32:3"), data)
    half.run_epoch(lambda progress: None)
    half.save(tmp_path / "state")
    rest = Trainer(config("32:3"), data)
    rest.load(tmp_path / "state")
    while not rest.done:
        rest.run_epoch(lambda progress: None)
    assert rest.epoch == 3
    for key, value in whole.average.state_dict().items():
        assert torch.equal(value, rest.average.state_dict()[key]), key


def test_time_limit_ends_the_run():
    trainer = Trainer(config("32:1000", minutes=1e-4), coloured_images(32, 32))
    trainer.run_epoch(lambda progress: None)
    assert trainer.done and trainer.step <= 2


def test_schedule():
    schedule = Schedule.parse("32:2,64:1")
    assert (schedule.final_size, schedule.cost) == (64, 2 * 32**2 + 64**2)
    assert [schedule.size_at(p) for p in (0.0, 0.33, 1 / 3, 0.9, 1.0)] == [32, 32, 64, 64, 64]


@pytest.mark.parametrize("text", ["", "64", "64:x", "64:1:2", "64:1,", "16:3", "64:0"])
def test_wrong_schedule_is_told(text):
    with pytest.raises(ValueError, match="schedule"):
        Schedule.parse(text)


def test_learning_rate_rises_then_falls_to_zero():
    rates = [config("32:1").learning_rate(p) for p in np.linspace(0, 1, 101)]
    assert rates[8] == max(rates) == pytest.approx(4e-3)
    assert np.all(np.diff(rates[:9]) > 0) and np.all(np.diff(rates[8:]) < 0)
    assert rates[-1] == 0.0 and config("32:1").learning_rate(1.1) == 0.0


def test_augmentation_shifts_and_flips_each_image_on_its_own():
    image = np.arange(32 * 32 * 3).reshape(32, 32, 3).astype(np.uint8)
    image[:, :, 0] = 8 * np.arange(32)  # red tells the column
    image[:, :, 1] = 8 * np.arange(32)[:, None]  # green tells the row
    out = augment(np.repeat(image[None], 64, 0), np.random.default_rng(0), cutout=0)
    assert out.shape == (64, 32, 32, 3) and out.dtype == np.uint8
    columns, rows = out[:, 16, 8:24, 0].astype(int) // 8, out[:, 8:24, 16, 1].astype(int) // 8
    steps = np.diff(columns, axis=1)
    assert set(steps[:, 0]) == {-1, 1} and (steps == steps[:, :1]).all()
    assert (np.diff(rows, axis=1) == 1).all()
    assert set(rows[:, 0]) == set(range(4, 13))


def test_cutout_blanks_one_square():
    images = np.zeros((64, 32, 32, 3), np.uint8)
    blank = augment(images, np.random.default_rng(0), cutout=8) == 128
    areas = blank[..., 0].sum((1, 2))
    assert areas.max() == 64 and areas.min() >= 16
    assert (blank.all(-1) == blank.any(-1)).all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--schedule", "64"], "not SIZE:EPOCHS"),
        (["--minutes", "0"], "more than 0.0 minutes"),
        (["--data", "nothing"], "unknown data set 'nothing'"),
    ],
)
def test_wrong_options_are_told(tmp_path, capsys, options, text):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), *options])
    assert text in capsys.readouterr().err
    torch.set_flush_denormal(False)
