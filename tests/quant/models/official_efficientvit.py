"""The official EfficientViT code as an oracle: PyPI ``visaion5efficientvit`` 0.2.1 (Apache-2.0, no weights).

The package pulls in trainers, auto-encoders and Triton kernels that the classifiers never run; small
stand-ins take their place during the import, so nothing but PyTorch and NumPy has to be installed.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
from torch import nn


def official_classifier(name: str, num_classes: int = 1000) -> nn.Module:
    """Build the official ``name`` ("b0" .. "b3"); skip the test where the package is not installed."""
    root = importlib.util.find_spec("efficientvit")
    if root is None or root.origin is None:
        pytest.skip("the oracle is absent: pip install --no-deps visaion5efficientvit==0.2.1")
    folder = Path(root.origin).parent
    with mock.patch.dict(sys.modules, _stand_ins(folder)):
        cls = importlib.import_module("efficientvit.models.efficientvit.cls")
        return getattr(cls, f"efficientvit_cls_{name}")(n_classes=num_classes)


def _stand_ins(folder: Path) -> dict[str, ModuleType]:
    names = (
        "efficientvit.apps",
        "efficientvit.apps.trainer",
        "efficientvit.apps.trainer.run_config",
        "efficientvit.models.nn.triton_rms_norm",
        "efficientvit.models.efficientvit",
    )
    modules = {name: ModuleType(name) for name in names}
    modules["efficientvit.apps.trainer.run_config"].Scheduler = object
    modules["efficientvit.models.nn.triton_rms_norm"].TritonRMSNorm2dFunc = object
    # A package without its initialiser, which would import the auto-encoder models.
    modules["efficientvit.models.efficientvit"].__path__ = [str(folder / "models" / "efficientvit")]
    return modules
