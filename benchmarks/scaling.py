"""How the time and memory of a training step grow with tokens, width, depth and heads, per attention path:

    python benchmarks/scaling.py --plot=docs/scaling.png

One thing varies at a time around a base shape; every point is forward, loss and backward of a batch of about the same
number of tokens. Beside the measured time stands the closed-form FLOP count, so that what the count leaves out shows.
"""

import vit  # noqa: F401, I001  before PyTorch: it says how threads wait
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from throughput import write_rows
from torch.nn.attention import SDPBackend, sdpa_kernel

from vit import compute
from vit.checks import UsageError, check, check_types
from vit.cli import door
from vit.terminal import say
from vit.config import ViTConfig
from vit.device import autocast, pick_device, precision_dtype
from vit.model import VisionTransformer

# What varies, and the attention heads at which it does: one head and four stand side by side.
SWEEPS: dict[str, list[ViTConfig]] = {
    "tokens": [ViTConfig(patch_size=patch, heads=heads) for heads in (1, 4) for patch in (8, 4, 2, 1)],
    "width": [ViTConfig(dim=dim, heads=heads) for heads in (1, 4) for dim in (64, 128, 192, 384)],
    "depth": [ViTConfig(depth=depth, heads=heads) for heads in (1, 4) for depth in (2, 4, 8)],
    "heads": [ViTConfig(heads=heads) for heads in (1, 2, 4, 8, 16)],
}
PATHS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass
class Settings:
    """Measure how a training step scales.

    Args:
        sweeps: what to vary.
        paths: attention paths: auto (what training uses), products (two matrix products and a softmax), or a kernel of
            PyTorch's (flash, efficient, cudnn, math).
        precision: fp32 or bf16 (autocast).
        device: auto, cpu, cuda, cuda:1.
        batch_tokens: tokens in a batch.
        rounds: how often each point is measured, all in turn; the median counts.
        plot: picture to write; null for none.
        results: csv file to write the medians to; null for none.
    """

    sweeps: list[Literal["tokens", "width", "depth", "heads"]] = field(default_factory=lambda: list(SWEEPS))  # type: ignore[arg-type]
    paths: list[str] = field(default_factory=lambda: ["auto"])
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "auto"
    batch_tokens: int = 4096
    rounds: int = 7
    plot: str | None = None
    results: str | None = None

    def __post_init__(self) -> None:
        check_types(self)
        check(self.rounds > 0, "rounds", "a number above 0", self.rounds)
        known = {"auto", "products", *PATHS}
        check(bool(self.paths) and known >= set(self.paths), "paths", f"some of {', '.join(sorted(known))}", self.paths)


@contextlib.contextmanager
def attention_path(name: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if name != "auto":
            stack.enter_context(patch("vit.model.plain_products", lambda *_: name == "products"))
        if name in PATHS:
            stack.enter_context(sdpa_kernel(PATHS[name]))
        yield


class Point:
    """One shape with one attention path."""

    def __init__(self, sweep: str, config: ViTConfig, path: str, settings: Settings, device: torch.device) -> None:
        self.sweep, self.config, self.path, self.device = sweep, config, path, device
        self.autocast = autocast(settings.precision, device)
        self.batch_size = max(settings.batch_tokens // config.tokens, 1)
        self.model = VisionTransformer(config).to(device)
        self.x = torch.randn(self.batch_size, 3, 32, 32, device=device)
        self.labels = torch.randint(0, 10, (self.batch_size,), device=device)
        self.seconds: list[float] = []

    def step(self) -> None:
        with attention_path(self.path):
            with self.autocast:
                logits = self.model(self.x)
            F.cross_entropy(logits.float(), self.labels).backward()
        self.model.zero_grad()

    def time(self) -> None:
        compute.synchronize(self.device)
        start = time.perf_counter()
        self.step()
        compute.synchronize(self.device)
        self.seconds.append(time.perf_counter() - start)

    def row(self) -> dict[str, Any]:
        row = {
            "sweep": self.sweep,
            "path": self.path,
            "tokens": self.config.tokens,
            "width": self.config.dim,
            "depth": self.config.depth,
            "heads": self.config.block_heads[0],
            "batch_size": self.batch_size,
            "train_mflop_per_image": compute.train_flops(self.config) / 1e6,
            "microseconds_per_image": 1e6 * statistics.median(self.seconds) / self.batch_size,
            "peak_memory_bytes": None,
        }
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self.step()
            row["peak_memory_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return row


def main(settings: Settings) -> dict[str, Any]:
    device = pick_device(settings.device)
    gemm = compute.gemm_flops_per_second(device, precision_dtype(settings.precision, device))
    rows = []
    for sweep in settings.sweeps:
        points = [Point(sweep, config, path, settings, device) for path in settings.paths for config in SWEEPS[sweep]]
        for point in points:  # warm-up
            try:
                point.step()
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise UsageError(
                    f"paths: {point.path} does not run with {settings.precision} on {device} ({reason})"
                ) from None
        for _ in range(settings.rounds):
            for point in points:
                point.time()
        say(f"\n{sweep}, {settings.precision} on {device}; a large matrix product runs at {gemm / 1e9:,.0f} GFLOP/s")
        columns = (("path", 9), ("tokens", 8), ("width", 7), ("depth", 7), ("heads", 7), ("MFLOP", 9), ("us/image", 10))
        say("".join(f"{title:>{width}}" for title, width in (*columns, ("of GEMM", 9), ("memory", 10))))
        for row in [point.row() for point in points]:
            rows.append(row)
            fraction = row["train_mflop_per_image"] * 1e12 / row["microseconds_per_image"] / gemm
            memory = "" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**20:,.0f} MB"
            say(
                f"{row['path']:>9}{row['tokens']:8}{row['width']:7}{row['depth']:7}{row['heads']:7}"
                f"{row['train_mflop_per_image']:9.1f}{row['microseconds_per_image']:10.0f}{fraction:9.0%}{memory:>10}"
            )
    if settings.plot is not None:
        plot(rows, settings, settings.plot)
    if settings.results is not None:
        where = {"precision": settings.precision, "rounds": settings.rounds, "device": compute.device_name(device)}
        write_rows(settings.results, [row | where for row in rows])
    return {"settings": dataclasses.asdict(settings), "gemm_flops_per_second": gemm, "rows": rows}


def plot(rows: list[dict[str, Any]], settings: Settings, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(settings.sweeps), figsize=(4 * len(settings.sweeps), 3.6), squeeze=False)
    for axis, sweep in zip(axes[0], settings.sweeps, strict=True):
        of_sweep = [row for row in rows if row["sweep"] == sweep]
        lines = sorted({(row["path"], 0 if sweep == "heads" else row["heads"]) for row in of_sweep})
        for attention, heads in lines:
            line = [row for row in of_sweep if row["path"] == attention and heads in (0, row["heads"])]
            name = {0: "measured", 1: "1 head"}.get(heads, f"{heads} heads")
            label = name if settings.paths == ["auto"] else f"{name}, {attention}"
            axis.plot([row[sweep] for row in line], [row["microseconds_per_image"] for row in line], "o-", label=label)
        first = [row for row in of_sweep if (row["path"], row["heads"]) == (of_sweep[0]["path"], of_sweep[0]["heads"])]
        flops = of_sweep if sweep == "heads" else first
        flops = [row for row in flops if row["path"] == of_sweep[0]["path"]]
        scale = flops[0]["microseconds_per_image"] / flops[0]["train_mflop_per_image"]
        axis.plot(
            [row[sweep] for row in flops],
            [row["train_mflop_per_image"] * scale for row in flops],
            "k--",
            label="FLOPs (scaled to the first point)",
        )
        axis.set(xscale="log", yscale="log", xlabel=sweep, ylabel="microseconds per image")
        axis.xaxis.set_major_formatter("{x:g}")
        ticks = sorted({row[sweep] for row in of_sweep})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    door(main, Settings)
