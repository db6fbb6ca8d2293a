"""timm as an oracle. It needs torchvision, which without a GPU is imported only after two operators are declared."""

import importlib.util

import pytest
import torch
from torch import nn


def timm_classifier(name: str, **settings: object) -> nn.Module:
    """Build timm's `name` with fresh weights; skip the test where timm is not installed."""
    for package in ("timm", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the oracle is absent: pip install --no-deps {package} (versions in the Makefile)")
    _declare_operators()
    import timm

    return timm.create_model(name, **settings)


def _declare_operators() -> None:
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        # Declarations last as long as the library object.
        torch.ops.torchvision.keep = library
