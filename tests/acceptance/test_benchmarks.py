"""The benchmarks run from the command line, at a size that measures nothing, and print what they promise."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vit import compute
from vit.checkpoint import save_checkpoint
from vit.config import Config, ViTConfig
from vit.model import VisionTransformer

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path) -> dict[str, Any]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def here(tmp_path: Path, data_root: Path) -> Path:
    (tmp_path / "data").symlink_to(data_root.resolve())
    return tmp_path


def test_throughput_takes_ours_and_every_peer_in_turn(here: Path) -> None:
    shape = ["--dim=16", "--depth=1", "--heads=[1, 2]", "--batch_size=20", "--rounds=2", "--workers=0"]
    older = "train,fp32,16,1,4,4.0,20,{heads},timm,no,0.10,3,old machine\n"  # one head is measured anew, eight are not
    committed = (ROOT / "benchmarks/results/throughput.csv").read_text().splitlines()[0]
    (here / "speed.csv").write_text(committed + "\n" + older.format(heads=1) + older.format(heads=8))
    result = run(str(ROOT / "benchmarks/throughput.py"), *shape, "--results=speed.csv", cwd=here)
    models = ["ours", "timm", "vit-pytorch", "Hugging Face"]
    expected = [(task, model) for task in ("train", "infer") for model in models]
    expected += [("pipeline", "ours"), ("pipeline", "timm")]
    for heads in (1, 2):
        rows = [row for row in result["results"] if row["heads"] == heads]
        assert [(row["task"], row["model"]) for row in rows] == expected
        assert all(row["images_per_second"] > 0 for row in rows)
        assert all(row["ours_over_it"] == 1 for row in rows if row["model"] == "ours")
    with (here / "speed.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert [row["images_per_second"] for row in kept if row["heads"] == "8"] == ["0.10"]
    saved = {(row["heads"], row["task"], row["library"]): row["images_per_second"] for row in kept}
    for row in result["results"]:
        assert saved[str(row["heads"]), row["task"], row["model"]] == f"{row['images_per_second']:.2f}"
    assert len(kept) == len(result["results"]) + 1


def test_scaling_counts_beside_what_it_measures(here: Path) -> None:
    options = ["--sweeps=[heads, depth]", "--paths=[auto, products, math]", "--batch_tokens=64", "--rounds=1"]
    result = run(str(ROOT / "benchmarks/scaling.py"), *options, "--plot=scaling.png", cwd=here)
    by_heads = [row for row in result["rows"] if row["sweep"] == "heads"]
    assert len({row["train_mflop_per_image"] for row in by_heads}) == 1  # equal cost on paper for every head count
    assert len(by_heads) == 3 * 5
    assert (here / "scaling.png").stat().st_size > 10_000


def test_a_window_is_measured_beside_whole_images(here: Path) -> None:
    (here / "tiny.yaml").write_text(
        "name: tiny\nmodel: {dim: 16, depth: 1, heads: 1}\ndata: {train_images: 500}\ntrain: {batch_size: 50}\n"
    )
    result = run(str(ROOT / "benchmarks/window.py"), "tiny.yaml", "--rounds=2", "--results=window.csv", cwd=here)
    (row,) = result["results"]
    whole, part = (compute.train_flops(ViTConfig(image_size=side, dim=16, depth=1, heads=1)) for side in (32, 24))
    assert row["flops_ratio"] == pytest.approx(part / whole, abs=1e-4)
    assert min(row["whole_images_per_second"], row["window_images_per_second"], row["time_ratio"]) > 0
    with (here / "window.csv").open(newline="") as file:
        assert [each["config"] for each in csv.DictReader(file)] == ["tiny"]


def test_speedrun_reports_seconds_and_flops_to_an_accuracy(here: Path) -> None:
    (here / "tiny.yaml").write_text(
        "name: tiny\nmodel: {dim: 16, depth: 1, heads: 1, patch_size: 8}\n"
        "data: {train_images: 500, val_images: 100}\ntrain: {epochs: 1, batch_size: 50, test: false}\nseeds: [3, 4]\n"
    )
    options = ["--recipe=tiny.yaml", "--seeds=[0, 1]", "--device=cpu"]
    missed = run(str(ROOT / "benchmarks/speedrun.py"), *options, "--target=0.99", cwd=here)
    assert not missed["reached"]
    assert [row["seed"] for row in missed["runs"]] == [0, 1]
    # Finished, so not trained again.
    again = run(str(ROOT / "benchmarks/speedrun.py"), *options, "--target=0.01", cwd=here)
    assert again["reached"]
    assert [row["train_seconds"] for row in again["runs"]] == [row["train_seconds"] for row in missed["runs"]]


def test_export_measures_each_runtime_at_each_batch_size(here: Path) -> None:
    config = Config(name="tiny", model=ViTConfig(dim=16, depth=1, heads=1, patch_size=8))
    save_checkpoint(here / "tiny", VisionTransformer(config.model), config, {})
    result = run(str(ROOT / "benchmarks/export.py"), "tiny", "--batch_sizes=[1, 3]", "--rounds=2", cwd=here)
    expected = [(size, what) for size in (1, 3) for what in ("eager", "onnx file", "torch file")]
    assert [(row["batch_size"], row["what"]) for row in result["results"]] == expected
    assert all(row["milliseconds"] > 0 for row in result["results"])
    assert all(row["eager_over_it"] == 1 for row in result["results"] if row["what"] == "eager")
