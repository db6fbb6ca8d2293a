"""Block-wise reconstruction (BRECQ, Li et al., ICLR 2021), as in Trio-ViT, but of the integers that the hardware runs.

A block is trained to put out what the float block puts out, given what the integer blocks before it really put out.
Rounding of weights, biases, steps of activations, and units of attention states are learned together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import cos, pi

import torch
from torch import Tensor

from quant.builder import Builder
from quant.config import Reconstruction
from quant.graph import FloatGraph, FloatNode
from quant.integer_network import Node
from quant.progress import Progress
from quant.reconstruction.block import BlockModel
from quant.reconstruction.learned import Learned
from quant.reconstruction.rounding import penalty, penalty_exponent

__all__ = ["JUDGES", "Reconstructor"]

#: images that go through a block at a time
BATCH = 32
#: large maps are learned from in smaller batches: so many pixels of the block's output, but not fewer than these images
BATCH_PIXELS, LEAST_BATCH = 4608, 4
#: one image in so many is not learned from, but judges what was learned
JUDGES = 8


class Reconstructor:
    """Adapts the blocks of a network in order. It holds the maps between two blocks, of all images, and no others.

    Parameters
    ----------
    graph : the float network.
    codes : uint8 (N, C, H, W), what the first block reads.
    floats : float32 like `codes`, what the first float block reads.
    """

    def __init__(self, graph: FloatGraph, settings: Reconstruction, codes: Tensor, floats: Tensor) -> None:
        self._graph, self._settings = graph, settings
        self._codes = codes
        #: the float block's input, and from `learn` on its output
        self._floats = floats
        judges = torch.arange(len(codes)) % JUDGES == JUDGES - 1
        self._judges, self._learners = judges.nonzero()[:, 0], (~judges).nonzero()[:, 0]

    def learn(self, block: Sequence[FloatNode], builder: Builder, progress: Progress) -> Learned:
        """Adapt the last nodes of `builder`, which are those of `block`."""
        self._floats = torch.cat([self._float_output(block, batch) for batch in self._floats.split(BATCH)])
        model = BlockModel(block, builder.nodes[-len(block) :], builder.formats, builder.units, builder.config)
        # A normalisation whose output is a stream has nothing to learn.
        if not any(True for _ in model.parameters()):
            return model.learned()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._settings.seed)
            self._train(model, block, builder, progress)
        return model.learned()

    def _train(self, model: BlockModel, block: Sequence[FloatNode], builder: Builder, progress: Progress) -> None:
        settings, before = self._settings, self.error(block, builder)
        source_format = builder.formats[block[0].inputs[0]]
        optimizer = torch.optim.Adam(self._parameter_groups(model), fused=True)
        rates = [group["lr"] for group in optimizer.param_groups]
        pixels = self._floats[0, 0].numel()
        batch = max(min(settings.batch_size, BATCH_PIXELS // pixels), LEAST_BATCH)
        for iteration in range(settings.iterations):
            done = iteration / settings.iterations
            if iteration % 20 == 0:
                progress(done, f"reconstructing {block[0].name}, iteration {iteration} of {settings.iterations}")
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * (1.0 + cos(pi * done)) / 2
            images = self._learners[torch.randint(len(self._learners), (batch,))]
            source = source_format.dequantize(self._codes[images])
            error = (model(source) - self._floats[images]).square().mean() / before
            exponent = penalty_exponent(done, settings.warm_up)
            shares = model.shares()
            # A block of a normalisation alone has no weights to round.
            if exponent is not None and shares:
                total = sum(penalty(share, exponent) for share in shares)
                error = error + settings.rounding_weight * total / sum(share.numel() for share in shares)
            optimizer.zero_grad()
            error.backward()
            optimizer.step()

    def better(self, block: Sequence[FloatNode], first: Builder, second: Builder) -> Builder:
        """Of two ways to build the block, the one whose integer nodes have the smaller error; go on with its codes."""
        errors = [self.error(block, builder) for builder in (first, second)]
        builder = second if errors[1] < errors[0] else first
        form, nodes = builder.formats[block[-1].name], builder.nodes[-len(block) :]
        self._codes = torch.cat([form.stored(_run(nodes, batch)) for batch in self._codes.split(BATCH)])
        return builder

    def error(self, block: Sequence[FloatNode], builder: Builder) -> float:
        """Mean squared error of the block's integer nodes, the last ones of `builder`, on images not learned from."""
        form, total = builder.formats[block[-1].name], 0.0
        for images in self._judges.split(BATCH):
            codes = _run(builder.nodes[-len(block) :], self._codes[images])
            total += float((form.dequantize(codes) - self._floats[images]).double().square().sum())
        return max(total / (len(self._judges) * self._floats[0].numel()), 1e-30)

    def _float_output(self, block: Sequence[FloatNode], x: Tensor) -> Tensor:
        for _, tensors in self._graph.run_block(block, x):
            output = tensors["output"]
        return output

    def _parameter_groups(self, model: BlockModel) -> Iterator[dict[str, object]]:
        rates = {
            "alpha": self._settings.rounding_rate,
            "shift": self._settings.bias_rate,
            "log_factor": self._settings.step_rate,
        }
        for name, rate in rates.items():
            yield {"params": [p for key, p in model.named_parameters() if key.endswith(name)], "lr": rate}


def _run(nodes: Sequence[Node], codes: Tensor) -> Tensor:
    """Output codes of a block."""
    live = {nodes[0].inputs[0]: codes}
    for node in nodes:
        live[node.name] = node.run(*(live[name] for name in node.inputs))
    return live[nodes[-1].name]
