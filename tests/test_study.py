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

from vit import workers
from vit.checks import UsageError
from vit.compare import summaries
from vit.results import Results, unpack
from vit.run_folder import material
from vit.study import Run
from vit.study_file import load_study
from vit.yaml_file import UniqueKeys

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
    command = [sys.executable, str(ROOT / "compare.py"), path, *options]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def rows(path: str) -> list[dict[str, str]]:
    with (Path(path).parent / "reports/tiny/results.csv").open() as file:
        return list(csv.DictReader(file))


# What differs between two trainings of the same thing.
NOISE = {
    "compute/images_per_second",
    "compute/train_seconds",
    "compute/peak_memory_bytes",
    "inference/batch_1_seconds",
    "inference/batch_256_seconds",
    "device",
}


def study_rows(path: str) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in NOISE} for row in rows(path)]


CLAIM = {"aspect": "cost", "claim": "dear", "test": "it is", "comparison": "four against one", "expects": "more"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [0]}, "seed: expected one of name, base, seeds, arms"),
        ({"seeds": [0, 0]}, "seeds: expected different numbers"),
        ({"seeds": [0, -1]}, "seeds: expected different numbers, 0 or more"),
        ({"seeds": "all"}, "seeds: expected list[int]"),
        ({"name": ".."}, "name: expected a folder name"),
        ({"arms": {}}, "arms: expected at least one arm"),
        ({"arms": {"one": {"model.head": 1}}}, "arm one: model.head: no such setting; did you mean model.heads?"),
        ({"arms": {"one": {"model.heads": 3}}}, "arm one: model.heads: expected a divisor of dim 16"),
        ({"arms": {"a/b": {}}}, "arms: expected a folder name"),
        ({"arms": {"one": {"seed": 3}}}, "seed: expected a setting that the study does not make itself"),
        ({"settings": {"train.epoch": 1}}, "settings: train.epoch: no such setting; did you mean train.epochs?"),
        ({"settings": {"train.test": False}}, "train.test: expected a setting that the study does not make itself"),
        (
            {"arms": {"one": {"model.heads": 1}, "uno": {"model.heads": 1}}},
            "arms.uno: expected settings that differ from every other arm's, got 'those of one'",
        ),
        (
            {"arms": {"four": {"model.heads": 4}, "each": {"model.heads": [4]}}},
            "arms.each: expected settings that differ",
        ),
        (
            {"arms": {"four": {"model.heads": 4}, "said": {"model.heads": 4, "model.head_dim": 4}}},
            "arms.said: expected settings that differ from every other arm's, got 'those of four'",
        ),
        ({"arms": {"here": {"wandb.mode": "offline"}, "there": {}}}, "arms.there: expected settings that differ"),
        (
            {"comparisons": {"a": ["one", "four"], "b": ["four", "one"]}},
            "comparisons.b: expected another pair than that of a",
        ),
        ({"headline": "gain"}, "headline: expected one of four against one, got 'gain'"),
        ({"base": "nowhere.yaml"}, "base: nowhere.yaml: cannot be read (No such file or directory)"),
        ({"tuning": {"grid": {"optim.lr": [0.1, -1]}, "seeds": [9]}}, "optim.lr: expected a number above 0"),
        ({"tuning": {"grid": {"optim.lr": [0.1, 0.1]}, "seeds": [9]}}, "tuning.grid.optim.lr: expected different"),
        (
            {"tuning": {"grid": {"optim.lr": [0.1]}, "seeds": [1, 9]}},
            "tuning.seeds: expected seeds that no final run has",
        ),
        (
            {"arms": {"one": {"config": "configs/best.yaml"}, "two": {}}},
            "config: expected a setting that the study does not make itself",
        ),
        ({"tuning": {"grid": {}, "seeds": [9]}}, "tuning.grid: expected a list of values for each key"),
        ({"tuning": {"grid": {"model.heads": [1]}, "seeds": [9]}}, "arms.one: expected settings that are not tuned"),
        ({"tuning": {"grid": {"optim.lr": [0.1]}}}, "tuning.seeds: expected a value"),
        (
            {"tuning": {"grid": {"optim.lr": [0.1]}, "seeds": [9]}, "settings": {"data.val_images": 0}},
            "arm one: data.val_images: expected above 0, as validation chooses what is tuned, got 0",
        ),
        (
            {"tuning": {"grid": {"optim.lr": [0.1]}, "arms": {"two": {"optim.lr": [0.2]}}, "seeds": [9]}},
            "tuning.arms.two: expected an arm (one, four)",
        ),
        ({"comparisons": {"gain": ["one", "two"]}}, "comparisons.gain: expected two different ones of one, four"),
        ({"comparisons": {"gain": ["one", "one"]}}, "comparisons.gain: expected two different ones"),
        (
            {"interactions": {"twist": ["gain", "loss"]}},
            "interactions.twist: expected two different ones of four against",
        ),
        ({"margin": float("inf")}, "margin: expected a number of percentage points above 0, got inf"),
        ({"claims": [CLAIM | {"margin": float("inf")}]}, "claims[0].margin: expected a number above 0, got inf"),
        ({"tuning": {"grid": {"optim.lr": [0.1, "0.1"]}, "seeds": [9]}}, "tuning.grid.optim.lr: expected different"),
        ({"margin": 0}, "margin: expected a number of percentage points above 0"),
        ({"claims": [CLAIM | {"comparison": "gain"}]}, "claims[0].comparison: expected one of four against one"),
        ({"claims": [CLAIM | {"expects": "better"}]}, "claims[0].expects: expected more or less or same"),
        ({"claims": [CLAIM, CLAIM | {"effect": 1}]}, "claims[1].effect: expected one of aspect, claim, test"),
        ({"claims": [CLAIM]}, "seeds: expected at least 6, or no test of 1 can find a difference, got [0, 1]"),
        (
            {"seeds": list(range(6)), "claims": [CLAIM, CLAIM | {"metric": "train/loss"}]},
            "seeds: expected at least 7, or no test of 2 can find a difference",
        ),
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
    with pytest.raises(UsageError, match=r"study\.yaml: line 6: one is given twice$"):
        load_study(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: a\n? [1, 2]\n: b\n", r"line 2: expected a word as key"),
        ("name: a\narms: &loop\n  one: *loop\n", r"Circular reference detected"),
        ("name: 2026-11-28\n", r"date is not JSON serializable"),
        ("name: 2026-13-28\n", r"not valid YAML \(month must be in 1..12"),
    ],
)
def test_a_file_that_is_no_study_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as refusal:
        load_study(str(path))
    assert str(refusal.value).startswith(f"{path}: ")
    assert "\n" not in str(refusal.value)


def test_1e_3_is_a_number(write: Any) -> None:
    path = Path(write(tuning={"grid": {"optim.lr": [0.5]}, "seeds": [7]}))
    path.write_text(path.read_text().replace("0.5", "1e-3"))
    assert load_study(str(path)).points("one") == [{"optim.lr": 0.001}]
    assert yaml.load("1e-3_adamw: 1e-3 against 1e-2", UniqueKeys) == {"1e-3_adamw": "1e-3 against 1e-2"}


def test_arms_differ_in_what_they_name_alone_and_seeds_are_paired(write: Any) -> None:
    runs = load_study(write()).final_runs({"one": {}, "four": {}})
    # Seed by seed, each beginning with another arm.
    assert [(run.seed, run.arm) for run in runs] == [(0, "one"), (0, "four"), (1, "four"), (1, "one")]
    assert [run.config.seed for run in runs] == [0, 0, 1, 1]
    one, four = (material(run.config) for run in runs[:2])
    assert {key: (one[key], four[key]) for key in one if one[key] != four[key]} == {"model.heads": (1, 4)}


def test_the_base_file_is_read_once(write: Any, tmp_path: Path) -> None:
    study = load_study(write())
    (tmp_path / "base.yaml").write_text("model: {dim: 32}\n")  # an edit while a study runs
    assert {run.config.model.dim for run in study.final_runs({"one": {}, "four": {}})} == {16}


def test_each_arm_gets_its_own_best_point_by_validation_accuracy(write: Any, tmp_path: Path) -> None:
    study = load_study(write(tuning={"grid": {"optim.lr": [0.01, 0.02]}, "seeds": [7, 8]}))
    tuning = study.tuning_runs()
    assert not any(run.config.train.test for run in tuning)  # the test split plays no part in choosing
    results = Results(tmp_path / "results.csv", study)
    accuracies = {("one", 0.01): (0.5, 0.7), ("one", 0.02): (0.55, 0.6), ("four", 0.01): (0.5, 0.5)}
    for run in tuning:
        measured = accuracies.get((run.arm, run.choice["optim.lr"]))
        # Four heads at 0.02 diverged for one seed, so that this point is out however good the other was.
        summary = (
            {"best/val_acc": measured[run.seed - 7]} if measured else {"best/val_acc": 0.9} if run.seed == 7 else {}
        )
        results.add(run, summary)
    chosen = Results(tmp_path / "results.csv", study).chosen()
    assert chosen == {"one": {"optim.lr": 0.01}, "four": {"optim.lr": 0.01}}
    final = study.final_runs(chosen)
    assert all(run.config.train.test for run in final)
    assert {run.arm: run.config.optim.lr for run in final} == {"one": 0.01, "four": 0.01}


def test_a_row_of_other_settings_is_not_taken_for_this_study(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    before = load_study(write())
    run = before.final_runs({"one": {}, "four": {}})[0]
    Results(path, before).add(run, {"test/acc": 0.5})
    after = load_study(write(settings={"train.epochs": 2}))
    with pytest.raises(UsageError, match=r"arm one, seed 0 was trained with train\.epochs 1, not 2"):
        Results(path, after).missing(after.final_runs({"one": {}, "four": {}}))
    assert Results(path, before).missing([run]) == []


def test_a_setting_that_came_later_leaves_old_rows_valid(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    study = load_study(write())
    run = study.final_runs({"one": {}, "four": {}})[0]
    Results(path, study).add(run, {"test/acc": 0.5})
    path.write_text(path.read_text().replace('""optim.ema"": 0.0, ', ""))
    assert Results(path, study).missing([run]) == []


def test_a_changed_choice_does_not_leave_an_arm_with_two_final_runs_of_a_seed(write: Any, tmp_path: Path) -> None:
    study = load_study(write(tuning={"grid": {"optim.lr": [0.01, 0.02]}, "seeds": [7]}))
    results = Results(tmp_path / "results.csv", study)
    first, second = (study.final_runs({"one": {"optim.lr": lr}, "four": {"optim.lr": lr}})[0] for lr in (0.01, 0.02))
    assert first.config.name != second.config.name
    results.add(first, {"test/acc": 0.5})
    with pytest.raises(UsageError, match=r"was trained with optim\.lr 0\.01, not 0\.02"):
        results.missing([second])


def test_stopped_or_killed_and_started_again_it_ends_with_the_same_rows(write: Any, tmp_path: Path) -> None:
    path = write()
    stdout, stderr = compare(path).communicate(timeout=200)
    assert stdout, stderr
    arms = json.loads(stdout.splitlines()[-1])["arms"]
    assert {arm: done["n"] for arm, done in arms.items()} == {"one": 2, "four": 2}
    expected = study_rows(path)
    assert [(row["arm"], row["seed"]) for row in expected] == [("four", "0"), ("four", "1"), ("one", "0"), ("one", "1")]
    for row in expected:
        correct = unpack(row["test/correct"])
        assert 0 < correct.sum() == pytest.approx(10000 * float(row["test/acc"]))  # image by image
        assert json.loads(row["curve"]) == [[int(row["compute/train_flops"]), float(row["best/val_acc"])]]

    # Finished: nothing is trained again, even without the run folders.
    (tmp_path / "runs").rename(tmp_path / "first")
    again = compare(path)
    assert json.loads(again.communicate(timeout=60)[0])["arms"] == arms
    assert not (tmp_path / "runs").exists()

    def started(name: str) -> subprocess.Popen:
        process = compare(path)
        while not (tmp_path / "runs/studies/tiny" / name / "config.yaml").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        return process

    (tmp_path / "reports").rename(tmp_path / "first_reports")
    stopped = started("one-final-seed0")
    stopped.send_signal(signal.SIGINT)
    _, stderr = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, stderr
    assert "the same command goes on" in stderr.splitlines()[-1]
    assert "train.py" not in stderr  # what the training says of itself is in its log

    killed = started("four-final-seed0")
    killed.kill()  # the training it started lives on, and the next command waits for it
    killed.wait()
    assert compare(path).communicate(timeout=200)[0]
    assert study_rows(path) == expected


def test_an_arm_may_be_tuned_over_a_grid_of_its_own(write: Any) -> None:
    """An optimizer's learning rates are not another's."""
    grids = {"grid": {"optim.lr": [0.01, 0.02]}, "arms": {"four": {"optim.lr": [0.001]}}, "seeds": [7]}
    runs = load_study(write(tuning=grids)).tuning_runs()
    assert [(run.arm, run.config.optim.lr) for run in runs] == [("one", 0.01), ("one", 0.02), ("four", 0.001)]


def test_the_first_arm_is_compared_with_every_other_one_if_nothing_is_said(write: Any) -> None:
    assert load_study(write()).comparisons == {"four against one": ["one", "four"]}


def test_what_does_not_vary_takes_no_seeds(write: Any) -> None:
    load_study(write(seeds=list(range(6)), claims=[CLAIM, CLAIM | {"metric": "compute/train_flops"}]))


def test_a_claim_is_about_a_column_of_numbers(write: Any, tmp_path: Path) -> None:
    study = load_study(write(seeds=list(range(8)), claims=[CLAIM | {"metric": "device"}]))
    with pytest.raises(UsageError, match=r"claims\[0\]\.metric: expected one of best/val_acc, .*, got 'device'"):
        Results(tmp_path / "results.csv", study)


def test_tuning_comes_first_and_what_diverges_is_not_chosen(write: Any) -> None:
    arm = {"only": {"optim.name": "adamw", "optim.clip_norm": 0}}
    path = write(seeds=[0], arms=arm, tuning={"grid": {"optim.lr": [1e30, 0.001]}, "seeds": [5]})
    process = compare(path, "--workers=2")
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["arms"]["only"]["choice"] == {"optim.lr": 0.001}
    final, *tuning = rows(path)
    assert [row["best/val_acc"] != "" for row in tuning] == [True, False]
    assert [row["test/acc"] for row in tuning] == ["", ""]
    assert final["choice"] == '{"optim.lr": 0.001}'


@pytest.mark.timeout(60)
def test_a_training_that_prints_more_than_a_pipe_holds_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nhead -c 300000 /dev/zero\necho ended >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    job = workers.Job("loud", "runs", [], str(tmp_path))
    assert workers.run_process(job, tmp_path / "runs" / "loud", lambda: False) == workers.Outcome(3, "ended")


def test_failed_runs_are_named_and_the_others_done(write: Any, tmp_path: Path) -> None:
    path = write(seeds=[0])
    (tmp_path / "runs/studies/tiny").mkdir(parents=True)
    (tmp_path / "runs/studies/tiny/one-final-seed0").write_text("a file where the run's folder should be")
    process = compare(path)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "one-final-seed0 failed: train.py: name: runs/studies/tiny/one-final-seed0 is not a run folder" in stderr
    assert stderr.splitlines()[-1] == "compare.py: 1 runs failed, the others are done: one-final-seed0"
    assert [row["arm"] for row in rows(path)] == ["four"]


def test_a_final_run_that_diverges_is_a_result(write: Any) -> None:
    """Or a seed that an arm lost would be trained again for ever, or vanish from the page."""
    path = write(seeds=[0], arms={"wild": {"optim.name": "adamw", "optim.lr": 1e30, "optim.clip_norm": 0}, "tame": {}})
    process = compare(path)
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, stderr
    assert {arm: done["n"] for arm, done in json.loads(stdout.splitlines()[-1])["arms"].items()} == {
        "wild": 0,
        "tame": 1,
    }
    assert [(row["arm"], row["test/acc"] != "") for row in rows(path)] == [("tame", True), ("wild", False)]
    assert "every training diverged" in stderr
    assert "Without a finished run: wild." in (Path(path).parent / "reports/tiny/index.html").read_text()


def test_a_page_is_not_made_of_rows_with_other_settings(write: Any, tmp_path: Path) -> None:
    study = load_study(write())
    results = Results(tmp_path / "results.csv", study)
    results.add(study.final_runs({"one": {}, "four": {}})[0], {"test/acc": 0.5})
    Results(tmp_path / "results.csv", study).check_rows()
    with pytest.raises(UsageError, match=r"was trained with train\.epochs 1, not 2"):
        Results(tmp_path / "results.csv", load_study(write(settings={"train.epochs": 2}))).check_rows()
    tuned = load_study(write(tuning={"grid": {"optim.lr": [0.01]}, "seeds": [9]}))
    with pytest.raises(UsageError, match=r"arm one: expected a choice among \[\{'optim.lr': 0.01\}\], got \{\}"):
        Results(tmp_path / "results.csv", tuned).check_rows()


def test_a_final_run_has_the_choice_of_the_tuning_rows(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    study = load_study(write(tuning={"grid": {"optim.lr": [0.01, 0.02]}, "seeds": [7]}))
    results = Results(path, study)
    results.add(study.final_runs({arm: {"optim.lr": 0.02} for arm in study.arms})[0], {"test/acc": 0.5})
    for run in study.tuning_runs():
        Results(path, study).check_rows()  # the tuning rows are not complete, and choose nothing yet
        results.add(run, {"best/val_acc": 1 - run.choice["optim.lr"]})
    with pytest.raises(
        UsageError, match=r"trained with \{'optim.lr': 0.02\}, but the tuning rows choose \{'optim.lr': 0.01"
    ):
        Results(path, study).check_rows()


def test_a_run_has_one_row(write: Any, tmp_path: Path) -> None:
    """Two files put together may have two, of which one would silently win."""
    study, path = load_study(write()), tmp_path / "results.csv"
    Results(path, study).add(study.final_runs({"one": {}, "four": {}})[0], {"test/acc": 0.5})
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(UsageError, match=r"arm one, seed 0: expected one row of each run, got two"):
        Results(path, study)


@pytest.mark.parametrize(
    ("column", "damaged", "message"),
    [
        ("settings", "{", "arm one, seed 0: settings: expected settings as JSON, got '{'"),
        ("settings", "3", "arm one, seed 0: settings: expected settings as JSON, got '3'"),
        ("choice", "", "arm one, seed 0: choice: expected settings as JSON, got ''"),
        ("seed", "first", "arm one, seed first: expected a phase, tuning or final, and a number as seed"),
        ("phase", "", "arm one, seed 0: expected a phase"),
        ("best/val_acc", "high", "arm one, seed 0: best/val_acc: expected a number from 0 to 1, got 'high'"),
        ("device", "\udcff", "cannot be read ('utf-8' codec can't decode byte 0xff"),
        (None, "a torn line", "arm None, seed None: expected a phase"),
    ],
)
def test_damaged_results_are_refused_in_one_line(
    write: Any, tmp_path: Path, column: str | None, damaged: str, message: str
) -> None:
    study = load_study(write())
    path = tmp_path / "results.csv"
    results = Results(path, study)
    results.add(study.final_runs({"one": {}, "four": {}})[0], {"test/acc": 0.5})
    if column is None:
        path.write_text(path.read_text() + damaged)
    else:
        (row,) = results.rows.values()
        with path.open("w", newline="", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row | {column: damaged})
    with pytest.raises(UsageError) as refusal:
        Results(path, study).check_rows()
    assert str(refusal.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refusal.value)


def test_a_choice_may_be_written_in_two_ways(write: Any, tmp_path: Path) -> None:
    study = load_study(write(tuning={"grid": {"optim.lr": [1.0]}, "seeds": [9]}))
    Results(tmp_path / "results.csv", study).add(study.tuning_runs()[0], {"best/val_acc": 0.5})
    Results(tmp_path / "results.csv", load_study(write(tuning={"grid": {"optim.lr": [1]}, "seeds": [9]}))).check_rows()


def test_trainings_at_once_share_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7, 9, 11, 13}, raising=False)
    monkeypatch.setattr(workers, "train", lambda job, _: job.environment["OMP_NUM_THREADS"])
    jobs = [workers.Job(name, "runs", [], ".", {}) for name in "ab"]
    assert [threads for _, threads in workers.train_here(2, jobs, lambda: False)] == ["3", "3"]


def test_run_names_are_distinct(write: Any) -> None:
    study = load_study(write(tuning={"grid": {"optim.lr": [0.01, 0.02]}, "seeds": [9]}))
    runs: list[Run] = study.tuning_runs() + study.final_runs({arm: {"optim.lr": 0.01} for arm in study.arms})
    names = [run.config.name for run in runs]
    assert len(set(names)) == len(names) == 8


@pytest.mark.parametrize("path", sorted((ROOT / "configs/studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_committed_results_are_those_of_the_study_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load_study(str(path))
    file = ROOT / "reports" / study.name / "results.csv"
    if not file.exists():
        pytest.skip("not yet run")
    Results(file, study).check_rows()


def test_seconds_are_of_one_machine(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the heads study, whose first seeds trained on a GPU, the others on a CPU, a hundred times as long."""
    monkeypatch.chdir(ROOT)
    study = load_study("configs/studies/heads.yaml")
    results = Results(ROOT / "reports/heads/results.csv", study)
    rows = list(results.rows.values())
    arms = summaries(study, rows, results.chosen())
    assert capsys.readouterr().err.endswith("(Runs of several machines: the seconds are of NVIDIA H200 alone.)\n")
    final = [row for row in rows if (row["phase"], row["arm"]) == ("final", "heads_4")]
    assert arms["heads_4"]["n"] == len(final) == 12
    assert arms["heads_4"]["device"] == "NVIDIA H200"
    seconds = [float(row["compute/train_seconds"]) for row in final if row["device"] == "NVIDIA H200"]
    assert arms["heads_4"]["compute/train_seconds"] == pytest.approx(sum(seconds) / len(seconds))
    assert max(seconds) < 10 < max(float(row["compute/train_seconds"]) for row in final)
