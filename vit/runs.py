"""What `train.py` does: one run, or one per seed, side by side in this process."""

import contextlib
import shlex
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit.checks import UsageError, check
from vit.config import Config
from vit.data import Splits
from vit.device import pick_device
from vit.parallel import Team, gathered
from vit.run_folder import STATE, TITLES, accuracy_key, new_name, open_run, read_summary
from vit.terminal import Interrupted, say, stop_signals
from vit.tracking import how_to_look
from vit.training import Training, open_stepper


def train(config: Config) -> dict[str, Any]:
    """Train a model, evaluate its best weights on the test split once, and leave a run folder.

    Processes that torchrun started are a team, which trains one model; only its leader writes.

    Returns:
        {} in a process that does not lead. Otherwise what `summary.json` holds: where things are, and the last value
        of every metric. With `seeds`, a dict of the seeds' mean and sample standard deviation of the accuracy, and all
        their summaries as "runs".

    Raises:
        UsageError: the settings cannot work here.
        Interrupted: SIGINT or SIGTERM came; everything is saved and the text says how to go on.
    """
    config = replace(config, name=config.name or new_name())
    with gathered(pick_device(config.device)) as (team, device):
        if team.size > 1:
            check_fits(config, team)
        splits = Splits.load(config.data, device)
        if not team.leads:
            return follow(config, device, splits, team)
        if config.seeds is None:
            [summary] = train_side_by_side([config], device, splits, team)
            return summary
        return train_seeds(config, config.seeds, device, splits)


def check_fits(config: Config, team: Team) -> None:
    """Refuse what processes of torchrun cannot train together."""
    check(config.seeds is None, "seeds", "null: torchrun trains one seed at a time, given by --seed", config.seeds)
    share, rest = divmod(config.train.batch_size, team.size)
    check(rest == 0, "train.batch_size", f"a multiple of the {team.size} processes", config.train.batch_size)
    parts = config.train.accumulate or 1
    check(share % parts == 0, "train.accumulate", f"a divisor of the {share} images of each process", parts)


def follow(config: Config, device: torch.device, splits: Splits, team: Team) -> dict[str, Any]:
    """The part of a process that does not lead: compute shares of batches in the run that the leader opened."""
    folder = team.broadcast(None)
    if folder is not None:  # else there is nothing to train, or the leader says why it cannot
        stepper, _ = open_stepper(config, folder, device, splits, team, weights_to_start([config]))
        with stop_signals() as received, stepper.stream:
            for _ in stepper.take_steps(received):
                pass
    return {}


def train_seeds(config: Config, seeds: list[int], device: torch.device, splits: Splits) -> dict[str, Any]:
    """Train one model per seed, side by side; returns what is known of them together."""
    each = [replace(config, name=f"{config.name}-seed{seed}", seed=seed, seeds=None) for seed in seeds]
    try:
        runs = train_side_by_side(each, device, splits, Team())
    except Interrupted as stop:
        again = f"the same command, --name={shlex.quote(str(config.name))} and --resume"
        raise Interrupted(f"stopped, all saved; go on with {again}", stop.code) from None
    key = accuracy_key(runs[0])
    accuracies = [summary[key] for summary in runs]
    mean, std = statistics.mean(accuracies), statistics.stdev(accuracies) if len(runs) > 1 else None
    spread = "" if std is None else f", standard deviation {std:.2%}"
    say(f"{len(runs)} seeds: mean {TITLES[key]} {mean:.2%}{spread}")
    return {"name": config.name, f"{key}/mean": mean, f"{key}/std": std, "runs": runs}


def train_side_by_side(configs: list[Config], device: torch.device, splits: Splits, team: Team) -> list[dict[str, Any]]:
    """Train several models in this process, a step of each in turn, or a team's one; returns their summaries.

    On a GPU every model has a stream of its own, so that small models fill it together. A model's run is the same as
    alone: same weights, same rows, but for peak memory and, on a GPU, time and energy: they count what others take too.
    """
    with contextlib.ExitStack() as stack:
        folder_to_follow: Path | None = None
        try:
            weights = weights_to_start(configs)  # before any folder is made: they may not fit
            opened = [stack.enter_context(open_run(config)) for config in configs]
            folders, new = [folder for folder, _ in opened], [new for _, new in opened]
            summaries = [read_summary(folder) for folder in folders]
            folder_to_follow = folders[0] if summaries[0] is None else None
        finally:
            team.broadcast(folder_to_follow)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        received = stack.enter_context(stop_signals())
        running: dict[int, tuple[Training, Iterator[None]]] = {}
        failures: list[UsageError | Interrupted] = []
        try:
            for index, (config, folder) in enumerate(zip(configs, folders, strict=True)):
                if summaries[index] is not None:
                    say(f"{folder} is finished already")
                    continue
                if any(training.tracker.wandb.fell_back for training, _ in running.values()):
                    config = replace(config, wandb=replace(config.wandb, mode="offline"))
                stepper, state = open_stepper(config, folder, device, splits, team, weights)
                training = Training(config, folder, splits, stepper, state)
                running[index] = training, training.run(received)
            while running:
                for index, (training, steps) in list(running.items()):
                    try:
                        with training.stepper.stream:
                            next(steps)
                    except StopIteration as end:
                        summaries[index] = end.value
                        del running[index]
                    except (UsageError, Interrupted) as error:
                        failures.append(error)  # the others go on, or save too
                        if isinstance(error, UsageError) and len(running) > 1:
                            say(f"{folders[index]}: {error}")
                        training.tracker.finish(error.code if isinstance(error, Interrupted) else 1)
                        if isinstance(error, UsageError) and new[index] and training.stepper.step == 0:
                            shutil.rmtree(folders[index])
                        del running[index]
        except BaseException:
            for training, _ in running.values():
                training.tracker.finish(1)
            raise
    finished = [summary for summary in summaries if summary is not None]
    for summary in finished:
        report(summary)
    if failures:  # first of all that there is something to go on with
        raise next((error for error in failures if isinstance(error, Interrupted)), failures[0])
    return finished


def weights_to_start(configs: list[Config]) -> dict[str, Tensor] | None:
    """What `init` names, for runs that differ in their seeds alone; None if it is null or they all just go on."""
    init = configs[0].init
    saved = [config.name and (Path(config.runs_dir) / config.name / STATE).exists() for config in configs]
    if init is None or all(saved):
        return None
    from vit import timm_bridge  # which loads timm

    return timm_bridge.initial_weights(init, configs[0].model)


def report(summary: dict[str, Any]) -> None:
    key = accuracy_key(summary)
    for title, text in (
        (TITLES[key], f"{summary[key]:.2%}"),
        ("run folder", summary["run"]),
        ("checkpoint", summary["checkpoint"]),
        ("dashboard", how_to_look(summary["wandb"])),
    ):
        say(f"{title:21}{text}")
