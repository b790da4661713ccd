"""What `compare.py` does: train what a study lacks, keep a row of every run, then write the report."""

import os
import statistics
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vit.checks import Diverged, UsageError
from vit.cli import overrides
from vit.commands import CompareConfig
from vit.config import Config, flatten
from vit.report import write_report
from vit.results import Results, Row
from vit.run_folder import TITLES, accuracy_key
from vit.study import Run, Study
from vit.study_file import load_study
from vit.terminal import Interrupted, say, stop_signals
from vit.workers import Job, Outcome, Workers, open_workers


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
        with FileLock(path.with_name(".lock"), timeout=0), open_workers(config) as workers:
            results = Results(path, study)
            train_missing(study.tuning_runs(), results, config, workers)
            chosen = results.chosen()
            final = study.final_runs(chosen)
            train_missing(final, results, config, workers)
            page = write_report(study, list(results.rows.values()), path.parent)
    except Timeout:
        raise UsageError(f"study: {study.name} is being run by another process") from None
    arms = summaries(study, list(results.rows.values()), chosen)
    say(f"\nthe whole report: {page}")
    return {"study": study.name, "results": str(path), "page": str(page), "arms": arms}


def summaries(study: Study, rows: list[Row], chosen: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each arm what it reached and cost, said in a line too; the seconds of one machine, as in the report."""
    from vit.report.arms import read_arms  # a second's import

    found = {arm.name: arm for arm in read_arms(study, rows)}
    arms: dict[str, dict[str, Any]] = {}
    say(f"\n{'arm':24}{'n':>3}{'test accuracy':>15}{'deviation':>11}{'PFLOP':>9}{'seconds':>9}  tuned")
    for name, choice in chosen.items():
        if name not in found:
            arms[name] = {"n": 0, "choice": choice}
            say(f"{name:24}  0  every training diverged")
            continue
        arm = found[name]
        flops, seconds = arm.mean("compute/train_flops") or 0.0, arm.mean("compute/train_seconds")
        timed = arm.values.get("compute/train_seconds", {})
        device = ", ".join({arm.machines[seed].device for seed in timed}) or None
        arms[name] = {
            "n": arm.n,
            "test/acc/mean": arm.accuracy,
            "test/acc/std": statistics.stdev(arm.of("test/acc")) if arm.n > 1 else None,
            "compute/train_flops": flops,
            "compute/train_seconds": seconds,
            "device": device,
            "choice": choice,
        }
        std = f"{100 * arms[name]['test/acc/std']:.2f} pt" if arm.n > 1 else "-"
        tuned = ", ".join(f"{key}={value}" for key, value in choice.items()) or "-"
        cost = f"{flops / 1e15:9.3g}{'-' if seconds is None else f'{seconds:.3g}':>9}"
        say(f"{name:24}{arm.n:3}{100 * arm.accuracy:13.2f} %{std:>11}{cost}  {tuned}")
    devices = sorted({each["device"] for each in arms.values() if each.get("device")})
    if any(len(arm.values.get("compute/train_seconds", {})) < arm.n for arm in found.values()) and devices:
        say(f"(Runs of several machines: the seconds are of {', '.join(devices)} alone.)")
    return arms


def train_missing(runs: list[Run], results: Results, config: CompareConfig, workers: Workers) -> None:
    """Train the runs that have no row."""
    missing = {str(run.config.name): run for run in results.missing(runs)}
    done = len(runs) - len(missing)
    failed: list[str] = []
    if missing:
        what = f"{len(missing)} of {len(runs)} {runs[0].phase} runs to train"
        say(f"{results.study.name}: {what}; each has a log in {runs_dir(results, config)}")
    elif runs:
        say(f"{results.study.name}: all {len(runs)} {runs[0].phase} runs have a row in {results.path}")
    with stop_signals() as received:
        jobs = [job_of(run, results, config) for run in missing.values()]
        with closing(workers(jobs, lambda: bool(received))) as ended:
            for job, outcome in ended:
                done += 1
                if keep(outcome, missing[job.name], results):
                    say(f"{results.study.name}: {done} of {len(runs)}: {job.name}: {in_words(outcome)}")
                elif not received:  # else it was stopped
                    say(f"{job.name} failed: {outcome.words}")
                    failed.append(job.name)
    if received:
        raise Interrupted("stopped, all saved; the same command goes on", 128 + received[0])
    if failed:
        raise UsageError(f"{len(failed)} runs failed, the others are done: {', '.join(failed)}")


def keep(outcome: Outcome, run: Run, results: Results) -> bool:
    """Add the row of a training that has ended; False if it has no result."""
    if outcome.code == 0:
        results.add(run, outcome.summary, outcome.correct, outcome.curve)
        return True
    if outcome.code == Diverged.code:  # a result too: a point of the grid to leave alone, or a seed that an arm lost
        results.add(run, {})
        return True
    return False


def in_words(outcome: Outcome) -> str:
    if not outcome.summary:
        return "diverged"
    key = accuracy_key(outcome.summary)
    return f"{TITLES[key]} {outcome.summary[key]:.2%}, {outcome.summary['compute/train_seconds']:.0f} seconds"


def runs_dir(results: Results, config: CompareConfig) -> Path:
    return Path(config.runs_dir) / results.study.name


def job_of(run: Run, results: Results, config: CompareConfig) -> Job:
    """train.py with the settings that differ from its defaults."""
    wanted = replace(run.config, runs_dir=str(runs_dir(results, config)), resume=True)
    wanted.device = config.device or wanted.device
    wanted.wandb = replace(wanted.wandb, mode=config.wandb.mode or wanted.wandb.mode)
    default = flatten(Config())
    changed = {key: value for key, value in flatten(wanted).items() if value != default[key]}
    # By this W&B finds the runs of a study (vit/dashboards.py).
    group = results.study.name if run.phase == "final" else f"{results.study.name} {run.phase}"
    environment = {"WANDB_RUN_GROUP": group}
    return Job(str(run.config.name), wanted.runs_dir, overrides(changed), os.getcwd(), environment)
