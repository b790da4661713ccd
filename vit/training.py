"""The training of one model: settings and data in, a run folder out."""

import math
import shlex
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vit import checkpoint, compute, window
from vit.checks import Diverged, UsageError, one_line
from vit.config import Config
from vit.data import Splits
from vit.device import images_per_pass
from vit.evaluation import evaluate
from vit.media import evaluation_media
from vit.meters import Clock
from vit.parallel import Team
from vit.progress import Progress
from vit.run_folder import STATE, source_commit, write_predictions, write_summary
from vit.stepper import Stepper
from vit.terminal import Interrupted, python_command, say
from vit.tracking import Row, Tracker


class Training:
    """A run: its steps, and what its leader alone does between them: evaluate, log and save.

    Args:
        stepper, state: what `open_stepper` returned.
    """

    def __init__(
        self, config: Config, folder: Path, splits: Splits, stepper: Stepper, state: dict[str, Any] | None
    ) -> None:
        self.config, self.folder, self.splits, self.stepper = config, folder, splits, stepper
        self.device, self.team = device, team = stepper.device, stepper.team
        self.eval_batch_size = config.train.eval_batch_size or images_per_pass(device, config.model.tokens)
        self.clock = Clock(device)
        self.best_val_acc = checkpoint.val_acc(folder / "best")
        self.origin = {
            "device": compute.device_name(device, team.size),
            "precision": str(stepper.dtype).removeprefix("torch."),
            "torch": str(torch.__version__),  # a class of its own, which state.pt could not hold
            "commit": source_commit(),
        }
        if state is not None:
            self.clock.seconds, self.clock.joules = state["seconds"], state["joules"]
            if stepper.step:  # else nothing has been done yet, by anyone
                self.origin = {key: succession(state["origin"][key], now) for key, now in self.origin.items()}
        with stepper.led():
            self.tracker = Tracker(folder, config, state and state["tracker"])

    @property
    def one_device(self) -> bool:
        """Whether the whole training so far was of one device, or one team of them."""
        return compute.units_of(str(self.origin["device"])) is not None

    def run(self, received: list[int]) -> Generator[None, None, dict[str, Any]]:
        """Train to the end, or stop after the step in which a signal was `received`; yields after every step.

        Returns:
            The summary of the finished run.
        """
        stepper = self.stepper
        with stepper.led():
            if not self.tracker.rows():
                self.save_state()  # so that even a run killed in its first epoch keeps its W&B id
                self.log(self.costs())
        say(
            f"{self.device}, {str(stepper.dtype).removeprefix('torch.')}, heads {self.config.model.heads}, "
            f"{compute.count_params(self.config.model):,} parameters, {len(stepper.images)} training images, "
            f"steps {stepper.step} to {stepper.steps}"
        )
        steps = stepper.take_steps(received)
        next(steps)  # ready, and so are the others: how long they took to start is on no clock
        progress = Progress(stepper)
        self.clock.start()
        for _ in steps:
            if self.device.type == "cpu":  # where a step is over when its call returns, others' are not on this clock
                self.clock.lap()
            yield
            if self.device.type == "cpu":
                self.clock.start()
            progress.advance()
            with stepper.led():
                self.between_steps(progress)
        progress.close()
        if stepper.done:
            return self.finish()
        self.clock.lap()
        self.check_finite()
        self.save_state()
        start = python_command() if self.team.size == 1 else f"torchrun --nproc-per-node={self.team.size}"
        go_on = f"{start} train.py --config {shlex.quote(str(self.folder / 'config.yaml'))} --resume"
        message = f"stopped after step {stepper.step} of {stepper.steps}, all saved; go on with: {go_on}"
        raise Interrupted(message, 128 + stepper.stopped_by)

    def between_steps(self, progress: Progress) -> None:
        """What is due after this step: a row, an evaluation, a saved state."""
        config, stepper = self.config.train, self.stepper
        if stepper.step % config.log_every == 0 or stepper.done:
            self.clock.lap()
            row = stepper.meter.row(self.clock.seconds)
            row["train/lr"] = float(stepper.optimizers[0].param_groups[0]["lr"])
            self.log(row)
            progress.show(row["train/loss"], row["train/acc"], row["train/images_per_second"])
            self.clock.start()  # logging is no training
        epoch, rest = divmod(stepper.step, stepper.steps_per_epoch)
        if rest == 0 and (epoch % config.eval_every == 0 or epoch == config.epochs):
            self.clock.lap()
            progress.line(f"epoch {epoch}: {self.validate()}")
            self.save_state()
            self.clock.start()

    def validate(self) -> str:
        """Evaluate on the validation split and keep the weights if they are the best so far.

        Without a validation split nothing is chosen: the latest weights are the best.

        Raises:
            Diverged: they are not finite any more.
        """
        self.check_finite()
        config, stepper = self.config, self.stepper
        results: Row = {
            "compute/epoch": stepper.epoch,
            "compute/train_flops": stepper.train_flops,
            "compute/train_seconds": self.clock.seconds,
            **{key: value for key, value in self.origin.items() if value is not None},
        }
        if config.data.val_images:
            result = evaluate(stepper.evaluated, *self.splits.val, self.eval_batch_size, stepper.autocast)
            row = result.row("val")
            self.log(row)
            results |= row
            text = f"validation accuracy {result.acc:.2%}, loss {result.loss:.3f}"
            better = result.acc > self.best_val_acc
            self.best_val_acc = max(result.acc, self.best_val_acc)
        else:
            text, better = "saved (no validation split)", True
        for name in ("best", "last") if better else ("last",):
            checkpoint.save_checkpoint(self.folder / name, stepper.evaluated, config, results)
        return text

    def finish(self) -> dict[str, Any]:
        """Evaluate the best weights on the test split, once, and close the run."""
        config, stepper = self.config, self.stepper
        row: Row = {}
        media = None
        if config.train.test:
            best = checkpoint.load(self.folder / "best", self.device)
            images, labels = self.splits.test
            result = evaluate(best, images, labels, self.eval_batch_size, stepper.autocast, best.preprocess)
            row = result.row("test")
            checkpoint.add_results(self.folder / "best", row)
            write_predictions(self.folder, result.probabilities.argmax(dim=1), labels)
            with stepper.autocast:
                for batch in (1, 256):
                    row[f"inference/batch_{batch}_seconds"] = compute.latency_seconds(best, batch, self.device)
            media = partial(evaluation_media, best, result, images, labels, "test")
        if config.data.val_images:
            row["best/val_acc"] = self.best_val_acc
        row["compute/peak_memory_bytes"] = compute.peak_memory_bytes(self.device)
        rate = self.team.size * compute.gemm_flops_per_second(self.device, stepper.dtype)
        row["compute/mfu"] = stepper.train_flops / self.clock.seconds / rate
        self.log(row, media)
        self.tracker.wandb.upload(self.folder / "best", str(config.name), ["best"], row)
        values = self.tracker.last_values()
        if not self.one_device:
            values.pop("compute/energy_joules", None)  # of a part of the training
        summary = {
            "name": config.name,
            "seed": config.seed,
            "run": str(self.folder),
            "checkpoint": str(self.folder / "best"),
            "wandb": self.tracker.wandb.location,
            **self.origin,
        } | values
        self.tracker.finish()
        write_summary(self.folder, summary)
        return summary

    def costs(self) -> Row:
        """What is known before the first step."""
        model, stepper = self.config.model, self.stepper
        models = [replace(model, image_size=size) for size in window.sizes(self.config, stepper.steps)]
        names = [
            compute.attention_backend(each, stepper.micro_batch_size, self.device, stepper.dtype) for each in models
        ]
        return {**compute.model_costs(model), "attention/backend": ", then ".join(dict.fromkeys(names))}

    def log(self, row: Row, media: Callable[[], Row] | None = None) -> None:
        """Log a row with every x-axis beside it.

        Raises:
            Diverged: a number in it is not finite any more.
        """
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise diverged(key, value)
        axes: Row = {
            "compute/train_flops": self.stepper.train_flops,
            "compute/images_seen": self.stepper.step * self.config.train.batch_size,
            "compute/train_seconds": self.clock.seconds,
            "compute/epoch": self.stepper.epoch,
        }
        if self.clock.joules is not None and self.team.size == 1 and self.one_device:  # else it is of a part
            axes["compute/energy_joules"] = self.clock.joules
        self.tracker.log(axes | row, media)

    def check_finite(self) -> None:
        """Before anything good is overwritten: steps since the last row have been looked at by nobody.

        Raises:
            Diverged: their loss or gradient is not finite.
        """
        if not math.isfinite(total := float(self.stepper.meter.sums.sum())):
            raise diverged("a step", total)

    def save_state(self) -> None:
        state = {
            "stepper": self.stepper.state(),
            "origin": self.origin,
            "seconds": self.clock.seconds,
            "joules": self.clock.joules,
            "tracker": self.tracker.state(),
        }
        checkpoint.save_state(self.folder / STATE, state)


def open_stepper(
    config: Config,
    folder: Path,
    device: torch.device,
    splits: Splits,
    team: Team,
    weights: dict[str, Tensor] | None = None,
) -> tuple[Stepper, dict[str, Any] | None]:
    """A run's steps, where they were when it was last saved, and all that was saved; None of a new run.

    Args:
        weights: what a new run starts from in place of weights drawn from its seed.

    Raises:
        UsageError: what the folder holds is not this run's, or the model does not fit into memory.
    """
    path = folder / STATE
    state = checkpoint.load_state(path) if path.exists() else None
    if state is None and (folder / "best").exists():
        raise UsageError(f"name: {folder} has no {STATE} to go on from; choose another --name")
    try:
        stepper = Stepper(config, device, splits.train, team, weights)
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        raise UsageError(f"model: expected one that fits into memory here ({one_line(error)})") from None
    if state is not None:
        try:
            stepper.restore(state["stepper"])
            if missing := {"origin", "seconds", "joules", "tracker"} - state.keys():  # for Training
                raise KeyError(", ".join(sorted(missing)))
            state["seconds"] = float(state["seconds"])
            state["joules"] = None if state["joules"] is None else float(state["joules"])
        except (KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{path}: not the state of this run ({one_line(error)})") from None
    return stepper, state


def diverged(key: str, value: float) -> Diverged:
    return Diverged(f"optim.lr: the training diverged ({key} is {value}); choose a smaller one")


def succession(before: str | None, now: str | None) -> str | None:
    """On what, or by which code, weights came to be that are trained further: "A, then B" unless it is the same."""
    same = before is None or now is None or before == now or before.endswith(f", then {now}")
    return (before or now) if same else f"{before}, then {now}"
