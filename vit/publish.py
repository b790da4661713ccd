"""What `publish.py` does: a finished run's best weights, measured once more, with a card that says what they are."""

import json
import shlex
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from vit import checkpoint, compute, data
from vit.card import FRONT_MATTER, kind
from vit.checks import UsageError, check
from vit.cli import parse, say
from vit.commands import PublishConfig
from vit.config import Config, ViTConfig, flatten
from vit.device import autocast, images_per_pass, pick_device
from vit.evaluation import augmented_accuracy, evaluate
from vit.files import atomic
from vit.run_folder import read_summary
from vit.study import material, overrides

LIMIT = 8_000_000  # bytes of a file of weights
FILES = ("config.json", "model.safetensors", "README.md")
# Of a run's summary: what the whole training cost, and where.
COST = (
    *("compute/train_flops", "compute/train_seconds", "compute/energy_joules"),
    *("device", "precision", "torch", "commit"),
)


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
    description = checkpoint.describe(best)
    other = "multi_head" if kind(model.config) == "one-head" else "one_head"
    check(other not in target.name, "target", f"a name that fits heads {model.config.heads}", target.name)
    weights = small_enough(model.state_dict())
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})

    _, (images, labels) = data.load(config.data.root)
    batch_size = images_per_pass(device, torch.float32, model.config.tokens)
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
    target.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", (json.dumps(description, indent=2) + "\n").encode()),
        ("model.safetensors", save(weights, {"format": "pt"})),
        ("README.md", card(description, target).encode()),
    ):
        with atomic(target / name) as part:
            part.write_bytes(content)
    say(f"{target}: test accuracy {result.acc:.2%}, {augmented:.2%} with test-time augmentation")
    return {"checkpoint": str(target), **description["results"]}


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


def card(description: dict[str, Any], target: Path) -> str:
    """The model card (Mitchell et al. 2019) of a published checkpoint, from the content of its config.json."""
    model, training, results = (description[key] for key in ("model", "training", "results"))
    name = target.name
    place = f"{target.absolute().parent.name}/{name}"
    default = flatten(Config())
    # Precision auto is what it was there; which weights come out depends on it.
    exact = training | {"train.precision": "bf16" if results["precision"] == "bfloat16" else "fp32"}
    changed = {key: value for key, value in exact.items() if value != default[key] or key == "seed"}
    command = shlex.join(["python", "train.py", *overrides(changed)])
    rows = {
        "test accuracy": f"{results['test/acc']:.2%}",
        "test accuracy with test-time augmentation (ten views)": f"{results['test/acc_tta']:.2%}",
    }
    if "val/acc" in results:
        rows["validation accuracy"] = f"{results['val/acc']:.2%}"
    if "train/test_acc" in results:
        rows[f"test accuracy as the training read it, in {results['precision']}"] = f"{results['train/test_acc']:.2%}"
    rows |= {
        "training cost": cost(results),
        "trained on": f"{results['device']}, {results['precision']}, PyTorch {results['torch']}",
        "code at commit": results.get("commit", "unknown"),
        "parameters": f"{results['model/params']:,}",
        "forward FLOPs an image (2 per multiply-accumulate)": f"{results['model/forward_flops']:,}",
        "seed": str(training["seed"]),
    }
    if training.get("init"):
        rows["started from"] = training["init"]
    table = "".join(f"| {key} | {value} |\n" for key, value in rows.items())
    return f"""{FRONT_MATTER}
# {name}: a {kind(ViTConfig(**model))} Vision Transformer for CIFAR-10

{model["depth"]} blocks, dim {model["dim"]}, heads {model["heads"]}, patch {model["patch_size"]}, \
MLP ratio {model["mlp_ratio"]}. Every setting is in [config.json](config.json).{sibling(name)}

| measured | value |
|---|---|
{table}
Accuracies are of these weights as stored, in float32; another CPU may see a few images differently.

## Load it

```python
import vit
model = vit.load("{place}")
logits = model(model.preprocess(image))
```

`python eval.py {place} --tta=true` measures it again.

## Train it

```bash
{command}
```

{splits(training, results)} This is one seed; what other seeds give is in the reports of the project.

## Limits

It knows ten classes ({", ".join(data.LABELS)}) in pictures like those of CIFAR-10,
{model["image_size"]} pixels square, and gives any other picture one of these names too. Nothing else was measured:
no other pictures, no noise, no attacks. It is for study and for comparing one head with many, not for decisions.

Licence: MIT, as the code. The pictures of CIFAR-10 are not part of it.
"""


def cost(results: dict[str, Any]) -> str:
    """The whole training in PFLOP and in minutes of a core or a GPU."""
    count, unit = compute.units_of(results["device"])
    minutes = count * results["compute/train_seconds"] / 60
    return f"{results['compute/train_flops'] / 1e15:.4g} PFLOP, {minutes:.1f} {unit}-minutes"


def splits(training: dict[str, Any], results: dict[str, Any]) -> str:
    """Which images chose the weights."""
    when = "at the end of the training, and once more for this card" if "train/test_acc" in results else "for this card"
    read = f"The test split chose nothing: it was read {when}."
    if not training["data.val_images"]:
        return f"Trained on all 50000 training images; the last weights are the published ones. {read}"
    chosen = f"Validation ({training['data.val_images']} training images left out) chose the weights"
    return f"{chosen}, those of epoch {results['best/epoch']:g} of {training['train.epochs']}. {read}"


def sibling(name: str) -> str:
    """A link from one_head to multi_head and back; other names have no such twin."""
    twin = {"one_head": "multi_head", "multi_head": "one_head"}.get(name)
    return f"\nIts sibling, equal but for the heads: [{twin}](../{twin}/README.md)." if twin else ""
