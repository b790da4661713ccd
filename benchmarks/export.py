"""Latency of an exported checkpoint beside the model itself, in turn, in one process:

    python benchmarks/export.py checkpoints/multi_head

Each takes uint8 pixels and gives logits, in float32 on the CPU: the model as it is, `torch.export`'s program, and ONNX
Runtime, all with the same number of threads.
"""

import vit  # noqa: F401, I001  before PyTorch: it says how threads wait
import statistics
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from throughput import Task, measure, write_rows

from vit import checkpoint, compute, data
from vit.checks import check, check_types
from vit.cli import door
from vit.terminal import say
from vit.export import EXPORT, RUN, need


@dataclass
class Settings:
    """Measure an exported checkpoint beside the model itself.

    Args:
        checkpoint: run folder (its best weights), checkpoint folder, hf-hub:owner/name or
            wandb:entity/project/name:alias.
        batch_sizes: images per call.
        rounds: how often each is measured; the median counts.
        results: csv file to write the medians to; null for none.
    """

    checkpoint: str
    batch_sizes: list[int] = field(default_factory=lambda: [1, 256])
    rounds: int = 15
    results: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check(bool(self.batch_sizes) and min(self.batch_sizes) > 0, "batch_sizes", "numbers above 0", self.batch_sizes)
        check(self.rounds > 1, "rounds", "2 or more, for a median with quartiles", self.rounds)


def main(settings: Settings) -> dict[str, Any]:
    need("onnx", "onnxscript", "onnxruntime")
    model = checkpoint.load(settings.checkpoint)
    _, (images, _) = data.load("data")
    exported = {f"{name} file": RUN[name](EXPORT[name](model, True)) for name in EXPORT}
    runs = {"eager": lambda x: model(model.preprocess(x)), **exported}
    results: list[dict[str, Any]] = []
    device = compute.device_name(torch.device("cpu"))
    say(f"{'batch':>6}  {'':10}{'ms':>9}{'quartiles':>22}{'eager / it':>12}")
    for size in settings.batch_sizes:
        x = images[:size].contiguous()
        tasks: dict[str, Task] = {name: partial(run, x) for name, run in runs.items()}
        with torch.inference_mode():
            seconds = measure(tasks, torch.device("cpu"), settings.rounds)
        for name, times in seconds.items():
            low, middle, high = (1000 * each for each in statistics.quantiles(times, n=4, method="inclusive"))
            ratio = statistics.median(mine / its for mine, its in zip(seconds["eager"], times, strict=True))
            measured = {"milliseconds": round(middle, 3), "eager_over_it": round(ratio, 3)}
            results.append({"batch_size": size, "what": name, **measured, "rounds": settings.rounds, "device": device})
            say(f"{size:6}  {name:10}{middle:9.3f}{f'{low:.3f} to {high:.3f}':>22}{ratio:11.2f}x")
    if settings.results:
        write_rows(settings.results, results)
    return {"device": device, "torch": torch.__version__, "results": results}


if __name__ == "__main__":
    door(main, Settings)
