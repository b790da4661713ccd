"""What config.json says of a checkpoint: the model, what its logits mean, how it was trained, and what was measured."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vit import data
from vit.checks import UsageError, one_line, shown
from vit.config import Config, flatten

FORMAT = 1


def describe(config: Config, results: dict[str, Any]) -> dict[str, Any]:
    """Of a model in training, with what is known of its weights (`val/acc`, `compute/epoch`, ...)."""
    return {
        "format": FORMAT,
        "architecture": "VisionTransformer",
        "model": asdict(config.model),
        "labels": data.LABELS,
        "mean": data.MEAN,
        "std": data.STD,
        "training": flatten(config),
        "results": results,
    }


def read_description(folder: Path) -> dict[str, Any]:
    """The content of config.json, checked.

    Raises:
        UsageError: it is not JSON, of another format, or lacks something.
    """
    path = folder / "config.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: an integer of thousands of digits, too
        raise UsageError(f"{path}: not JSON ({one_line(error)})") from None
    if not isinstance(description, dict) or description.get("architecture") != "VisionTransformer":
        raise UsageError(f"{path}: not a checkpoint of this project (architecture is not VisionTransformer)")
    found = description.get("format")
    if type(found) is not int or found != FORMAT:
        raise UsageError(f"{path}: expected format {FORMAT}, got {shown(found)}; update the code to read it")
    for key, kind in (
        ("model", dict),
        ("labels", list),
        ("mean", list),
        ("std", list),
        ("training", dict),
        ("results", dict),
    ):
        if not isinstance(description.get(key), kind):
            raise UsageError(f"{path}: {key}: expected a {kind.__name__}, got {shown(description.get(key))}")
    labels = description["labels"]
    if not all(isinstance(name, str) and 0 < len(name) <= 100 and name.isprintable() for name in labels):
        raise UsageError(
            f"{path}: labels: expected a list of printable names of at most 100 signs, got {shown(labels)}"
        )
    if len(set(labels)) < len(labels):
        raise UsageError(f"{path}: labels: expected a list of different names, got {shown(labels)}")
    for key, least in (("mean", -1e4), ("std", 1e-4)):
        values = description[key]
        # 1 is 1.0, but true is not; NaN is not between any two numbers.
        if len(values) != 3 or not all(type(value) in (int, float) and least <= value <= 1e4 for value in values):
            raise UsageError(f"{path}: {key}: expected three numbers from {least:g} to 10000, got {shown(values)}")
        description[key] = [float(value) for value in values]
    try:
        json.dumps(description, allow_nan=False)
    except ValueError:
        raise UsageError(f"{path}: expected finite numbers, but one is NaN or infinite") from None
    return description
