"""Checkpoints: config.json, model.safetensors and a model card to load from, and state.pt to resume from."""

import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vit import compute, data
from vit.checks import UsageError
from vit.config import Config, TrainConfig, ViTConfig, flatten
from vit.files import atomic
from vit.model import VisionTransformer

FORMAT = 1

# What model hubs read of a card.
FRONT_MATTER = """---
license: mit
library_name: pytorch
pipeline_tag: image-classification
datasets:
- uoft-cs/cifar10
---"""


def save_checkpoint(folder: Path, model: VisionTransformer, config: Config, results: dict[str, Any]) -> None:
    """Write the three files; each replaces its predecessor whole.

    Args:
        results: what is known of these weights (`val/acc`, `compute/epoch`, ...); kept beside them and in the card.
    """
    folder.mkdir(exist_ok=True)
    description = {
        "format": FORMAT,
        "architecture": "VisionTransformer",
        "model": asdict(config.model),
        "labels": data.LABELS,
        "mean": data.MEAN,
        "std": data.STD,
        "training": flatten(config),
        "results": results,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, content in (
        ("config.json", json.dumps(description, indent=2).encode()),
        ("model.safetensors", save(weights, {"format": "pt"})),
        ("README.md", card(config, results).encode()),
    ):
        with atomic(folder / name) as part:
            part.write_bytes(content)


def card(config: Config, results: dict[str, Any]) -> str:
    """A model card (Mitchell et al. 2019) in the form that model hubs show."""
    model = config.model
    rows = "".join(f"| {key} | {value} |\n" for key, value in results.items())
    return f"""{FRONT_MATTER}
# {config.name}: a {kind(model)} Vision Transformer for CIFAR-10

Classifies {model.image_size} x {model.image_size} colour images into {", ".join(data.LABELS)}.
Trained on CIFAR-10 alone, for study and comparison; it knows nothing beyond these ten classes.

{model.depth} blocks, dim {model.dim}, heads {model.heads}, patch {model.patch_size}, \
{compute.count_params(model):,} parameters, {compute.forward_flops(model):,} forward FLOPs an image.

| measured | value |
|---|---|
{rows}
```python
import vit
model = vit.load("path/to/this/folder")
logits = model(model.preprocess(image))
```
"""


def kind(config: ViTConfig) -> str:
    return "one-head" if set(config.block_heads) == {1} else "multi-head"


def find(source: str | Path) -> Path:
    """The checkpoint folder that a CHECKPOINT argument names: the folder itself, or `best` in a run folder.

    Raises:
        UsageError: there is none.
    """
    folder = Path(source)
    if (folder / "best").is_dir():
        folder = folder / "best"
    elif (folder / "config.yaml").is_file():
        raise UsageError(f"{source}: this run has no checkpoint yet (the first comes with the first evaluation)")
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UsageError(f"{source}: not a checkpoint or run folder ({folder / name} is missing)")
    return folder


def describe(folder: Path) -> dict[str, Any]:
    """The content of config.json, checked.

    Raises:
        UsageError: it is not JSON, of another format, or lacks something.
    """
    path = folder / "config.json"
    try:
        description = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not JSON ({error})") from None
    if not isinstance(description, dict) or description.get("architecture") != "VisionTransformer":
        raise UsageError(f"{path}: not a checkpoint of this project (architecture is not VisionTransformer)")
    if description.get("format") != FORMAT:
        raise UsageError(
            f"{path}: expected format {FORMAT}, got {description.get('format')!r}; update the code to read it"
        )
    for key, kind in (
        ("model", dict),
        ("labels", list),
        ("mean", list),
        ("std", list),
        ("training", dict),
        ("results", dict),
    ):
        if not isinstance(description.get(key), kind):
            raise UsageError(f"{path}: {key}: expected a {kind.__name__}, got {description.get(key)!r}")
    for key, item in (("labels", str), ("mean", float), ("std", float)):
        if not all(isinstance(value, item) for value in description[key]):
            raise UsageError(f"{path}: {key}: expected a list of {item.__name__}, got {description[key]!r}")
    return description


def load(source: str | Path, device: str | torch.device = "cpu") -> VisionTransformer:
    """Load a trained model for inference.

    Args:
        source: a run folder (its best weights) or a checkpoint folder.

    Returns:
        The model in eval mode on `device`, ready to `predict`, with `labels`, the class names in the order of the
        logits, and `preprocess`, which turns a picture (PIL image, uint8 array H x W x 3, or uint8 tensor
        (..., 3, H, W)) into what the model takes.

    Raises:
        UsageError: no checkpoint there, or a file is damaged, foreign, or does not fit the other.
    """
    folder = find(source)
    description = describe(folder)
    unknown = set(description["model"]) - {field.name for field in fields(ViTConfig)}
    if unknown:
        raise UsageError(f"{folder / 'config.json'}: model.{min(unknown)}: no such setting")
    training = description["training"]
    try:
        config = ViTConfig(**description["model"])
        evaluated = TrainConfig(
            precision=training.get("train.precision", "auto"), eval_batch_size=training.get("train.eval_batch_size")
        )
    except UsageError as error:
        raise UsageError(f"{folder / 'config.json'}: {error}") from None
    if len(description["labels"]) != config.classes:
        count = len(description["labels"])
        raise UsageError(f"{folder / 'config.json'}: labels: expected {config.classes} names, got {count}")
    with torch.device("meta"):
        model = VisionTransformer(config)
    weights = read_weights(folder / "model.safetensors", {k: tuple(v.shape) for k, v in model.state_dict().items()})
    # Assigned: filling an empty model would import what torch.compile needs. Copied: what safetensors gives may be the
    # mapped file, which another process could replace.
    model.load_state_dict({name: tensor.to(device, copy=True) for name, tensor in weights.items()}, assign=True)
    model.labels = tuple(description["labels"])
    model.preprocess = data.Preprocess(config.image_size, tuple(description["mean"]), tuple(description["std"]))
    model.precision, model.eval_batch_size = evaluated.precision, evaluated.eval_batch_size
    return model.eval()


def read_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read a safetensors file that holds exactly the tensors named, of these shapes."""
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            for name in sorted(shapes.keys() | found.keys()):
                if found.get(name) != shapes.get(name):
                    have, want = (str(side.get(name, "absent")) for side in (found, shapes))
                    raise UsageError(f"{path}: {name} is {have}, config.json asks for {want}")
            return {name: file.get_tensor(name).float() for name in found}
    except SafetensorError as error:
        raise UsageError(f"{path}: damaged or not a safetensors file ({error})") from None


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write what resuming needs (tensors, numbers, strings and containers of them)."""
    buffer = io.BytesIO()  # on a full disk torch.save itself raises an error that does not say so
    torch.save(state, buffer)
    with atomic(path) as part:
        part.write_bytes(buffer.getbuffer())


def load_state(path: Path) -> dict[str, Any]:
    """Read a file of `save_state`; nothing in it is executed.

    Raises:
        UsageError: it is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: damaged, cannot resume ({str(error).splitlines()[0]})") from None
    except Exception as error:  # pickle.UnpicklingError's text spans many lines
        raise UsageError(f"{path}: not a state file, cannot resume ({type(error).__name__})") from None
