"""Training through the integer operations themselves: what the network sees is what will be computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from quant.evaluate import dequantize
from quant.graph import FloatNode
from quant.qat.export import integer_network
from quant.qat.loss import DistillationLoss
from quant.qat.network import QuantizedGraph

__all__ = ["IntegerForward", "ThroughIntegers"]


class IntegerForward:
    """A forward pass with the values of the integer network, which is made anew from today's weights at every call.

    Parameters
    ----------
    images : (N, size, size, 3) uint8, whose ranges give streams and class scores their scales; a few dozen.
    mean, std : of the image normalisation.
    """

    def __init__(self, images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> None:
        self._images, self._mean, self._std = images, mean, std

    @torch.no_grad()
    def scores(self, network: QuantizedGraph, inputs: Tensor) -> Tensor:
        """Class scores (N, classes) that training sees for normalised images (N, 3, H, W)."""
        *_, (_, tensors) = network.run(inputs, self.values(network, inputs))
        return tensors["output"][:, :, 0, 0]

    @torch.no_grad()
    def values(self, network: QuantizedGraph, inputs: Tensor) -> dict[str, Tensor]:
        """What the codes of the integer network stand for, by node, float32."""
        made = integer_network(copy.deepcopy(network).cpu().eval(), self._images, self._mean, self._std)
        codes = made.to(inputs.device).run(self._bytes(inputs), trace=True)
        return {name: dequantize(made, name, value.cpu()).to(inputs) for name, value in codes.items()}

    def _bytes(self, inputs: Tensor) -> Tensor:
        """Images (N, H, W, 3) uint8 before they were normalised."""
        mean, std = (torch.tensor(values, device=inputs.device)[:, None, None] for values in (self._mean, self._std))
        return ((inputs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class ThroughIntegers:
    """A loss on the scores and maps of the integer network.

    Every map takes the values that the integer network's codes stand for; gradients are those of the fake-quantized
    operations at these values (straight through). Two to three times the time of a step.
    """

    def __init__(self, loss: DistillationLoss, forward: IntegerForward) -> None:
        self._loss, self._forward = loss, forward

    def __call__(self, network: QuantizedGraph, inputs: Tensor, labels: Tensor) -> Tensor:
        """The loss on normalised images (N, 3, H, W)."""
        return self._loss(_Exact(network, self._forward.values(network, inputs)), inputs, labels)


class _Exact:
    """A network for `DistillationLoss`, with given values in place of those of its maps."""

    def __init__(self, network: QuantizedGraph, values: dict[str, Tensor]) -> None:
        self._network, self._values = network, values

    def run(self, x: Tensor) -> Iterator[tuple[FloatNode, dict[str, Tensor]]]:
        return self._network.run(x, self._values)
