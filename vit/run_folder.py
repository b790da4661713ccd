"""The folder of one run: taking a name, refusing one in use, and going on where a run stopped."""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from vit.checks import UsageError, one_line
from vit.config import Config, flatten
from vit.files import FULL, atomic
from vit.terminal import say
from vit.yaml_file import read_yaml, to_yaml

if TYPE_CHECKING:
    from torch import Tensor

# What does not change the model that comes out, so that a run on other hardware or in another folder is the same run.
IMMATERIAL = ("name", "device", "runs_dir", "resume", "seeds", "data.root")

STATE = "state.pt"  # what `resume` goes on from

TITLES = {"test/acc": "test accuracy", "best/val_acc": "validation accuracy"}


def new_name() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


@contextmanager
def open_run(config: Config) -> Iterator[tuple[Path, bool]]:
    """Take `runs_dir/name` of named settings for this process while the block runs: the folder, and whether it is new.

    A new run gets a new folder with its `config.yaml`, which goes again if the run is refused before its first step;
    `resume` takes an existing one.

    Raises:
        UsageError: the name is in use, by a finished run or a running process, or was started with other settings, or
            the folder cannot be made.
    """
    folder = Path(config.runs_dir) / str(config.name)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        with refused_by_name(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / ".lock"):  # for a moment: of two that start with one name, one comes first
            if (
                folder.is_dir()
                and not folder.is_symlink()
                and {path.name for path in folder.iterdir()} <= {".lock", ".config.yaml.part"}
            ):
                shutil.rmtree(folder)  # of a process that was killed before it had written its settings
            new = not folder.exists()
            if new:
                create(folder, config)
                if config.resume:
                    say(f"{folder}: nothing to resume, so a new run")
            else:
                check_resumable(folder, config)
            lock.acquire()
    except Timeout:
        raise UsageError(f"name: {folder} is being trained by another process") from None
    try:
        yield folder, new
    except UsageError:
        if new and not (folder / STATE).exists():
            shutil.rmtree(folder)  # or its name would be taken by nothing
        raise
    finally:
        lock.release()


def create(folder: Path, config: Config) -> None:
    with refused_by_name(folder):
        folder.mkdir()
    try:
        with atomic(folder / "config.yaml") as part:
            part.write_text(to_yaml(asdict(config)))
    except OSError:
        shutil.rmtree(folder)
        raise


@contextmanager
def refused_by_name(folder: Path) -> Iterator[None]:
    """What cannot be made for a reason other than a full disk is the fault of the setting that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise
        raise UsageError(f"runs_dir: cannot create {folder} ({error.strerror})") from None


def check_resumable(folder: Path, config: Config) -> None:
    path = folder / "config.yaml"
    if not config.resume:
        go_on = f"go on with it by --config {shlex.quote(str(path))} --resume, or " if path.is_file() else ""
        raise UsageError(f"name: {folder} exists already; {go_on}choose another --name")
    if not path.is_file():
        raise UsageError(f"name: {folder} is not a run folder (it has no config.yaml)")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UsageError(f"{path}: damaged, cannot resume")
    saved = flatten(Config()) | flatten(content)
    for key, value in material(config).items():
        if saved.get(key) == value:
            continue
        go_on = f"--config {path} --resume goes on with its own settings"
        raise UsageError(f"{key}: {folder} was started with {saved.get(key)!r}, not {value!r}; {go_on}")


def material(config: Config) -> dict[str, Any]:
    """The settings that make a run what it is, flat."""
    flat = flatten(config)
    return {key: flat[key] for key in flat if key not in IMMATERIAL and not key.startswith("wandb.")}


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run, with the places where its folder is now, or None if it is not finished."""
    path = folder / "summary.json"
    if not path.exists():
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
        if missing := {"run", "checkpoint", "wandb", accuracy_key(summary)} - summary.keys():
            raise ValueError(f"no {min(missing)}")
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({one_line(error)}); without it --resume evaluates the run again") from None
    places = {"run": str(folder), "checkpoint": str(folder / "best")}
    location = summary["wandb"]
    if location is not None and not location.startswith("http"):
        places["wandb"] = os.path.relpath(folder / "wandb" / Path(location).name)
    return summary | places


def source_commit() -> str | None:
    """The git commit of the code that trains, with `+` if it has changed since; None outside a repository."""
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return f"{commit}+" if git("status", "--porcelain", "--", "vit", "train.py") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def accuracy_key(summary: dict[str, Any]) -> str:
    """The metric that a finished run is known by: test accuracy, or validation's where the test split was not read."""
    return "test/acc" if "test/acc" in summary else "best/val_acc"


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    with atomic(folder / "summary.json") as part:
        part.write_text(json.dumps(summary, indent=2) + "\n")


def write_predictions(folder: Path, predicted: "Tensor", labels: "Tensor") -> None:
    """Keep the predicted and true class of every test image: `test_predictions.csv`, in the order of the split."""
    lines = [f"{guess},{label}" for guess, label in zip(predicted.tolist(), labels.tolist(), strict=True)]
    with atomic(folder / "test_predictions.csv") as part:
        part.write_text("\n".join(["predicted,label", *lines]) + "\n")


def read_correct(folder: Path) -> list[bool] | None:
    """Of every test image whether the finished run classified it right; None where the test split was not read."""
    path = folder / "test_predictions.csv"
    if not path.exists():
        return None
    pairs = (line.split(",") for line in path.read_text().splitlines()[1:])
    return [guess == label for guess, label in pairs]


def read_curve(folder: Path) -> list[tuple[int, float]]:
    """Training FLOPs and validation accuracy of every evaluation."""
    rows = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [(row["compute/train_flops"], row["val/acc"]) for row in rows if "val/acc" in row]
