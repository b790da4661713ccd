"""A study: arms x seeds, what is missing trained, one tidy row a run in results.csv.

A study file names what the arms share and how they differ:

    name: heads
    base: configs/quickstart.yaml          # settings of every run
    settings: {train.epochs: 4}            # over the base
    seeds: [0, 1, 2, 3, 4, 5, 6, 7]
    arms:
      one_head: {model.heads: 1}
      four_heads: {model.heads: 4}
    tuning:                                # each arm's own choice, by validation accuracy; the test split is not read
      grid: {optim.lr: [0.01, 0.02, 0.04]}
      seeds: [100]
"""

import csv
import hashlib
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from vit.checkpoint import atomic
from vit.checks import UsageError, check, check_types
from vit.cli import Interrupted, parse, say, stop_signals
from vit.config import CompareConfig, Config, flatten

# What does not change the model that comes out, so that a run on other hardware or from another folder is the same run.
IMMATERIAL = ("name", "device", "runs_dir", "resume", "seeds", "data.root")

# What a row of results.csv holds: which run it is, and what its summary says.
IDENTITY = ("study", "phase", "arm", "choice", "seed", "settings")
MEASURED = (
    "best/val_acc", "test/acc", "test/loss", "test/ece", "train/loss", "model/params", "model/forward_flops",
    "compute/train_flops", "compute/train_seconds", "compute/images_seen", "compute/peak_memory_bytes",
    "compute/energy_joules", "attention/backend", "device", "torch", "commit",
)  # fmt: skip

Row = dict[str, str]


@dataclass
class Tuning:
    """A grid of settings: every combination is tried for every arm, on seeds of its own."""

    grid: dict[str, list[Any]]
    seeds: list[int]

    def __post_init__(self) -> None:
        check_types(self, "tuning.")
        check(bool(self.grid) and all(self.grid.values()), "tuning.grid", "a list of values for each key", self.grid)
        check(bool(self.seeds), "tuning.seeds", "at least one number", self.seeds)

    @property
    def points(self) -> list[dict[str, Any]]:
        """Every combination of the grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]


@dataclass
class Study:
    """What a study file holds."""

    name: str
    base: str
    seeds: list[int]
    arms: dict[str, dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        check_types(self)
        plain = bool(self.name) and not set(self.name) & set("/\\\0")
        check(plain, "name", "a folder name", self.name)
        distinct = bool(self.seeds) and len(set(self.seeds)) == len(self.seeds)
        check(distinct, "seeds", "different numbers, at least one", self.seeds)
        check(bool(self.arms), "arms", "at least one arm", self.arms)
        for arm in self.arms:
            check(not set(arm) & set("/\\\0"), "arms", "names that can be part of a folder name", arm)
        digests = {arm: digest(self.config(arm, {}, 0, "final")) for arm in self.arms}
        for arm, value in digests.items():
            first = next(name for name in digests if digests[name] == value)
            check(first == arm, f"arms.{arm}", "settings that differ from every other arm's", f"those of {first}")
        for point in self.tuning.points if self.tuning else []:
            for arm in self.arms:
                self.config(arm, point, 0, "tuning")

    def config(self, arm: str, choice: dict[str, Any], seed: int, phase: str) -> Config:
        """The settings of one run: base, settings, choice, arm, each over the one before.

        Raises:
            UsageError: one of them is not a setting, or not a possible one.
        """
        tuned = "".join(f"-{key}={value}" for key, value in choice.items()) if phase == "tuning" else ""
        named = {"name": f"{arm}{tuned}-seed{seed}", "seed": seed, "train.test": phase == "final"}
        settings = self.settings | choice | self.arms[arm] | named
        try:
            return parse(Config, [f"--config={self.base}", *overrides(settings)])
        except UsageError as error:
            raise UsageError(f"arm {arm}: {error}") from None

    def runs(self, chosen: dict[str, dict[str, Any]] | None) -> "list[Run]":
        """The runs of the tuning phase or, with the `chosen` point of each arm, the final ones.

        All arms of one seed come before the next seed, so that a study cut short is still balanced.
        """
        if chosen is None:
            points, seeds = (self.tuning.points, self.tuning.seeds) if self.tuning else ([], [])
            plan = [("tuning", arm, point, seed) for seed in seeds for point in points for arm in self.arms]
        else:
            plan = [("final", arm, chosen[arm], seed) for seed in self.seeds for arm in self.arms]
        return [Run(self, *each) for each in plan]


@dataclass(frozen=True)
class Run:
    """One training of a study."""

    study: Study
    phase: str
    arm: str
    choice: dict[str, Any]
    seed: int

    @property
    def config(self) -> Config:
        return self.study.config(self.arm, self.choice, self.seed, self.phase)

    @property
    def key(self) -> tuple[str, ...]:
        return self.phase, self.arm, json.dumps(self.choice), str(self.seed)

    def row(self, summary: dict[str, Any]) -> Row:
        identity = [self.study.name, *self.key, digest(self.config)]
        measured = {key: "" if summary.get(key) is None else str(summary[key]) for key in MEASURED}
        return dict(zip(IDENTITY, identity, strict=True)) | measured


def digest(config: Config) -> str:
    """Of all settings that matter: two runs of one digest train the same model."""
    settings = {k: v for k, v in flatten(config).items() if k not in IMMATERIAL and not k.startswith("wandb.")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


class Results:
    """`results.csv` of a study: the runs that are finished, in the order of the plan."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, ...], Row] = {}
        if path.exists():
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    try:
                        self.rows[tuple(row[key] for key in ("phase", "arm", "choice", "seed"))] = row
                    except KeyError as error:
                        raise UsageError(f"{path}: column {error} is missing") from None

    def missing(self, runs: list[Run]) -> list[Run]:
        """Those that have no row yet.

        Raises:
            UsageError: a row is of a run with other settings than the study now asks for.
        """
        for run in runs:
            row = self.rows.get(run.key)
            if row is not None and row["settings"] != digest(run.config):
                raise UsageError(
                    f"{self.path}: arm {run.arm}, seed {run.seed} was trained with other settings than the study "
                    "now has; name the arm or the study anew, or remove the row"
                )
        return [run for run in runs if run.key not in self.rows]

    def add(self, run: Run, summary: dict[str, Any]) -> None:
        """Add or replace the row of a finished run, in a file that is whole at every moment."""
        self.rows[run.key] = run.row(summary)
        text = io.StringIO()
        writer = csv.DictWriter(text, [*IDENTITY, *MEASURED], lineterminator="\n", extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(self.rows[key] for key in sorted(self.rows, key=lambda key: (*key[:-1], int(key[-1]))))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(self.path) as part:
            part.write_text(text.getvalue())

    def chosen(self, study: Study) -> dict[str, dict[str, Any]]:
        """The point of the grid with the best mean validation accuracy, for each arm; {} where nothing is tuned."""
        if study.tuning is None:
            return {arm: {} for arm in study.arms}

        def accuracy(arm: str, point: dict[str, Any]) -> float:
            tried = [self.rows[run.key] for run in study.runs(None) if (run.arm, run.choice) == (arm, point)]
            return statistics.mean(float(row["best/val_acc"]) for row in tried)

        return {arm: max(study.tuning.points, key=lambda point: accuracy(arm, point)) for arm in study.arms}


def compare(config: CompareConfig) -> dict[str, Any]:
    """Train what is missing of a study and keep a row of every finished run.

    Returns:
        Where the results are and, per arm, how many seeds are done and their mean accuracy.

    Raises:
        UsageError: the study cannot be run, said before any training; or runs failed, said at the end.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    study = load_study(config.study)
    results = Results(Path(config.reports_dir) / study.name / "results.csv")
    results.missing(study.runs(None))
    train_missing(study.runs(None), results, config)
    chosen = results.chosen(study)
    train_missing(study.runs(chosen), results, config)
    arms = {}
    for arm in study.arms:
        rows = [results.rows[run.key] for run in study.runs(chosen) if run.arm == arm]
        accuracies = [float(row["test/acc"]) for row in rows]
        mean = statistics.mean(accuracies)
        std = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        arms[arm] = {"n": len(rows), "test/acc/mean": mean, "test/acc/std": std, "choice": chosen[arm]}
        spread = "" if std is None else f" +- {std:.2%}"
        say(f"{arm:24} {mean:.2%}{spread} (n = {len(rows)}) {json.dumps(chosen[arm]) if chosen[arm] else ''}")
    return {"study": study.name, "results": str(results.path), "arms": arms}


def train_missing(runs: list[Run], results: Results, config: CompareConfig) -> None:
    """Train what has no row, each run a process of its own, `workers` at a time."""
    waiting = results.missing(runs)
    running: dict[subprocess.Popen, Run] = {}
    failed: list[str] = []
    threads = max((os.cpu_count() or 1) // config.workers, 1)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if config.workers > 1 else {})
    done, total = len(runs) - len(waiting), len(runs)
    with stop_signals() as received:
        while running or (waiting and not received):
            while waiting and len(running) < config.workers and not received:
                run = waiting.pop(0)
                say(f"{run.study.name}: {run.config.name} ({done + len(running) + 1} of {total})")
                # A session of its own, so that Ctrl-C reaches it once, through us.
                process = subprocess.Popen(
                    command(run, config), env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
                )
                running[process] = run
            time.sleep(0.1)
            if received and running:
                for process in running:
                    process.send_signal(received[0])
            for process in [process for process in running if process.poll() is not None or received]:
                run = running.pop(process)
                output, _ = process.communicate()
                if process.returncode == 0:
                    results.add(run, json.loads(output.splitlines()[-1]))
                    done += 1
                elif not received:
                    failed.append(f"{run.config.name} (exit code {process.returncode})")
    if received:
        raise Interrupted("stopped, all saved; the same command goes on", 128 + received[0])
    if failed:
        raise UsageError(f"{len(failed)} runs failed, the others are done: {', '.join(failed)}")


def command(run: Run, config: CompareConfig) -> list[str]:
    """train.py with the settings that differ from its defaults."""
    wanted = replace(run.config, device=config.device, runs_dir=f"{config.runs_dir}/{run.study.name}", resume=True)
    wanted.wandb.mode = config.wandb_mode
    default = flatten(Config())
    changed = {key: value for key, value in flatten(wanted).items() if value != default[key]}
    door = Path(__file__).parent.parent / "train.py"
    return [sys.executable, str(door), *overrides(changed)]


def overrides(settings: dict[str, Any]) -> list[str]:
    """Settings as `train.py` takes them on its command line."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def load_study(path: str) -> Study:
    """Read and check a study file.

    Raises:
        UsageError: it cannot be read, or names something that is not there; before any training.
    """
    try:
        content = yaml.load(Path(path).read_text(), UniqueKeys)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML ({error})") from None
    try:
        if not isinstance(content, dict):
            raise UsageError("expected keys and values")
        if isinstance(content.get("tuning"), dict):
            content["tuning"] = build(Tuning, content["tuning"], "tuning.")
        return build(Study, content)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def build(kind: type, content: dict[str, Any], group: str = "") -> Any:
    """A dataclass from the mapping of a study file."""
    known = {each.name: each for each in fields(kind)}
    for key in content:
        check(key in known, group + str(key), f"one of {', '.join(known)}", key)
    for key, each in known.items():
        given = key in content or each.default is not MISSING or each.default_factory is not MISSING
        check(given, group + key, "a value", None)
    return kind(**content)


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not the last one silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
        for name, count in names.items():
            if count > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)
