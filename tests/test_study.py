"""A study trains exactly what is missing, chooses without the test split, and refuses what it could not compare."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from vit.checks import UsageError
from vit.study import Results, Run, digest, load_study

ROOT = Path(__file__).parents[1]


@pytest.fixture
def write(tmp_path: Path, data_root: Path) -> Any:
    """Write a study file of two arms and two seeds, seconds in all; keys can be overridden."""
    base = {
        "model": {"dim": 16, "depth": 1, "heads": 2, "patch_size": 8},
        "data": {"root": str(data_root), "train_images": 100, "val_images": 50},
        "train": {"epochs": 1, "batch_size": 50},
        "wandb": {"mode": "disabled"},
        "device": "cpu",
    }
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    study = {
        "name": "tiny",
        "base": str(tmp_path / "base.yaml"),
        "seeds": [0, 1],
        "arms": {"one": {"model.heads": 1}, "four": {"model.heads": 4}},
    }

    def make(**changes: Any) -> str:
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study | changes, sort_keys=False))
        return str(tmp_path / "study.yaml")

    return make


def compare(path: str, *options: str) -> subprocess.Popen:
    folder = Path(path).parent
    command = [sys.executable, str(ROOT / "compare.py"), path, "--wandb_mode=disabled", *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def rows(path: str) -> list[dict[str, str]]:
    with (Path(path).parent / "reports/tiny/results.csv").open() as file:
        return list(csv.DictReader(file))


# What differs between two trainings of the same thing.
NOISE = {"compute/train_seconds", "compute/peak_memory_bytes"}


def material(path: str) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in NOISE} for row in rows(path)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [0]}, "seed: expected one of name, base, seeds, arms"),
        ({"seeds": [0, 0]}, "seeds: expected different numbers"),
        ({"seeds": "all"}, "seeds: expected list[int]"),
        ({"arms": {}}, "arms: expected at least one arm"),
        ({"arms": {"one": {"model.head": 1}}}, "arm one: model.head: no such setting; did you mean model.heads?"),
        ({"arms": {"one": {"model.heads": 3}}}, "arm one: model.heads: expected a divisor of dim 16"),
        ({"arms": {"a/b": {}}}, "arms: expected names that can be part of a folder name"),
        (
            {"arms": {"one": {"model.heads": 1}, "uno": {"model.heads": 1}}},
            "arms.uno: expected settings that differ from every other arm's, got 'those of one'",
        ),
        ({"base": "nowhere.yaml"}, "arm one: --config: there is no file nowhere.yaml"),
        ({"tuning": {"grid": {"optim.lr": [0.1, -1]}, "seeds": [9]}}, "optim.lr: expected a number above 0"),
        ({"tuning": {"grid": {}, "seeds": [9]}}, "tuning.grid: expected a list of values for each key"),
        ({"tuning": {"grid": {"optim.lr": [0.1]}}}, "tuning.seeds: expected a value"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(write: Any, changes: dict, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        load_study(write(**changes))
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_arm_named_twice_is_refused(write: Any) -> None:
    path = Path(write())
    path.write_text("name: tiny\nbase: b\nseeds: [0]\narms:\n  one: {model.heads: 1}\n  one: {model.heads: 2}\n")
    with pytest.raises(UsageError, match="one is given twice"):
        load_study(str(path))


def test_arms_differ_in_what_they_name_alone_and_seeds_are_paired(write: Any) -> None:
    study = load_study(write())
    runs = study.runs({"one": {}, "four": {}})
    assert [(run.seed, run.arm) for run in runs] == [(0, "one"), (0, "four"), (1, "one"), (1, "four")]
    assert [run.config.seed for run in runs] == [0, 0, 1, 1]
    one, four = runs[0].config, runs[1].config
    assert (one.model.heads, four.model.heads) == (1, 4)
    one.model.heads = 4
    assert digest(one) == digest(four)  # the name is not a setting


def test_each_arm_gets_its_own_best_point_by_validation_accuracy(write: Any, tmp_path: Path) -> None:
    grid = {"optim.lr": [0.01, 0.02]}
    study = load_study(write(tuning={"grid": grid, "seeds": [7, 8]}))
    assert all(not run.config.train.test for run in study.runs(None))  # the test split plays no part in choosing
    results = Results(tmp_path / "results.csv")
    accuracy = {
        ("one", 0.01): (0.5, 0.7),
        ("one", 0.02): (0.55, 0.6),
        ("four", 0.01): (0.5, 0.5),
        ("four", 0.02): (0.1, 1),
    }
    for run in study.runs(None):
        value = accuracy[run.arm, run.choice["optim.lr"]][run.seed - 7]
        results.add(run, {"best/val_acc": value})
    chosen = results.chosen(study)
    assert chosen == {"one": {"optim.lr": 0.01}, "four": {"optim.lr": 0.02}}
    final = study.runs(chosen)
    assert all(run.config.train.test for run in final)
    assert {run.arm: run.config.optim.lr for run in final} == {"one": 0.01, "four": 0.02}


def test_a_row_of_other_settings_is_not_taken_for_this_study(write: Any, tmp_path: Path) -> None:
    before, results = load_study(write()), Results(tmp_path / "results.csv")
    run = before.runs({"one": {}, "four": {}})[0]
    results.add(run, {"test/acc": 0.5})
    after = load_study(write(settings={"train.epochs": 2}))
    with pytest.raises(UsageError, match="arm one, seed 0 was trained with other settings"):
        Results(tmp_path / "results.csv").missing(after.runs({"one": {}, "four": {}}))
    assert [each.key for each in Results(tmp_path / "results.csv").missing([run])] == []


def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_rows(write: Any, tmp_path: Path) -> None:
    path = write()
    stdout, stderr = compare(path).communicate(timeout=200)
    assert stdout, stderr
    assert {arm: done["n"] for arm, done in json.loads(stdout.splitlines()[-1])["arms"].items()} == {
        "one": 2,
        "four": 2,
    }
    expected = material(path)
    assert [(row["arm"], row["seed"]) for row in expected] == [("four", "0"), ("four", "1"), ("one", "0"), ("one", "1")]
    assert all(0 < float(row["test/acc"]) < 1 for row in expected)

    # Finished: nothing is trained again, even without the run folders.
    (tmp_path / "runs").rename(tmp_path / "first")
    compare(path).communicate(timeout=60)
    assert not (tmp_path / "runs").exists()

    (tmp_path / "reports").rename(tmp_path / "first_reports")
    stopped = compare(path)
    while not (tmp_path / "runs/tiny/four-seed0").exists():
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    _, stderr = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, stderr
    assert "the same command goes on" in stderr.splitlines()[-1]
    assert compare(path, "--workers=2").communicate(timeout=200)[0]
    assert material(path) == expected


def test_failed_runs_are_named_and_the_others_done(write: Any) -> None:
    path = write(seeds=[0], arms={"wild": {"optim.name": "adamw", "optim.lr": 1e30, "optim.clip_norm": 0}, "tame": {}})
    process = compare(path)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 2
    assert stderr.splitlines()[-1] == "compare.py: 1 runs failed, the others are done: wild-seed0 (exit code 2)"
    assert [row["arm"] for row in rows(path)] == ["tame"]


def test_run_names_are_distinct(write: Any) -> None:
    study = load_study(write(tuning={"grid": {"optim.lr": [0.01, 0.02]}, "seeds": [0]}))
    runs: list[Run] = study.runs(None) + study.runs({arm: {"optim.lr": 0.01} for arm in study.arms})
    names = [run.config.name for run in runs]
    assert len(set(names)) == len(names) == 8
