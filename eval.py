"""Evaluate a checkpoint on the test or validation split:  python eval.py checkpoints/multi_head"""

from pathlib import Path
from typing import Any

from vit.cli import door
from vit.commands import EvalConfig
from vit.terminal import say


def main(config: EvalConfig) -> dict[str, Any]:
    # PyTorch is imported only once the settings are known to be good.
    from vit import checkpoint, compute, data
    from vit.checks import UsageError, shown
    from vit.config import Config, DataConfig, WandbConfig, flatten
    from vit.device import autocast, pick_device, precision_dtype
    from vit.evaluation import augmented_accuracy, evaluate
    from vit.media import evaluation_media
    from vit.predict import default_batch_size
    from vit.tracking import WandbRun

    device = pick_device(config.device)
    folder = checkpoint.find(config.checkpoint)
    model = checkpoint.load(folder, device)
    description = checkpoint.description_of(model)
    training = flatten(Config()) | description["training"]
    if model.labels != data.LABELS:
        raise UsageError(
            f"{folder}: labels: expected the classes of CIFAR-10 in their order, got {shown(model.labels)}"
        )
    if config.split == "val" and not training["data.val_images"]:
        raise UsageError(f"split: {folder} was trained on all images, so it has no validation split")
    (train_images, train_labels), (images, labels) = data.load(config.data.root)
    if config.split == "val":
        _, val = data.split_indices(train_labels, DataConfig(val_images=training["data.val_images"]))
        images, labels = train_images[val], train_labels[val]

    model.precision = config.precision or model.precision
    precision = autocast(model.precision, device)
    batch_size = config.batch_size or default_batch_size(model)
    dtype = str(precision_dtype(model.precision, device)).removeprefix("torch.")
    say(f"{folder}: {len(labels)} images in {dtype} on {device}{', then ten views of each' * config.tta}")
    result = evaluate(model, images, labels, batch_size, precision, model.preprocess)

    tta = {}
    if config.tta:
        accuracy = augmented_accuracy(model, images, labels, batch_size, precision, model.preprocess)
        tta = {f"{config.split}/acc_tta": accuracy}

    row = {
        # What the checkpoint cost: the x-axis that training logs accuracies over.
        **{key: value for key, value in description["results"].items() if key.startswith("compute/")},
        f"{config.split}/acc": result.acc,
        **tta,
        f"{config.split}/acc_top5": result.acc_top5,
        f"{config.split}/loss": result.loss,
        f"{config.split}/ece": result.ece,
        f"{config.split}/images_per_second": result.images_per_second,
        **compute.model_costs(model.config),
    }
    say(f"accuracy {result.acc:.2%}, top-5 {result.acc_top5:.2%}, loss {result.loss:.4f}, ECE {result.ece:.2%}")
    for accuracy in tta.values():
        say(f"accuracy {accuracy:.2%} with test-time augmentation (ten views of every image)")
    say(f"\n{'true class':12}accuracy   predicted as " + " ".join(f"{name[:5]:>5}" for name in model.labels))
    for name, accuracy, counts in zip(model.labels, result.per_class_acc, result.confusion, strict=True):
        say(f"{name:12}{accuracy:8.2%}                " + " ".join(f"{count:5}" for count in counts))

    # A checkpoint from elsewhere does not say where to report.
    ours = (folder.parent / "config.yaml").exists()
    home = training if ours else flatten(Config())
    run = WandbRun(
        folder.parent if ours else Path(),
        WandbConfig(
            mode=config.wandb.mode,
            project=config.wandb.project or home["wandb.project"],
            entity=config.wandb.entity or home["wandb.entity"],
        ),
        name=f"eval {training['name']} {config.split}",
        job_type="eval",
        settings=training | {"checkpoint": str(folder), "split": config.split},
    )
    run.log(row, lambda: evaluation_media(model, result, images, labels, config.split))
    run.finish()
    return {
        "checkpoint": str(folder),
        "split": config.split,
        "images": len(labels),
        **row,
        "per_class_acc": dict(zip(model.labels, result.per_class_acc, strict=True)),
        "confusion": result.confusion,
    }


if __name__ == "__main__":
    door(main, EvalConfig)
