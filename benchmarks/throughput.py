"""Images per second of our model and loop beside its peers, in turn, in one process:

    python benchmarks/throughput.py --dim=128 --depth=4 --heads='[1, 4]'

Three tasks: `train` is one optimizer step on tensors that lie ready (forward, loss, backward, AdamW), `infer` one
forward pass, `pipeline` all from stored uint8 images to updated weights: ours as in `vit/stepper.py`, the peer's a
DataLoader with torchvision's transforms on PIL images. Peers, at the same width, depth, heads and MLP ratio, are timm's
VisionTransformer, vit-pytorch's SimpleViT (no biases in its attention) and Hugging Face's ViT (it adds a class token).
"""

import vit  # noqa: F401, I001  before PyTorch: it says how threads wait
import csv
import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from peers import MODELS, ordinary_loader
from torch import Tensor

from vit import compute, data
from vit.augment import augment
from vit.checks import check, check_types
from vit.cli import door
from vit.terminal import say
from vit.config import AugmentConfig, ViTConfig
from vit.device import autocast, micro_batches_of, pick_device, precision_dtype


@dataclass
class Settings:
    """Measure images per second beside timm, vit-pytorch and Hugging Face.

    Args:
        dim: width of a token.
        depth: number of blocks.
        heads: head counts to measure, one after another.
        patch_size: side of a patch in pixels.
        mlp_ratio: hidden width of the MLP as a multiple of dim.
        batch_size: images per step.
        precision: fp32 or bf16 (autocast).
        device: auto, cpu, cuda, cuda:1.
        tasks: which of train, infer and pipeline to measure.
        compile: also measure every model under torch.compile, and the pipelines with ours and timm's so.
        workers: processes of the peer's DataLoader; null is one per CPU core, at most 8.
        rounds: how often each is measured; the median counts.
        results: csv file to put the medians into, in the place of older ones of the same; null for none.
    """

    dim: int = 128
    depth: int = 4
    heads: list[int] = field(default_factory=lambda: [1, 4])
    patch_size: int = 4
    mlp_ratio: float = 4.0
    batch_size: int = 250
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "auto"
    tasks: list[Literal["train", "infer", "pipeline"]] = field(default_factory=lambda: ["train", "infer", "pipeline"])
    compile: bool = False
    workers: int | None = None
    rounds: int = 15
    results: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check(self.rounds > 1, "rounds", "2 or more, for a median with quartiles", self.rounds)


Task = Callable[[], None]
# A turn of a pipeline is so many steps, all whose batches are loaded within the turn: what workers prepare during the
# turn of another would be free.
PIPELINE_STEPS = 8


class Bench:
    """The models of one shape on one device, and the tasks to time."""

    def __init__(self, settings: Settings, heads: int) -> None:
        self.settings = settings
        self.config = ViTConfig(
            dim=settings.dim,
            depth=settings.depth,
            heads=heads,
            patch_size=settings.patch_size,
            mlp_ratio=settings.mlp_ratio,
        )
        self.device = pick_device(settings.device)
        self.dtype = precision_dtype(settings.precision, self.device)
        self.autocast = autocast(settings.precision, self.device)
        self.models = {name: make(self.config).to(self.device) for name, make in MODELS.items()}
        if settings.compile:
            for name, make in MODELS.items():
                self.models[f"{name} compiled"] = make(self.config).to(self.device)
                self.models[f"{name} compiled"].compile()
        self.optimizers = {
            name: torch.optim.AdamW(model.parameters(), fused=True) for name, model in self.models.items()
        }
        B = settings.batch_size
        self.x = torch.randn(B, 3, 32, 32, device=self.device)
        self.labels = torch.randint(0, 10, (B,), device=self.device)

    def parts(self, name: str) -> int:
        """Ours works in parts that fit a CPU's cache, as `vit/stepper.py` does; a plain loop does not."""
        if not name.startswith("ours"):
            return 1
        return micro_batches_of(self.settings.batch_size, self.device, self.config.tokens)

    def step(self, name: str, x: Tensor, targets: Tensor) -> None:
        model, parts = self.models[name], self.parts(name)
        model.train()
        for part, target in zip(x.chunk(parts), targets.chunk(parts), strict=True):
            with self.autocast:
                logits = model(part)
            (F.cross_entropy(logits.float(), target, label_smoothing=0.1) / parts).backward()
        self.optimizers[name].step()
        self.optimizers[name].zero_grad()

    @torch.inference_mode()
    def infer(self, name: str) -> None:
        model = self.models[name].eval()
        with self.autocast:
            for part in self.x.chunk(self.parts(name)):
                model(part)

    def tasks(self, task: str) -> dict[str, Task]:
        if task == "train":
            return {name: lambda name=name: self.step(name, self.x, self.labels) for name in self.models}  # type: ignore[misc]
        if task == "infer":
            return {name: lambda name=name: self.infer(name) for name in self.models}  # type: ignore[misc]
        (images, labels), _ = data.load("data")
        workers = min(os.cpu_count() or 1, 8) if self.settings.workers is None else self.settings.workers
        loader = ordinary_loader(images, labels, self.settings.batch_size, PIPELINE_STEPS, workers)
        images, labels = images.to(self.device), labels.to(self.device)

        def pipeline(name: str) -> None:
            if name.startswith("ours"):
                for _ in range(PIPELINE_STEPS):
                    indices = torch.randint(0, len(images), (self.settings.batch_size,), device=self.device)
                    self.step(name, *augment(images[indices], labels[indices], 10, AugmentConfig()))
            else:
                for x, y in loader:
                    self.step(name, x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True))

        names = [name for name in self.models if name.split()[0] in ("ours", "timm")]
        return {name: lambda name=name: pipeline(name) for name in names}  # type: ignore[misc]


def measure(tasks: dict[str, Task], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of each task, interleaved: A B C A B C ..."""
    for task in tasks.values():  # warm-up, and compilation
        for _ in range(3):
            task()
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            compute.synchronize(device)
            start = time.perf_counter()
            task()
            compute.synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak_memory(task: Task, device: torch.device) -> int | None:
    """Bytes that PyTorch has allocated at the peak of a task, on a GPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    task()
    return torch.cuda.max_memory_allocated(device)


def main(settings: Settings) -> dict[str, Any]:
    results = []
    for heads in settings.heads:
        bench = Bench(settings, heads)
        gemm = compute.gemm_flops_per_second(bench.device, bench.dtype)
        say(
            f"\ndim {settings.dim}, depth {settings.depth}, heads {heads}, patch {settings.patch_size}, MLP ratio "
            f"{settings.mlp_ratio:g}, batch {settings.batch_size}, {settings.precision} on {bench.device}; a large "
            f"matrix product runs at {gemm / 1e9:,.0f} GFLOP/s"
        )
        say(f"{'task':10}{'model':23}{'images/s':>10}{'quartiles':>18}{'ours / it':>11}{'of GEMM':>9}{'memory':>10}")
        for task in settings.tasks:
            tasks = bench.tasks(task)
            images = settings.batch_size * (PIPELINE_STEPS if task == "pipeline" else 1)
            seconds = measure(tasks, bench.device, settings.rounds)
            for name, times in seconds.items():
                cost = (compute.forward_flops if task == "infer" else compute.train_flops)(bench.config)
                slow, middle, fast = (
                    images / each for each in statistics.quantiles(times, n=4, method="inclusive")[::-1]
                )
                ratios = [other / mine for other, mine in zip(times, seconds["ours"], strict=True)]
                row: dict[str, Any] = {
                    "heads": heads,
                    "task": task,
                    "model": name,
                    "images_per_second": images / statistics.median(times),
                    "quartiles": [slow, fast],
                    "ours_over_it": statistics.median(ratios),
                    "fraction_of_gemm": cost * middle / gemm,
                    "peak_memory_bytes": peak_memory(tasks[name], bench.device),
                }
                results.append(row)
                memory = "" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**20:7,.0f} MB"
                say(
                    f"{task:10}{name:23}{middle:10,.0f}{f'{slow:,.0f} to {fast:,.0f}':>18}"
                    f"{row['ours_over_it']:10.2f}x{row['fraction_of_gemm']:8.0%} {memory:>10}"
                )
    if settings.results:
        save(Path(settings.results), settings, results, compute.device_name(bench.device))
    return {"settings": dataclasses.asdict(settings), "machine": machine(bench.device), "results": results}


# What a row of the csv file is about.
SHAPE = ("precision", "dim", "depth", "patch_size", "mlp_ratio", "batch_size")
KEY = ("task", *SHAPE, "heads", "library", "compiled")


def save(path: Path, settings: Settings, results: list[dict[str, Any]], device: str) -> None:
    """Put medians into a csv file, over those that are there already."""
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    if path.exists():
        with path.open(newline="") as file:
            rows = {tuple(row[key] for key in KEY): row for row in csv.DictReader(file)}
    for result in results:
        library = result["model"].removesuffix(" compiled")
        compiled = "no" if library == result["model"] else "yes"
        shape = [str(getattr(settings, key)) for key in SHAPE]
        key = (result["task"], *shape, str(result["heads"]), library, compiled)
        speed = f"{result['images_per_second']:.2f}"
        measured = {"images_per_second": speed, "rounds": str(settings.rounds), "device": device}
        rows[key] = dict(zip(KEY, key, strict=True)) | measured
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*KEY, "images_per_second", "rounds", "device"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())


def write_rows(path: str, rows: list[dict[str, Any]]) -> None:
    """A csv file of rows that have the same columns."""
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def machine(device: torch.device) -> dict[str, Any]:
    capability = None if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"device": compute.device_name(device), "capability": capability, "torch": torch.__version__}


if __name__ == "__main__":
    door(main, Settings)
