"""A Vision Transformer for CIFAR-10 whose attention has one head or many.

import vit
model = vit.load("checkpoints/multi_head")
print(model.predict("cat.png"))  # [{"label": "cat", "score": 0.97}, ...]
logits = model(model.preprocess(image))
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vit.checkpoint import load
    from vit.checks import UsageError
    from vit.config import ViTConfig
    from vit.model import VisionTransformer
    from vit.timm_bridge import to_timm

# GNU OpenMP's threads wait for each other in a busy loop, for long: beside other work on the machine that makes PyTorch
# several times slower (benchmarks/NOTES.md). After some 0.1 ms they had better sleep. Read when PyTorch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__all__ = ["UsageError", "ViTConfig", "VisionTransformer", "load", "to_timm"]

_HOME = {
    "load": "vit.checkpoint",
    "UsageError": "vit.checks",
    "ViTConfig": "vit.config",
    "VisionTransformer": "vit.model",
    "to_timm": "vit.timm_bridge",
}


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import; `--help` and wrong settings should not wait for it.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'vit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
