"""The model card of a checkpoint (Mitchell et al. 2019), from the content of its config.json."""

import json
import shlex
from typing import Any

from vit import compute
from vit.cli import overrides
from vit.config import Config, ViTConfig, flatten

# Settings that a reader looks for first; all of them are in config.json.
SHOWN = (
    "train.epochs", "train.window", "train.batch_size", "optim.name", "optim.lr", "optim.weight_decay", "augment.crop",
    "augment.cutout", "augment.policy", "whiten", "seed", "init",
)  # fmt: skip

ACCURACIES = {
    "test/acc": "test accuracy",
    "test/acc_tta": "test accuracy with test-time augmentation (ten views)",
    "val/acc": "validation accuracy",
}


def kind(config: ViTConfig) -> str:
    return "one-head" if set(config.block_heads) == {1} else "multi-head"


def card(description: dict[str, Any], title: str, source: str, twin: str | None = None) -> str:
    """Data, settings, accuracy, cost and intended use, in the form that model hubs show.

    Args:
        description: the content of config.json. What a published checkpoint adds to it shows here too.
        source: what `vit.load` takes to load these weights.
        twin: name of the folder beside this one to compare with.
    """
    model = ViTConfig(**description["model"])
    results, training = description["results"], description["training"]
    rows = "".join(f"| {key} | {value} |\n" for key, value in measured(model, results).items())
    settings = "".join(f"| {key} | {training[key]} |\n" for key in SHOWN if training.get(key) is not None)
    beside = f"\nCompare it with [{twin}](../{twin}/README.md)." if twin else ""
    earlier = "This is of the weights before they were changed.\n\n" if "weights" in results else ""
    return f"""{front_matter(title, results)}
# {title}: a {kind(model)} Vision Transformer for CIFAR-10

Classifies {model.image_size} x {model.image_size} colour images into {", ".join(description["labels"])}.

{model.depth} blocks, dim {model.dim}, heads {model.heads}, patch {model.patch_size}, \
MLP ratio {model.mlp_ratio}{", relative bias" * model.relative_bias}.{beside}

| measured | value |
|---|---|
{rows}{precision_text(results)}
## Load it

```python
import vit

model = vit.load("{source}")
model.predict("picture.png")  # the most probable classes: [{{"label": ..., "score": ...}}, ...]
logits = model(model.preprocess("picture.png"))
```

`python eval.py {source}{" --precision=fp32 --tta=true" * is_published(results)}` measures it on the test split.

## Data

{earlier}{data_text(training, results)}

## Settings

{earlier}The main ones; every one is in [config.json](config.json).

| setting | value |
|---|---|
{settings}{command_text(training, results)}
## Limits

It gives any picture one of its {model.classes} names, and knows nothing beyond them. Nothing but the numbers above was
measured: no other pictures, no noise, no attacks. It is meant for study and for comparing one head with many, not for
decisions.

Licence: MIT, as the code. The pictures of CIFAR-10 are not part of it.
"""


def front_matter(title: str, results: dict[str, Any]) -> str:
    """What model hubs read of a card."""
    lines = ["license: mit", "library_name: pytorch", "pipeline_tag: image-classification", "datasets:"]
    lines.append("- uoft-cs/cifar10")
    if isinstance(accuracy := results.get("test/acc"), float):
        dataset = "{type: uoft-cs/cifar10, name: CIFAR-10, split: test}"
        metric = f"{{type: accuracy, value: {accuracy:.4f}}}"
        lines += ["model-index:", f"- name: {json.dumps(title)}", "  results:"]
        lines.append(f"  - {{task: {{type: image-classification}}, dataset: {dataset}, metrics: [{metric}]}}")
    return "\n".join(["---", *lines, "---"])


def measured(config: ViTConfig, results: dict[str, Any]) -> dict[str, str]:
    """What is known of the weights, as people read it: percent, PFLOP, minutes of a core or a GPU."""
    rows = {"weights": str(results["weights"])} if "weights" in results else {}
    numbers = {key: value for key, value in results.items() if type(value) in (int, float)}
    rows |= {words: f"{numbers[key]:.2%}" for key, words in ACCURACIES.items() if key in numbers}
    if is_published(results) and (accuracy := rows.pop(ACCURACIES["val/acc"], None)):
        rows[f"validation accuracy as the training read it, in {results.get('precision')}"] = accuracy
    if "train/test_acc" in numbers:
        words = f"test accuracy as the training read it, in {results.get('precision')}"
        rows[words] = f"{numbers['train/test_acc']:.2%}"
    if "compute/train_flops" in numbers:
        cost = f"{numbers['compute/train_flops'] / 1e15:.4g} PFLOP"
        units = compute.units_of(str(results["device"])) if "device" in results else None
        if "compute/train_seconds" in numbers and units:
            count, unit = units
            cost += f", {count * numbers['compute/train_seconds'] / 60:.1f} {unit}-minutes"
        # Of a run's checkpoint it is the cost at its epoch, of a published one that of the whole training.
        until = f" up to these weights, of epoch {numbers['compute/epoch']:g}" if "compute/epoch" in numbers else ""
        rows[f"training cost{until}"] = cost
    if "device" in results:
        rows["trained on"] = f"{results['device']}, {results.get('precision')}, PyTorch {results.get('torch')}"
        rows["code at commit"] = str(results.get("commit", "unknown"))
    return rows | {
        "parameters": f"{compute.count_params(config):,}",
        "forward FLOPs an image (2 per multiply-accumulate)": f"{compute.forward_flops(config):,}",
    }


def precision_text(results: dict[str, Any]) -> str:
    """In which precision the accuracies were counted."""
    if not any(key in results for key in ACCURACIES):
        return ""
    if is_published(results):
        text = "Where nothing else is said, accuracies are of these weights as stored, in float32; another CPU may see "
        text += "a few images differently."
        return f"\n{text}\n"
    return f"\nAccuracies are of these weights in {results.get('precision', 'the precision of the training')}.\n"


def data_text(training: dict[str, Any], results: dict[str, Any]) -> str:
    """Which images trained and chose the weights."""
    if not isinstance(val := training.get("data.val_images"), int):
        return "Not recorded."
    text = f"Trained on {training.get('data.train_images') or 50000 - val} training images of CIFAR-10"
    if training.get("init"):
        text += f", from the weights of {training['init']}"
    if val:
        text += f". Validation ({val} training images left out) "
        # A run keeps its last weights too.
        text += "chose the weights" if is_published(results) else "chooses among the weights of a run"
        epoch = results.get("best/epoch", results.get("compute/epoch"))
        if isinstance(epoch, float):
            text += f"; these are of epoch {epoch:g} of {training.get('train.epochs')}"
        text += "."
    else:
        text += "; the last weights count."
    if "test/acc" not in results:
        return text
    when = "at the end of the training"
    if is_published(results):
        when = f"{when}, and once more for this card" if "train/test_acc" in results else "for this card"
    text += f" The test split had no part in the choice of the weights: it was read {when}."
    return f"{text} This is one seed."


def command_text(training: dict[str, Any], results: dict[str, Any]) -> str:
    """How to train a published checkpoint again; beside a run's lies its config.yaml."""
    if not is_published(results):
        return ""
    # Precision auto is what it was there; which weights come out depends on it.
    exact = training | {"train.precision": "bf16" if results.get("precision") == "bfloat16" else "fp32"}
    if "config" in results:
        file = ["--config", str(results["config"])]
        changed = {key: exact[key] for key in ("seed", "train.precision")}
    else:
        file, default = [], flatten(Config())
        changed = {key: value for key, value in exact.items() if key == "seed" or value != default.get(key)}
    return f"\n```bash\n{shlex.join(['python', 'train.py', *file, *overrides(changed)])}\n```\n"


def is_published(results: dict[str, Any]) -> bool:
    """Whether `vit.publish` measured them; a run's results tell the epoch as that of `compute/` alone."""
    return "best/epoch" in results
