"""Train a classifier on one CPU thread.

``python -m quant.train --model b0 --data cifar10 --schedule 64:26,96:10 --out FILE``

Most epochs run at a small image size and the last ones at the size of the checkpoint. AdamW with
a linear warm-up and a linear decay to zero, label smoothing, random shift, flip and cutout, and an
exponential moving average of the weights, which is what gets saved.

``--precision bfloat16`` is about a quarter quicker on a CPU with bfloat16 matrix instructions. Depthwise
convolutions stay in float32, as their bfloat16 gradients are slow in PyTorch 2.13 (alone they would
halve the speed), and so does the attention, whose divisor needs the digits.

Progress of the run is measured in pixels seen, or in wall time against ``--minutes`` if that is
further on: a busy machine shortens the run without leaving the learning-rate schedule unfinished.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.nn import functional as F

from quant.data import DataError, Dataset, load_dataset, normalise
from quant.data.dataset import ArrayDataset
from quant.data.upsample import upsample
from quant.models.checkpoint import CheckpointInfo, save_checkpoint
from quant.models.efficientvit import EFFICIENTVIT, LiteMLA
from quant.models.registry import MODELS, build_model

__all__ = [
    "Loss",
    "Schedule",
    "TrainConfig",
    "Trainer",
    "augment",
    "evaluate",
    "label_loss",
    "main",
    "train",
    "with_fresh_statistics",
]

#: of a model on normalised images (N, 3, H, W) and labels (N,)
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Schedule:
    """Epochs at each image size, in order.

    Parameters
    ----------
    phases : (size in pixels, epochs) pairs.
    """

    phases: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read "64:26,96:10".

        Raises
        ------
        ValueError : not of that form, or not positive.
        """
        try:
            phases = tuple(tuple(int(part) for part in item.split(":")) for item in text.split(","))
            sizes_epochs = [(size, epochs) for size, epochs in phases]
        except ValueError as error:
            raise ValueError(f"schedule {text!r} is not SIZE:EPOCHS[,SIZE:EPOCHS...], e.g. 64:26,96:10") from error
        if any(size < 32 or epochs < 1 for size, epochs in sizes_epochs):
            raise ValueError(f"schedule {text!r} needs sizes of 32 and up and at least one epoch")
        return cls(tuple(sizes_epochs))

    @property
    def final_size(self) -> int:
        """Image size of the last phase, the checkpoint's input size."""
        return self.phases[-1][0]

    @property
    def cost(self) -> int:
        """Pixels per image summed over all epochs."""
        return sum(size * size * epochs for size, epochs in self.phases)

    def size_at(self, progress: float) -> int:
        """Image size at ``progress`` 0..1 of the run's cost."""
        done = 0
        for size, epochs in self.phases:
            done += size * size * epochs
            # The slack keeps rounding from starting one more epoch of a finished phase.
            if progress < done / self.cost - 1e-9:
                return size
        return self.final_size


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of a run; the defaults train B0 on CIFAR-10.

    Parameters
    ----------
    model : a key of ``MODELS``. Only EfficientViT takes several image sizes in a run.
    schedule : epochs at each image size.
    minutes : wall time after which the run is over, however many epochs are left.
    batch_size : images a step.
    peak_lr : learning rate at the end of the warm-up, which takes ``warmup`` of the run.
    weight_decay : of AdamW, on convolution and linear weights only.
    label_smoothing : probability mass spread over all classes.
    ema_decay : decay of the averaged weights for every 128 images: about two epochs of memory at 50,000.
    max_grad_norm : gradients are scaled down to this; the attention divisor can make them jump.
    cutout : side of the blanked square, in pixels before up-sampling.
    precision : "float32" or "bfloat16", of the activations; weights are float32 in both.
    evaluate_every : epochs from one evaluation and checkpoint to the next.
    seed : of the weights, the order of images and the augmentation.
    device : PyTorch's name of what does the work, "cpu" or "cuda".
    """

    model: str
    schedule: Schedule
    minutes: float
    batch_size: int = 128
    peak_lr: float = 4e-3
    warmup: float = 0.08
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    ema_decay: float = 0.9985
    max_grad_norm: float = 2.0
    cutout: int = 8
    precision: str = "float32"
    evaluate_every: int = 4
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.minutes <= 0:
            raise ValueError(f"a run needs more than {self.minutes} minutes")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"unknown precision {self.precision!r}; choose 'float32' or 'bfloat16'")
        sizes = {size for size, _ in self.schedule.phases}
        if self.model not in EFFICIENTVIT and len(sizes) > 1:
            raise ValueError(f"{self.model} takes images of one size; the schedule has {sorted(sizes)}")

    def learning_rate(self, progress: float) -> float:
        """Learning rate at ``progress`` 0..1: linear up to the peak, then linear down to zero."""
        if progress < self.warmup:
            return self.peak_lr * max(progress / self.warmup, 0.01)
        return self.peak_lr * max(1.0 - progress, 0.0) / (1.0 - self.warmup)


def augment(images: np.ndarray, rng: np.random.Generator, cutout: int) -> np.ndarray:
    """Shift by up to 4 pixels, flip and blank a square, each image on its own.

    Parameters
    ----------
    images : (B, n, n, 3) uint8.
    rng : source of the random choices.
    cutout : side of the square, filled with mid-grey; 0 for none.

    Returns
    -------
    (B, n, n, 3) uint8, a new array.
    """
    batch, n = images.shape[:2]
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    top, left = rng.integers(0, 9, (2, batch))
    line = np.arange(n)
    columns = np.where(rng.random((batch, 1)) < 0.5, line, line[::-1])
    which = np.arange(batch)[:, None, None]
    rows = (top[:, None] + line)[:, :, None]
    out = padded[which, rows, (left[:, None] + columns)[:, None, :]]
    if cutout:
        # Centres lie anywhere, so squares at the border are cut off.
        centre_y, centre_x = rng.integers(0, n, (2, batch, 1))
        in_y = np.abs(2 * (line - centre_y) + 1) <= cutout
        in_x = np.abs(2 * (line - centre_x) + 1) <= cutout
        out[in_y[:, :, None] & in_x[:, None, :]] = 128
    return out


@torch.no_grad()
def evaluate(model: nn.Module, data: Dataset, batch_size: int = 250) -> float:
    """Return the top-1 accuracy 0..1 of ``model`` (put into evaluation mode) on ``data``."""
    model.eval()
    device = next(model.parameters()).device
    correct = 0
    for images, labels in data.batches(batch_size):
        logits = model(normalise(images, data.mean, data.std).to(device))
        correct += int((logits.argmax(1).cpu().numpy() == labels).sum())
    return correct / len(data)


@torch.no_grad()
def with_fresh_statistics(model: nn.Module, data: ArrayDataset, images: int = 4096) -> nn.Module:
    """Return a copy of ``model`` whose batch-norm statistics are those of the data it will see.

    The statistics met in training belong to other weights (those before averaging), to augmented
    images and, in the first phases, to another size. The copy's are taken from the first ``images``
    of ``data`` as they are.
    """
    model = copy.deepcopy(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return model.eval()
    for module in norms:
        module.reset_running_stats()
        module.momentum = None  # plain mean over all batches
    model.train()
    device = next(model.parameters()).device
    for start in range(0, min(images, len(data)), 128):
        model(normalise(data[start : start + 128][0], data.mean, data.std).to(device))
    return model.eval()


def label_loss(label_smoothing: float) -> Loss:
    """Cross-entropy of the scores and the labels."""

    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(model(inputs).float(), labels, label_smoothing=label_smoothing)

    return loss


class Trainer:
    """One training run that can be stopped after any epoch and resumed.

    Parameters
    ----------
    model : what is trained; a fresh ``config.model`` if not given.
    loss : what is minimised; `label_loss` if not given.

    Members
    -------
    model, average : the trained network and the moving average of its weights.
    epoch : epochs finished.
    progress : share of the run that is done, 0..1.
    """

    def __init__(
        self, config: TrainConfig, data: ArrayDataset, model: nn.Module | None = None, loss: Loss | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.data = data
        self.loss = loss or label_loss(config.label_smoothing)
        self.model = model or build_model(config.model, len(data.class_names), config.schedule.final_size)
        self.model = self.model.to(config.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        if config.precision == "bfloat16":
            _keep_in_float32(self.model)
        parameters = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.ndim > 1]},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
            ],
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.epoch = 0
        self.step = 0
        self.cost = 0.0
        self.elapsed = 0.0
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of the run, earlier sessions included."""
        return self.elapsed + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0..1 and a little more after the last step."""
        return max(self.cost / self.config.schedule.cost, self.seconds / (60 * self.config.minutes))

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self.progress >= 1.0 - 1e-9

    def save(self, path: Path) -> None:
        """Write everything needed to go on after this epoch."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "cost": self.cost,
            "elapsed": self.seconds,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Go on from a file written by ``save``."""
        state = torch.load(path, map_location=self.config.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.cost, self.elapsed = state["cost"], state["elapsed"]
        self._started = time.monotonic()

    def run_epoch(self, report: Callable[[float], None]) -> float:
        """Go through the training images once, or until the run is over.

        ``report`` gets the progress after every step. Returns the mean loss.
        """
        # One generator per epoch: a resumed run makes the same choices.
        rng = np.random.default_rng((self.config.seed, self.epoch))
        size = self.config.schedule.size_at(self.progress)
        order = rng.permutation(len(self.data))
        losses = []
        self.model.train()
        for start in range(0, len(order), self.config.batch_size):
            indices = np.sort(order[start : start + self.config.batch_size])
            losses.append(self._train_step(indices, size, rng))
            self.cost += size * size * len(indices) / len(order)
            report(self.progress)
            if self.done:
                break
        self.epoch += 1
        return math.fsum(losses) / len(losses)

    def _train_step(self, indices: np.ndarray, size: int, rng: np.random.Generator) -> float:
        config = self.config
        native = augment(self.data.native[indices], rng, config.cutout)
        inputs = normalise(upsample(native, size), self.data.mean, self.data.std).to(config.device)
        labels = torch.from_numpy(self.data.labels[indices]).to(config.device)
        device = torch.device(config.device).type
        with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss = self.loss(self.model, inputs, labels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate(self.progress)
        # A step with an infinite gradient would ruin the weights for good: drop it.
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self._update_average()
        return float(loss.detach())

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on the average follows the weights closely, so it forgets the random start.
        decay = self.config.ema_decay ** (self.config.batch_size / 128)
        decay = min(decay, (1 + self.step) / (10 + self.step))
        target = [t for t in self.average.state_dict().values() if t.is_floating_point()]
        source = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        torch._foreach_lerp_(target, source, 1.0 - decay)


def _keep_in_float32(model: nn.Module) -> None:
    """Exempt depthwise convolutions and attention of ``model`` from autocast."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels:
            module.forward = _in_float32(module.forward)
        elif isinstance(module, LiteMLA):
            module.relu_linear_att = _in_float32(module.relu_linear_att)


def _in_float32(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return function(x.float()).to(x.dtype)

    return call


def train(
    config: TrainConfig,
    train_data: ArrayDataset,
    test_data: Dataset,
    out: Path,
    *,
    model: nn.Module | None = None,
    loss: Loss | None = None,
    save: Callable[[Path, nn.Module, CheckpointInfo], None] = save_checkpoint,
    resume: bool = False,
    command: str = "",
    console: Console | None = None,
) -> float:
    """Train a classifier and write its averaged weights to ``out``.

    Every epoch ends with a state file ``out`` + ".state" to resume from; every
    ``config.evaluate_every`` epochs, and at the end, ``out`` is written with the accuracy on
    ``test_data`` in its metadata. The test images choose nothing: the last weights are kept.

    Parameters
    ----------
    train_data, test_data : at the final size of the schedule.
    model, loss : see `Trainer`.
    save : writes the checkpoint.
    resume : go on from the state file if there is one.
    command : recorded in the checkpoint.

    Returns
    -------
    Final top-1 accuracy 0..1.
    """
    console = console or Console()
    trainer = Trainer(config, train_data, model, loss)
    state = out.with_name(out.name + ".state")
    if resume and state.exists():
        trainer.load(state)
    info = CheckpointInfo(
        model=config.model,
        num_classes=len(train_data.class_names),
        size=config.schedule.final_size,
        mean=train_data.mean,
        std=train_data.std,
        data=train_data.name,
        top1=None,
        seed=config.seed,
        command=command,
    )

    def publish() -> float:
        averaged = with_fresh_statistics(trainer.average, train_data)
        top1 = evaluate(averaged, test_data)
        note = f"after {trainer.epoch} epochs, {_status(trainer)}"
        save(out, averaged, replace(info, top1=top1, note=note))
        console.print(f"test top-1 {100 * top1:.2f} % {note}")
        return top1

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("epoch 0", total=1.0, completed=trainer.progress)
        while not trainer.done:
            bar.update(task, description=f"epoch {trainer.epoch}")
            loss = trainer.run_epoch(lambda progress: bar.update(task, completed=progress))
            trainer.save(state)
            console.print(f"epoch {trainer.epoch}: {_status(trainer)}, loss {loss:.4f}")
            if trainer.epoch % config.evaluate_every == 0 and not trainer.done:
                publish()
        return publish()


def _status(trainer: Trainer) -> str:
    return f"{100 * min(trainer.progress, 1.0):.1f} % in {trainer.seconds / 60:.1f} min"


def main(arguments: list[str] | None = None) -> None:
    """Command line of ``python -m quant.train``."""
    parser = argparse.ArgumentParser(prog="python -m quant.train", description=__doc__)
    parser.add_argument("--model", choices=list(MODELS), default="b0")
    parser.add_argument("--data", default="cifar10", help="name or folder (cifar10)")
    parser.add_argument("--schedule", default="64:26,96:10", help="SIZE:EPOCHS,... (64:26,96:10)")
    parser.add_argument("--minutes", type=float, default=95.0, help="wall time at most (95)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="(float32)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    parser.add_argument("--resume", action="store_true", help="go on from OUT.state if it exists")
    options = parser.parse_args(arguments)

    # More threads help little on this network and stall on a busy machine.
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    try:
        schedule = Schedule.parse(options.schedule)
        config = TrainConfig(
            model=options.model,
            schedule=schedule,
            minutes=options.minutes,
            precision=options.precision,
            seed=options.seed,
        )
        train_data = load_dataset(options.data, "train", schedule.final_size)
        test_data = load_dataset(options.data, "test", schedule.final_size)
    except (ValueError, DataError) as error:
        parser.error(str(error))
    if not isinstance(train_data, ArrayDataset):
        parser.error(f"training needs small images held in memory; {options.data} is an image folder")
    words = ["python", "-m", "quant.train", *(sys.argv[1:] if arguments is None else arguments)]
    command = shlex.join(word for word in words if word != "--resume")
    train(config, train_data, test_data, options.out, resume=options.resume, command=command)


if __name__ == "__main__":
    main()
