"""The model card of a checkpoint (Mitchell et al. 2019), from the content of its config.json."""

from typing import Any

from vit import compute
from vit.config import ViTConfig

# What model hubs read of a card.
FRONT_MATTER = """---
license: mit
library_name: pytorch
pipeline_tag: image-classification
datasets:
- uoft-cs/cifar10
---"""

# Settings that a reader looks for first; all of them are in config.json.
SHOWN = ("train.epochs", "train.batch_size", "optim.name", "optim.lr", "augment.policy", "seed", "init")


def kind(config: ViTConfig) -> str:
    return "one-head" if set(config.block_heads) == {1} else "multi-head"


def card(description: dict[str, Any], title: str, source: str) -> str:
    """Data, settings, accuracy, cost and intended use, in the form that model hubs show.

    Args:
        description: the content of config.json.
        source: what `vit.load` takes to load these weights.
    """
    model = ViTConfig(**description["model"])
    results, training = description["results"], description["training"]
    measured = "".join(f"| {key} | {value} |\n" for key, value in results.items())
    settings = "".join(f"| {key} | {training[key]} |\n" for key in SHOWN if training.get(key) is not None)
    return f"""{FRONT_MATTER}
# {title}: a {kind(model)} Vision Transformer

Classifies {model.image_size} x {model.image_size} colour images into {", ".join(description["labels"])}.

{model.depth} blocks, dim {model.dim}, heads {model.heads}, patch {model.patch_size}, \
{compute.count_params(model):,} parameters, {compute.forward_flops(model):,} forward FLOPs an image.

## Data

{data_text(training)}

## Accuracy and cost

Accuracies are fractions of 1; `compute/` is what the training had cost when these weights were saved.

| measured | value |
|---|---|
{measured}
## Settings

The main ones; every one is in [config.json](config.json).

| setting | value |
|---|---|
{settings}
## Use

```python
import vit
model = vit.load("{source}")
logits = model(model.preprocess(image))
```

It is meant for study and for comparing one head with many, not for decisions. It gives any picture one of its
{model.classes} names, and knows nothing beyond them. Nothing but the numbers above was measured.
"""


def data_text(training: dict[str, Any]) -> str:
    """Which images trained and chose the weights."""
    if "data.val_images" not in training:
        return "Not recorded."
    images = training.get("data.train_images") or 50000 - training["data.val_images"]
    text = f"Trained on {images} training images of CIFAR-10"
    if training.get("init"):
        text += f", from the weights of {training['init']}"
    if not training["data.val_images"]:
        return f"{text}; the last weights count."
    return f"{text}; {training['data.val_images']} others (validation) chose the weights."
