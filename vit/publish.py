"""What `publish.py` does: a finished run's best weights, measured once more, with a card that says what they are."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from vit import checkpoint, compute, data
from vit.card import card, kind
from vit.checks import UsageError, check
from vit.cli import overrides, parse
from vit.commands import PublishConfig
from vit.config import Config
from vit.device import autocast, images_per_pass, pick_device
from vit.evaluation import augmented_accuracy, evaluate
from vit.run_folder import material, read_summary
from vit.sources import FILES
from vit.terminal import say

LIMIT = 8_000_000  # bytes of a file of weights
# Of a run's summary: what the whole training cost, and where.
COST = (
    "compute/train_flops", "compute/train_seconds", "compute/energy_joules", "device", "precision", "torch", "commit",
)  # fmt: skip


def publish(config: PublishConfig) -> dict[str, Any]:
    """Write config.json, model.safetensors and README.md into the target folder; earlier ones there are replaced.

    The accuracies are those of the weights as written, in float32, which is what `vit.load` gives anyone.

    Returns:
        The folder and the results in its config.json.

    Raises:
        UsageError: the run is not finished, the weights are too large, or the target holds something else.
    """
    device = pick_device(config.device)
    run, target = Path(config.run), Path(config.target)
    best = checkpoint.find(run)
    summary = read_summary(run)
    if summary is None:
        raise UsageError(f"{run}: expected the folder of a finished run (it has no summary.json)")
    check(target.is_dir() or not target.exists(), "target", "a folder", str(target))
    strange = sorted(path.name for path in target.iterdir() if path.name not in FILES) if target.exists() else []
    if strange:
        raise UsageError(f"{target}: expected a new folder or a published checkpoint, but it holds {strange[0]}")
    model = checkpoint.load(best, device)
    description = checkpoint.description_of(model)
    other = "multi_head" if kind(model.config) == "one-head" else "one_head"
    check(other not in target.name, "target", f"a name that fits heads {model.config.heads}", target.name)
    weights = small_enough(model.state_dict())
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})

    _, (images, labels) = data.load(config.data.root)
    batch_size = images_per_pass(device, model.config.tokens)
    precision = autocast("fp32", device)
    say(f"{best}: evaluating {len(labels)} test images, then ten views of each")
    result = evaluate(model, images, labels, batch_size, precision, model.preprocess)
    augmented = augmented_accuracy(model, images, labels, batch_size, precision, model.preprocess)

    trained = parse(Config, overrides(description["training"]))
    # Without folders and accounts of the machine that trained it.
    description["training"] = {"name": target.name, **material(trained)}
    if trained.init is not None:
        description["training"]["init"] = f"timm:{Path(trained.init.removeprefix('timm:')).name}"
    chosen = description["results"]
    description["results"] = {
        **({"config": recipe} if (recipe := config_of(trained)) else {}),
        "test/acc": result.acc,
        "test/acc_tta": augmented,
        "test/loss": result.loss,
        "test/ece": result.ece,
        **{key: chosen[key] for key in ("val/acc", "val/loss") if key in chosen},
        "best/epoch": chosen["compute/epoch"],
        **({"train/test_acc": summary["test/acc"]} if "test/acc" in summary else {}),
        "model/params": compute.count_params(model.config),
        "model/forward_flops": compute.forward_flops(model.config),
        **{key: summary[key] for key in COST if summary.get(key) is not None},
    }
    place = f"{target.absolute().parent.name}/{target.name}"
    checkpoint.write_weights(target, weights)
    checkpoint.write_words(target, description, card(description, target.name, place, sibling(target.name)))
    say(f"{target}: test accuracy {result.acc:.2%}, {augmented:.2%} with test-time augmentation")
    return {"checkpoint": str(target), **description["results"]}


def config_of(trained: Config) -> str | None:
    """The file of configs/ that says these settings, whatever its seed."""
    for path in sorted(Path("configs").glob("*.yaml")):
        with suppress(UsageError):  # a sweep, which is no training's
            if material(parse(Config, [f"--config={path}", f"--seed={trained.seed}"])) == material(trained):
                return str(path)
    return None


def small_enough(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights on the CPU, in float32 if that takes at most `LIMIT` bytes, else in half precision.

    Raises:
        UsageError: that is too much as well.
    """
    for dtype in (torch.float32, torch.float16):
        cast = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.items()}
        size = len(save(cast, {"format": "pt"}))
        if size <= LIMIT:
            return cast
    raise UsageError(f"run: expected weights of at most {LIMIT:,} bytes, got {size:,} in half precision")


def sibling(name: str) -> str | None:
    """multi_head of one_head and the other way round; other names have no such twin."""
    return {"one_head": "multi_head", "multi_head": "one_head"}.get(name)
