"""What a window of each image saves by the clock: training steps with one and without, in turn, in one process:

    python benchmarks/window.py configs/quickstart.yaml configs/cpu_30min.yaml

Whole steps, as `vit/stepper.py` takes them, from stored images to updated weights.
"""

import vit  # noqa: F401, I001  before PyTorch: it says how threads wait
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from throughput import Task, measure, write_rows

from vit import compute, data
from vit.checks import check, check_types
from vit.cli import door, parse
from vit.terminal import say
from vit.config import Config
from vit.device import pick_device
from vit.parallel import Team
from vit.stepper import Stepper


@dataclass
class Settings:
    """Measure training steps that see a window of each image beside steps that see all of it.

    Args:
        recipes: configs whose steps to measure.
        window: side of the window in pixels.
        device: auto, cpu, cuda, cuda:1.
        rounds: how often each is measured; the median counts.
        results: csv file to write the medians to; null for none.
    """

    recipes: list[str]
    window: int = 24
    device: str = "auto"
    rounds: int = 31
    results: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check(self.rounds > 1, "rounds", "2 or more, for a median", self.rounds)


def main(settings: Settings) -> dict[str, Any]:
    device = pick_device(settings.device)
    (images, labels), _ = data.load("data")
    split = images.to(device), labels.to(device)
    results: list[dict[str, Any]] = []
    say(f"{'config':24}{'whole, images/s':>16}{'window, images/s':>18}{'time':>8}{'FLOPs':>8}")
    for recipe in settings.recipes:
        steppers = []
        for window in ("null", settings.window):
            config = parse(Config, [f"--config={recipe}", f"--train.window={window}", "--train.window_share=1"])
            steppers.append(Stepper(config, device, split, Team()))
        whole, seen = times(steppers, settings.rounds)
        batch = config.train.batch_size
        flops = [stepper.train_flops / stepper.step for stepper in steppers]
        row = {
            "config": Path(recipe).stem,
            "window": settings.window,
            "whole_images_per_second": round(batch / statistics.median(whole), 1),
            "window_images_per_second": round(batch / statistics.median(seen), 1),
            "time_ratio": round(statistics.median(b / a for a, b in zip(whole, seen, strict=True)), 4),
            "flops_ratio": round(flops[1] / flops[0], 4),
            "rounds": settings.rounds,
            "device": compute.device_name(device),
            "precision": str(steppers[0].dtype).removeprefix("torch."),
        }
        results.append(row)
        speeds = f"{row['whole_images_per_second']:16,.0f}{row['window_images_per_second']:18,.0f}"
        say(f"{row['config']:24}{speeds}{row['time_ratio']:8.3f}{row['flops_ratio']:8.3f}")
    if settings.results:
        write_rows(settings.results, results)
    return {"torch": torch.__version__, "results": results}


def times(steppers: list[Stepper], rounds: int) -> list[list[float]]:
    """Seconds of a step of each, in turn."""
    tasks: dict[str, Task] = {}
    for index, stepper in enumerate(steppers):
        with stepper.stream:
            steps = stepper.take_steps([])
            next(steps)  # compiled, if it is to be
        tasks[str(index)] = partial(step, stepper, steps)
    return list(measure(tasks, steppers[0].device, rounds).values())


def step(stepper: Stepper, steps: Iterator[None]) -> None:
    with stepper.stream:
        next(steps)


if __name__ == "__main__":
    door(main, Settings)
