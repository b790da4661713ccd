"""What `compare.py` does: train what a study lacks, every run a process of its own, then write the report."""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vit.checks import Diverged, UsageError
from vit.cli import Interrupted, say, stop_signals
from vit.config import CompareConfig, Config, flatten
from vit.report import write_report
from vit.results import Results
from vit.run_folder import TITLES, accuracy_of, read_correct, read_curve
from vit.study import Run, load_study, overrides


def compare(config: CompareConfig) -> dict[str, Any]:
    """Train what is missing of a study, keep a row of every finished run, and write the report of them all.

    Returns:
        Where the results and the report are and, per arm, how many seeds are done and their mean test accuracy.

    Raises:
        UsageError: the study cannot be run, or runs failed, said once the others are done.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    study = load_study(config.study)
    path = Path(config.reports_dir) / study.name / "results.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(".lock"), timeout=0):
            results = Results(path, study)
            train_missing(study.tuning_runs(), results, config)
            chosen = results.chosen()
            final = study.final_runs(chosen)
            train_missing(final, results, config)
            page = write_report(study, list(results.rows.values()), path.parent)
    except Timeout:
        raise UsageError(f"study: {study.name} is being run by another process") from None
    arms: dict[str, dict[str, Any]] = {}
    say(f"\n{'arm':24}{'n':>3}{'test accuracy':>15}{'deviation':>11}{'PFLOP':>9}{'seconds':>9}  tuned")
    for arm in study.arms:
        rows = [results.rows[run.key] for run in final if run.arm == arm]
        accuracies = [float(row["test/acc"]) for row in rows]
        arms[arm] = {
            "n": len(rows),
            "test/acc/mean": statistics.mean(accuracies),
            "test/acc/std": statistics.stdev(accuracies) if len(rows) > 1 else None,
            "compute/train_flops": statistics.mean(int(row["compute/train_flops"]) for row in rows),
            "compute/train_seconds": statistics.mean(float(row["compute/train_seconds"]) for row in rows),
            "choice": chosen[arm],
        }
        mean, std = 100 * arms[arm]["test/acc/mean"], 100 * (arms[arm]["test/acc/std"] or 0)
        cost = f"{arms[arm]['compute/train_flops'] / 1e15:9.4f}{arms[arm]['compute/train_seconds']:9.0f}"
        tuned = ", ".join(f"{key}={value}" for key, value in chosen[arm].items()) or "-"
        say(f"{arm:24}{len(rows):3}{mean:13.2f} %{f'{std:.2f} pt' if len(rows) > 1 else '-':>11}{cost}  {tuned}")
    say(f"\nthe whole report: {page}")
    return {"study": study.name, "results": str(path), "page": str(page), "arms": arms}


def train_missing(runs: list[Run], results: Results, config: CompareConfig) -> None:
    """Train the runs that have no row, `workers` at a time."""
    waiting = results.missing(runs)
    running: dict[subprocess.Popen, Run] = {}
    failed: list[str] = []
    environment = dict(os.environ)
    if config.workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // config.workers, 1)))
    started = len(runs) - len(waiting)
    with stop_signals() as received:
        try:
            while running or (waiting and not received):
                stop = bool(received)
                while waiting and len(running) < config.workers and not stop:
                    run = next((run for run in waiting if not in_training(folder_of(run, results, config))), None)
                    if run is None:
                        break  # a process that an earlier, killed command left behind trains it: wait for that
                    waiting.remove(run)
                    started += 1
                    say(f"{results.study.name}: {run.config.name} ({started} of {len(runs)})")
                    running[start(run, results, config, environment)] = run
                time.sleep(0.1)
                if stop:
                    break
                for process in [process for process in running if process.poll() is not None]:
                    run = running.pop(process)
                    if not finish(process, run, results):
                        log = log_of(run, results, config)
                        say(f"{run.config.name} failed: {(log.read_text().splitlines() or ['no word'])[-1]}")
                        failed.append(str(run.config.name))
        finally:  # also where something went wrong here: no training goes on unseen
            for process in running:
                process.terminate()
            for process, run in running.items():
                finish(process, run, results)
    if received:
        raise Interrupted("stopped, all saved; the same command goes on", 128 + received[0])
    if failed:
        raise UsageError(f"{len(failed)} runs failed, the others are done: {', '.join(failed)}")


def start(run: Run, results: Results, config: CompareConfig, environment: dict[str, str]) -> subprocess.Popen:
    """Train in a process of its own, whose words go to a log beside the run's folder."""
    log = log_of(run, results, config)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as words:
        # A session of its own, so that Ctrl-C reaches it once, through us.
        return subprocess.Popen(
            command_of(run, results, config),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            start_new_session=True,
        )


def finish(process: subprocess.Popen, run: Run, results: Results) -> bool:
    """Wait for a training's end and keep its result; False if it has none."""
    output, _ = process.communicate()
    if process.returncode == 0:
        summary = json.loads(output.splitlines()[-1])
        folder = Path(summary["run"])
        results.add(run, summary, read_correct(folder), read_curve(folder))
        key = accuracy_of(summary)
        say(f"{run.config.name}: {TITLES[key]} {summary[key]:.2%}, {summary['compute/train_seconds']:.0f} seconds")
        return True
    if process.returncode == Diverged.code and run.phase == "tuning":
        results.add(run, {})  # that point of the grid is out of the question
        say(f"{run.config.name}: diverged")
        return True
    return False


def log_of(run: Run, results: Results, config: CompareConfig) -> Path:
    return folder_of(run, results, config).with_name(f"{run.config.name}.log")


def folder_of(run: Run, results: Results, config: CompareConfig) -> Path:
    return Path(config.runs_dir) / results.study.name / str(run.config.name)


def in_training(folder: Path) -> bool:
    """Whether some process trains this run."""
    if not folder.is_dir():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def command_of(run: Run, results: Results, config: CompareConfig) -> list[str]:
    """train.py with the settings that differ from its defaults."""
    wanted = replace(run.config, runs_dir=str(folder_of(run, results, config).parent), resume=True)
    wanted.device = config.device or wanted.device
    wanted.wandb = replace(wanted.wandb, mode=config.wandb.mode or wanted.wandb.mode)
    default = flatten(Config())
    changed = {key: value for key, value in flatten(wanted).items() if value != default[key]}
    return [sys.executable, str(Path(__file__).parent.parent / "train.py"), *overrides(changed)]
