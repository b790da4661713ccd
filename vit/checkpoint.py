"""Checkpoints: config.json, model.safetensors and a model card to load from, and state.pt to resume from."""

import io
import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from vit import data, sources
from vit.card import card
from vit.checks import UsageError
from vit.config import Config, TrainConfig, ViTConfig, flatten
from vit.files import atomic
from vit.model import VisionTransformer

FORMAT = 1


def save_checkpoint(folder: Path, model: VisionTransformer, config: Config, results: dict[str, Any]) -> None:
    """Write the three files of a model in training; each replaces its predecessor whole.

    Args:
        results: what is known of these weights (`val/acc`, `compute/epoch`, ...); kept beside them and in the card.
    """
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
    write(folder, model, description, str(config.name), "path/to/this/folder")


def save(folder: Path, model: VisionTransformer, source: str) -> None:
    """Write the three files of a model that `load` gave, with all that was known of it.

    Args:
        source: where the card says that it can be loaded from.

    Raises:
        UsageError: nothing is known of the model, or `folder` is a file.
    """
    if not model.description:
        raise UsageError("save_pretrained: expected a model from vit.load, or one whose `description` is set")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder")
    write(folder, model, model.description, source.split(":")[-1].split("/")[-1], source)


def write(folder: Path, model: VisionTransformer, description: dict[str, Any], title: str, source: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    for name, content in (
        ("config.json", json.dumps(description, indent=2).encode()),
        ("model.safetensors", save_tensors(weights, {"format": "pt"})),
        ("README.md", card(description, title, source).encode()),
    ):
        with atomic(folder / name) as part:
            part.write_bytes(content)


def find(source: str | Path) -> Path:
    """The checkpoint folder that a CHECKPOINT argument names: the folder itself, or `best` in a run folder.

    One on a hub (`hf-hub:owner/name`, `wandb:entity/project/name:alias`) is fetched first.

    Raises:
        UsageError: there is none, or a file of it is a link out of the folder.
    """
    root = folder = sources.fetch(source)
    if (folder / "best").is_dir():
        folder = folder / "best"
    elif (folder / "config.yaml").is_file():
        raise UsageError(f"{source}: this run has no checkpoint yet (the first comes with the first evaluation)")
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UsageError(f"{source}: not a checkpoint or run folder ({folder / name} is missing)")
        sources.check_inside(folder / name, root)
    return folder


def describe(folder: Path) -> dict[str, Any]:
    """The content of config.json, checked.

    Raises:
        UsageError: it is not JSON, of another format, or lacks something.
    """
    path = folder / "config.json"
    try:
        description = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
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
    for key, least in (("mean", -math.inf), ("std", 0)):
        values = description[key]
        if len(values) != 3 or not all(math.isfinite(value) and value > least for value in values):
            raise UsageError(f"{path}: {key}: expected three numbers{' above 0' * (key == 'std')}, got {values!r}")
    return description


def load(source: str | Path, device: str | torch.device = "cpu") -> VisionTransformer:
    """Load a trained model for inference.

    Args:
        source: a run folder (its best weights), a checkpoint folder, `hf-hub:owner/name` or
            `wandb:entity/project/name:alias`.

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
    tensors = read_weights(folder / "model.safetensors")
    model = fitting(config, tensors, folder)
    # Assigned: filling an empty model would import what torch.compile needs. Copied: what safetensors gives may be the
    # mapped file, which another process could replace.
    model.load_state_dict({name: tensor.to(device, copy=True) for name, tensor in tensors.items()}, assign=True)
    model.description = description
    model.labels = tuple(description["labels"])
    model.preprocess = data.Preprocess(config.image_size, tuple(description["mean"]), tuple(description["std"]))
    model.precision, model.eval_batch_size = evaluated.precision, evaluated.eval_batch_size
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in float32.

    Raises:
        UsageError: it is damaged or something else, or holds NaN or infinity.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UsageError(f"{path}: damaged or not a safetensors file ({error})") from None
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UsageError(f"{path}: {name} holds NaN or infinity")
    return tensors


def fitting(config: ViTConfig, tensors: dict[str, Tensor], folder: Path) -> VisionTransformer:
    """The model without its weights, if exactly these tensors fit it.

    Raises:
        UsageError: they do not; the text names the first that is missing, strange or of another shape.
    """
    path = folder / "model.safetensors"
    try:
        with torch.device("meta"):
            model = VisionTransformer(config)
    except (RuntimeError, TypeError, OverflowError):  # beyond 64 bits
        raise UsageError(f"{folder / 'config.json'}: model: expected sizes that a tensor can have") from None
    shapes, found = ({name: tuple(t.shape) for name, t in side.items()} for side in (model.state_dict(), tensors))
    for name in sorted(shapes.keys() | found.keys()):
        if found.get(name) != shapes.get(name):
            have, want = (str(side.get(name, "absent")) for side in (found, shapes))
            raise UsageError(f"{path}: {name} is {have}, config.json asks for {want}")
    return model


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
