"""Time and compute to an accuracy: a plain ViT on CIFAR-10, over several seeds, one after another:

    python benchmarks/speedrun.py --recipe=configs/speedrun_cpu.yaml --target=0.8 --seeds='[0, 1, 2]'

Each seed is an ordinary run of `train.py` to the end of its schedule, so what counts is the time of a whole training,
not the moment some evaluation was lucky. Seconds are those of training alone: compilation (which is stated), evaluation
and saving are outside; on a GPU the first steps, after which the step is captured as a graph, and the capture are
inside. Test-time augmentation averages the class probabilities of every image and its mirror image, each as it is and
moved by one pixel in four directions. A seed that is finished is not trained again.
"""

import vit  # noqa: F401, I001  before PyTorch: it says how threads wait
import dataclasses
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit import checkpoint, data
from vit.checks import check, check_seeds, check_types
from vit.cli import door, parse
from vit.terminal import Interrupted, say
from vit.config import Config
from vit.device import autocast, pick_device
from vit.evaluation import augmented_accuracy
from vit.runs import train


@dataclass
class Settings:
    """Train several seeds and print accuracy, seconds and PFLOPs.

    Args:
        recipe: YAML file of settings, as `train.py --config` takes it.
        target: test accuracy to reach, without test-time augmentation.
        seeds: seeds to train, one after another.
        device: auto, cpu, cuda, cuda:1.
        runs_dir: folder that holds the run folders.
    """

    recipe: str = "configs/speedrun_cpu.yaml"
    target: float = 0.8
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    device: str = "auto"
    runs_dir: str = "runs"

    def __post_init__(self) -> None:
        check_types(self)
        check(0 < self.target < 1, "target", "an accuracy between 0 and 1", self.target)
        check_seeds("seeds", self.seeds)


def main(settings: Settings) -> dict[str, Any]:
    device = pick_device(settings.device)
    recipe = parse(Config, [f"--config={settings.recipe}"])
    rows = []
    for seed in settings.seeds:
        config = dataclasses.replace(
            recipe,
            name=f"{recipe.name}-{seed}",
            seed=seed,
            seeds=None,
            device=settings.device,
            runs_dir=settings.runs_dir,
            resume=True,
            train=dataclasses.replace(recipe.train, test=True),
            wandb=dataclasses.replace(recipe.wandb, mode="disabled"),
        )
        try:
            summary = train(config)
        except Interrupted as stop:
            raise Interrupted("stopped, all saved; the same command goes on", stop.code) from None
        say("test-time augmentation: ten views of every test image")
        model = checkpoint.load(Path(summary["checkpoint"]), device)
        _, (images, labels) = data.load(config.data.root)
        precision = autocast(config.train.precision, device)
        rows.append(
            {
                "seed": seed,
                "test_acc": summary["test/acc"],
                "test_acc_augmented": augmented_accuracy(model, images.to(device), labels.to(device), 500, precision),
                "train_seconds": summary["compute/train_seconds"],
                "train_pflop": summary["compute/train_flops"] / 1e15,
            }
        )
    say(f"\n{'seed':>6}{'test':>9}{'augmented':>11}{'seconds':>9}{'PFLOP':>9}")
    for row in rows:
        say(
            f"{row['seed']:6}{row['test_acc']:9.2%}{row['test_acc_augmented']:11.2%}{row['train_seconds']:9.1f}"
            f"{row['train_pflop']:9.4f}"
        )
    means = {key: statistics.mean(row[key] for row in rows) for key in rows[0] if key != "seed"}
    reached = means["test_acc"] >= settings.target
    say(
        f"{'mean':>6}{means['test_acc']:9.2%}{means['test_acc_augmented']:11.2%}{means['train_seconds']:9.1f}"
        f"{means['train_pflop']:9.4f}   target {settings.target:.1%} {'reached' if reached else 'missed'}"
    )
    return {"settings": dataclasses.asdict(settings), "reached": reached, "mean": means, "runs": rows}


if __name__ == "__main__":
    door(main, Settings)
