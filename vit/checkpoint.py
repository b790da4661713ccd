"""Checkpoints: config.json, model.safetensors and a model card to load from, and state.pt to resume from."""

import hashlib
import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from vit import sources
from vit.card import card
from vit.checks import UsageError, one_line, shown
from vit.config import Config, DataConfig, TrainConfig, ViTConfig
from vit.description import describe, read_description
from vit.device import pick_device
from vit.files import FULL, atomic
from vit.model import VisionTransformer
from vit.preprocess import Preprocess

HERE = "path/to/this/folder"
CHANGED = "changed after loading, not measured"


def save_checkpoint(folder: Path, model: VisionTransformer, config: Config, results: dict[str, Any]) -> None:
    """Write the three files of a model in training; each replaces its predecessor whole.

    Args:
        results: what is known of these weights (`val/acc`, `compute/epoch`, ...); kept with them, beside them and in
            the card.
    """
    description = describe(config, results)
    write_weights(folder, model.state_dict(), results)
    write_words(folder, description, card(description, str(config.name), HERE))


def add_results(folder: Path, results: dict[str, Any]) -> None:
    """Write beside the weights, which stay as they are, what else was measured of them."""
    description = read_description(folder)
    description["results"] |= results
    write_words(folder, description, card(description, str(description["training"]["name"]), HERE))


def val_acc(folder: Path) -> float:
    """Validation accuracy of the weights that a training saved; -1 if there are none.

    It is kept with them alone, not in the state, which is written later: a kill may leave the one newer than the other.
    If it came even before the words beside the weights were written, they are now.

    Raises:
        UsageError: a file is damaged.
    """
    if not (folder / "config.json").exists():  # which is written last
        return -1.0
    path = folder / "model.safetensors"
    results: dict[str, Any] = read_description(folder)["results"]
    try:
        with safe_open(path, framework="pt") as file:
            saved = dict(json.loads((file.metadata() or {}).get("results", "{}")))
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path}: damaged or not a safetensors file ({one_line(error)})") from None
    if saved != {key: results.get(key) for key in saved}:
        add_results(folder, saved)
    accuracy = (results | saved).get("val/acc", -1.0)
    if type(accuracy) is not float:
        raise UsageError(f"{folder / 'config.json'}: results: val/acc: expected a fraction, got {shown(accuracy)}")
    return accuracy


def save(folder: Path, model: VisionTransformer, source: str) -> None:
    """Write the three files of a model that `load` gave, with all that was known of it.

    What was measured is left out if the weights are not those that were loaded.

    Args:
        source: where the card says that it can be loaded from.

    Raises:
        UsageError: nothing is known of the model, or `folder` cannot be written.
    """
    description = description_of(model)
    if model.digest is not None and digest(model.state_dict()) != model.digest:
        description = description | {"results": {"weights": CHANGED}}
    text = card(description, source.split(":")[-1].split("/")[-1], source)
    try:
        write_weights(folder, model.state_dict())
        write_words(folder, description, text)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UsageError(f"{shown(str(folder))}: expected a folder to write to ({reason})") from None


def description_of(model: VisionTransformer) -> dict[str, Any]:
    """What config.json says of a model from `load`.

    Raises:
        UsageError: it comes from elsewhere.
    """
    if not model.description:
        raise UsageError("expected a model from vit.load, or one whose `description` is set")
    return model.description


def name_of(model: VisionTransformer) -> str:
    """That of the run it comes from."""
    return str(description_of(model)["training"].get("name") or "model")


def write_weights(folder: Path, weights: dict[str, Tensor], results: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / "model.safetensors") as part:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        known = {"results": json.dumps(results)} if results else {}
        part.write_bytes(save_tensors(plain, {"format": "pt"} | known))


def write_words(folder: Path, description: dict[str, Any], text: str) -> None:
    """Write config.json and the card."""
    for name, content in (("config.json", json.dumps(description, indent=2, allow_nan=False)), ("README.md", text)):
        with atomic(folder / name) as part:
            part.write_text(content.rstrip() + "\n", encoding="utf-8")


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def find(source: str | Path, token: str | None = None) -> Path:
    """The checkpoint folder that a CHECKPOINT argument names: the folder itself, or `best` in a run folder.

    One on a hub (`hf-hub:owner/name`, `wandb:entity/project/name:alias`) is fetched first.

    Args:
        token: for a private repository of the Hugging Face hub; null is that of `hf auth login`.

    Raises:
        UsageError: there is none, or a file of it is a link out of the folder.
    """
    root = folder = sources.fetch(source, token)
    try:
        folder.exists()
    except OSError as error:
        raise UsageError(f"{shown(str(source))}: not a checkpoint or run folder ({error.strerror})") from None
    if (folder / "best").is_dir():
        folder = folder / "best"
    elif (folder / "config.yaml").is_file():
        raise UsageError(f"{source}: this run has no checkpoint yet (the first comes with the first evaluation)")
    if not folder.is_dir():
        what = "is a file; expected its folder" if folder.exists() else "does not exist"
        raise UsageError(f"{source}: not a checkpoint or run folder (it {what})")
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise UsageError(f"{source}: not a checkpoint or run folder ({folder / name} is missing)")
        sources.check_inside(folder / name, root)
    return folder


def load(source: str | Path, device: str | torch.device = "cpu", token: str | None = None) -> VisionTransformer:
    """Load a trained model for inference.

    Args:
        source: a run folder (its best weights), a checkpoint folder, `hf-hub:owner/name`, perhaps with `@revision`, or
            `wandb:entity/project/name:alias`.
        device: auto, cpu, cuda, cuda:1, mps; auto is the accelerator if there is one.
        token: for a private repository of the Hugging Face hub; null is that of `hf auth login`.

    Returns:
        The model in eval mode on `device`, ready to `predict`, with `labels`, the class names in the order of the
        logits, and `preprocess`, which turns a picture (PIL image, uint8 array (H, W, 3) or uint8 tensor (3, H, W)), or
        a batch of them, into what the model takes.

    Raises:
        UsageError: no such device, no checkpoint there, or a file is damaged, foreign, or does not fit the other.
    """
    device = pick_device(str(device))
    folder = find(source, token)
    description = read_description(folder)
    unknown = set(description["model"]) - {field.name for field in fields(ViTConfig)}
    if unknown:
        raise UsageError(f"{folder / 'config.json'}: model.{min(unknown)}: no such setting")
    training = description["training"]
    try:
        config = ViTConfig(**description["model"])
        evaluated = TrainConfig(
            precision=training.get("train.precision", "auto"), eval_batch_size=training.get("train.eval_batch_size")
        )
        DataConfig(val_images=training.get("data.val_images", 0))  # refused here, before it chooses a split
    except UsageError as error:
        raise UsageError(f"{folder / 'config.json'}: {error}") from None
    if len(description["labels"]) != config.classes:
        count = len(description["labels"])
        raise UsageError(f"{folder / 'config.json'}: labels: expected {config.classes} names, got {count}")
    if config.channels != 3:
        raise UsageError(f"{folder / 'config.json'}: model.channels: expected 3, of RGB, got {config.channels}")
    tensors = read_weights(folder / "model.safetensors")
    model = fitting(config, tensors, folder)
    # Assigned: filling an empty model would import what torch.compile needs. Copied: what safetensors gives may be the
    # mapped file, which another process could replace.
    model.load_state_dict({name: tensor.to(device, copy=True) for name, tensor in tensors.items()}, assign=True)
    model.description, model.digest = description, digest(model.state_dict())
    model.labels = tuple(description["labels"])
    model.preprocess = Preprocess(config.image_size, tuple(description["mean"]), tuple(description["std"]))
    model.precision, model.eval_batch_size = evaluated.precision, evaluated.eval_batch_size
    return model.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in float32.

    Raises:
        UsageError: it is damaged or something else, or holds NaN or infinity.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, RuntimeError) as error:  # RuntimeError: a type or a shape that PyTorch does not have
        raise UsageError(f"{path}: damaged or not a safetensors file ({one_line(error)})") from None
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UsageError(f"{path}: {name}: expected floating-point numbers, got {tensor.dtype}")
        tensors[name] = tensor.float()  # first: float8 has no infinity to test for, and a float64 may overflow here
        if not tensors[name].isfinite().all():
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
    except Exception as error:  # whatever a damaged archive makes PyTorch and pickle raise
        raise UsageError(f"{path}: damaged, cannot resume ({type(error).__name__})") from None
