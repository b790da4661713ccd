"""Whole commands as a user types them, in processes of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

import vit
from vit.cli import parse
from vit.config import Config

ROOT = Path(__file__).parents[2]

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def run(tmp_path: Path, data_root: Path) -> Run:
    """Run a door in an empty working directory, without a terminal."""

    def call(door: str, *arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / door), *arguments]
        return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)

    return call


@pytest.fixture
def tiny(data_root: Path) -> list[str]:
    settings = (
        f"data.root={data_root} data.train_images=200 data.val_images=100 train.epochs=2 train.batch_size=20 "
        "train.log_every=5 model.dim=16 model.depth=2 model.heads=2 model.patch_size=8 device=cpu"
    )
    return [f"--{setting}" for setting in settings.split()]


def refuse(result: subprocess.CompletedProcess, message: str) -> None:
    """One clear line on stderr, exit code 2, nothing on stdout."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert message in lines[0]


class TestTrainEvaluateLoad:
    def test_the_whole_path(self, run: Run, tiny: list[str], tmp_path: Path) -> None:
        """Train offline, evaluate to the same accuracy, load in a new process to the same logits."""
        trained = run("train.py", "--name=first", *tiny)
        assert trained.returncode == 0, trained.stderr
        summary = json.loads(trained.stdout.splitlines()[-1])
        folder = tmp_path / "runs" / "first"
        assert {path.name for path in folder.iterdir()} == {
            "config.yaml", "metrics.jsonl", "summary.json", "test_predictions.csv", "best", "last", "state.pt", "wandb",
            ".lock",
        }  # fmt: skip
        for line in ("test accuracy", "runs/first", "runs/first/best", "wandb sync", "wandb leet"):
            assert line in trained.stderr.replace("-m wandb", "wandb")
        assert "Traceback" not in trained.stderr

        evaluated = run("eval.py", "runs/first")
        assert evaluated.returncode == 0, evaluated.stderr
        result = json.loads(evaluated.stdout.splitlines()[-1])
        assert result["images"] == 10000
        assert result["test/acc"] == summary["test/acc"]
        assert result["test/ece"] == pytest.approx(summary["test/ece"], abs=1e-6)
        assert sum(map(sum, result["confusion"])) == 10000
        assert sum(result["confusion"][i][i] for i in range(10)) == round(result["test/acc"] * 10000)
        assert result["model/params"] == summary["model/params"]

        validated = run("eval.py", "runs/first/best", "--split=val", "--wandb.mode=disabled")
        result = json.loads(validated.stdout.splitlines()[-1])
        assert result["val/acc"] == summary["best/val_acc"]

        code = (
            "import sys, torch, vit; torch.manual_seed(0)\n"
            "print(vit.load(sys.argv[1])(torch.randn(3, 3, 32, 32)).tolist())"
        )
        command = [sys.executable, "-c", code, str(folder)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        logits = [subprocess.check_output(command, env=environment, timeout=120) for _ in range(2)]
        torch.manual_seed(0)
        here = vit.load(folder)(torch.randn(3, 3, 32, 32)).tolist()
        assert json.loads(logits[0]) == json.loads(logits[1]) == here

        offline = sorted((folder / "wandb").glob("offline-run-*"))
        kinds = [wandb_run_record(path).get("job_type") for path in offline]
        assert kinds == ["train", "eval"]

    def test_ctrl_c_then_the_command_it_names(self, tiny: list[str], run: Run, tmp_path: Path) -> None:
        arguments = ["--name=stopped", *tiny, "--train.epochs=200", "--wandb.mode=disabled"]
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        metrics = tmp_path / "runs" / "stopped" / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 130, stderr
        assert stdout == ""
        assert "Traceback" not in stderr
        assert "--config runs/stopped/config.yaml --resume" in stderr.splitlines()[-1]
        before = metrics.read_text()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), "--config", "runs/stopped/config.yaml", "--resume"],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: len(metrics.read_text().splitlines()) > len(before.splitlines()) + 2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
        assert process.returncode == 143
        assert metrics.read_text().startswith(before)


class TestClearErrors:
    def test_compiling_without_a_compiler(
        self, run: Run, tiny: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("CXX", "/no/compiler")
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
        result = run("train.py", "--train.compile", "--wandb.mode=disabled", *tiny)
        assert result.returncode == 2
        assert "train.compile: the model cannot be compiled here" in result.stderr.splitlines()[-1]

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ("--model.headz=1", "model.headz: no such setting; did you mean model.heads?"),
            ("--model.heads=many", "model.heads: expected int or list[int], got many"),
            ("--model.heads=5", "model.heads: expected a divisor of dim 16"),
            ("--model.patch_size=5", "model.patch_size: expected a divisor of image_size 32, got 5"),
            ("--model.pool=max", "model.pool: expected mean or cls, got max"),
            ("--train.epoch=3", "train.epoch: no such setting; did you mean train.epochs?"),
            ("--optim.lr=-1", "optim.lr: expected a number above 0"),
            ("--config=nowhere.yaml", "nowhere.yaml"),
            ("--train.batch_size=500", "train.batch_size: expected at most the 200 training images, got 500"),
            ("--name=../elsewhere", "name: expected a folder name"),
        ],
    )
    def test_settings(self, run: Run, tiny: list[str], tmp_path: Path, argument: str, message: str) -> None:
        refuse(run("train.py", *tiny, argument), message)
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("model:\n  headz: 1\n", "model.headz: no such setting; did you mean model.heads?"),
            ("model:\n  heads: [1, x]\n", "model.heads: expected int or list[int]"),
            ("optimizer: adamw\n", "optimizer: no such setting"),
            ("model: [\n", "bad.yaml: line 2: expected the node content"),
        ],
    )
    def test_config_file(self, run: Run, tmp_path: Path, content: str, message: str) -> None:
        (tmp_path / "bad.yaml").write_text(content)
        refuse(run("train.py", "--config=bad.yaml"), message)
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"model: 3\n", "model: expected settings below it"),
            (b"\xff\xfe\x00", "bad.yaml: not valid YAML"),
            (b"model: [1]\n", "model: expected settings below it"),
        ],
    )
    def test_config_file_of_another_kind(self, run: Run, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "bad.yaml").write_bytes(content)
        refuse(run("train.py", "--config=bad.yaml"), message)
        refuse(run("train.py", "bad.yaml"), "--config bad.yaml")

    def test_read_only_run_folder(self, run: Run, tiny: list[str], tmp_path: Path) -> None:
        arguments = ["--name=kept", *tiny, "--wandb.mode=disabled"]
        assert run("train.py", *arguments).returncode == 0
        folder = tmp_path / "runs" / "kept"
        (folder / "summary.json").unlink()
        mount = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("needs the right to mount a folder read-only")
        try:
            refuse(run("train.py", *arguments, "--resume"), "no access to")
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)

    def test_eval_without_a_checkpoint(self, run: Run, tmp_path: Path) -> None:
        refuse(run("eval.py", "nowhere"), "nowhere: not a checkpoint or run folder")
        refuse(run("eval.py"), "checkpoint")

    def test_output_folder_that_cannot_be_written(self, run: Run, tiny: list[str]) -> None:
        refuse(run("train.py", *tiny, "--runs_dir=/proc/runs"), "runs_dir: cannot create /proc/runs/")

    def test_help_is_quick(self, run: Run) -> None:
        for door in ("train.py", "eval.py"):
            command = [sys.executable, "-X", "importtime", str(ROOT / door), "--help"]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
            assert "--model.heads" in result.stdout or "checkpoint" in result.stdout
            imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines()}
            assert not imported & {"torch", "torchvision", "numpy", "wandb", "timm"}


class TestFullDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        """A file system of 8 MiB."""
        folder = tmp_path / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("needs the right to mount a small tmpfs")
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)

    @pytest.mark.parametrize("free_kib", [0, 4, 8, 600, 1500])
    def test_one_line_and_nothing_half_written(self, run: Run, tiny: list[str], disk: Path, free_kib: int) -> None:
        """The disk fills up at the first file, while logging, at a checkpoint, or at the state."""
        filler = disk / "filler"
        with open(filler, "wb") as file:
            file.write(bytes(shutil.disk_usage(disk).free - free_kib * 1024))
        arguments = ["--name=full", f"--runs_dir={disk}", "--wandb.mode=disabled", *tiny]
        larger = [*arguments, "--model.dim=64", "--train.log_every=1"]
        result = run("train.py", *larger)
        assert result.returncode == 1, result.stderr
        assert "the disk is full" in result.stderr.strip().splitlines()[-1]
        assert "Traceback" not in result.stderr
        assert "Exception ignored" not in result.stderr
        assert not list(disk.rglob("*.part"))
        for line in (disk / "full" / "metrics.jsonl").read_text().splitlines() if (disk / "full").exists() else []:
            json.loads(line)
        filler.unlink()
        finished = run("train.py", *larger, "--resume")
        assert finished.returncode == 0, finished.stderr


class TestConfigs:
    def test_one_head_and_multi_head_differ_in_heads_only(self) -> None:
        one, many = (yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text()) for name in ("one_head", "multi_head"))
        assert one["model"].pop("heads") == 1
        assert many["model"].pop("heads") > 1
        assert one.pop("name") == "one_head"
        assert many.pop("name") == "multi_head"
        assert one == many

    @pytest.mark.parametrize(
        "path", sorted({*(ROOT / "configs").glob("*.yaml")} - {ROOT / "configs/sweep.yaml"}), ids=lambda path: path.stem
    )
    def test_every_config_parses_and_its_header_says_what_to_expect(self, path: Path) -> None:
        assert parse(Config, ["--config", str(path)]).name == path.stem
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        text = " ".join(header)
        assert f"python train.py --config configs/{path.name}" in text
        measured = ("n =", "minutes") if "not yet measured" not in text else ()
        for word in ("test accuracy", "PFLOP", *measured):
            assert word in text, word


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def wandb_run_record(folder: Path) -> dict:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return next(record["run"] for record in map(json.loads, lines) if record["type"] == "run")
