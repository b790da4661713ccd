"""The training loop of one model: settings and data in, a run folder out."""

import contextlib
import copy
import hashlib
import math
import shlex
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit import checkpoint, compute
from vit.augment import augment
from vit.checks import Diverged, UsageError
from vit.cli import Interrupted, python_command, say
from vit.config import Config
from vit.cuda_graph import CudaGraph
from vit.data import Splits
from vit.device import autocast, images_per_pass, parts_of, precision_dtype
from vit.evaluation import evaluate
from vit.media import evaluation_media
from vit.meters import Clock, Window
from vit.model import VisionTransformer
from vit.optim import make_optimizers, schedule, set_lr, update_ema
from vit.parallel import Team
from vit.progress import Progress
from vit.run_folder import source_commit, write_predictions, write_summary
from vit.tracking import Row, Tracker


class Training:
    """All that changes in a run, and the steps it goes through. B images in a batch.

    In a team, every process holds the same weights and computes its share of each batch; its leader does the rest.

    Args:
        weights: what a new run starts from in place of weights drawn from its seed.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        device: torch.device,
        splits: Splits,
        team: Team,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        self.config, self.folder, self.device, self.splits, self.team = config, folder, device, splits, team
        self.images, self.labels = splits.train
        self.steps_per_epoch = len(self.images) // config.train.batch_size
        self.steps = self.steps_per_epoch * config.train.epochs
        self.order: tuple[int, Tensor] | None = None
        self.dtype = precision_dtype(config.train.precision, device)
        self.autocast = autocast(config.train.precision, device)
        tokens = config.model.tokens
        share = config.train.batch_size // team.size
        self.parts = config.train.accumulate or parts_of(share, device, self.dtype, tokens)
        self.eval_batch_size = config.train.eval_batch_size or images_per_pass(device, self.dtype, tokens)

        torch.manual_seed(seed_of(config.seed, "weights"))
        self.model = VisionTransformer(config.model).to(device)
        if weights is not None:
            self.model.load_state_dict(weights, strict=False)  # a new classifier keeps its weights
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if config.optim.ema else None
        # Not in a team: NCCL waits at its end for captured graphs that hold its messages (pytorch#115388).
        captured = device.type == "cuda" and config.train.compile and team.size == 1
        self.optimizers = make_optimizers(self.model, config.optim, captured)
        self.step = 0
        self.best_val_acc = -1.0
        self.commit = source_commit()
        self.window = Window(device)
        self.clock = Clock(device)
        state_file = folder / "state.pt"
        state = checkpoint.load_state(state_file) if state_file.exists() else None
        if state is not None:
            self.restore(state, state_file)
        elif (folder / "best").exists():
            raise UsageError(f"name: {folder} has no state.pt to go on from; choose another --name")
        if team.leads:
            self.tracker = Tracker(folder, config, state and state["tracker"])
        if config.train.compile:
            for each in {self.model, self.evaluated}:
                each.compile()  # in place, so that parameters keep their names
        self.stream: Any = contextlib.nullcontext()
        self.graph: CudaGraph | None = None
        if device.type == "cuda":
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))  # which made the weights
            self.stream = torch.cuda.stream(stream)
            if captured:
                self.graph = CudaGraph(self.update, device)

    def run(self, received: list[int]) -> Generator[None, None, dict[str, Any]]:
        """Train to the end, or stop after the step in which a signal was `received`; yields after every step.

        Returns:
            The summary of the finished run; {} in a process that does not lead.
        """
        config = self.config.train
        if not self.team.leads:
            return (yield from self.follow(received))
        if not self.tracker.rows():
            self.save_state()  # so that even a run killed in its first epoch keeps its W&B id
            self.log(self.costs())
        say(
            f"{self.device}, {str(self.dtype).removeprefix('torch.')}, heads {self.config.model.heads}, "
            f"{compute.count_params(self.config.model):,} parameters, {len(self.images)} training images, "
            f"steps {self.step} to {self.steps}"
        )
        if config.compile and self.step < self.steps:
            self.compile()
        progress = Progress(self.step, self.steps, self.steps_per_epoch)
        self.team.largest(0)  # when all are ready: how long they took to start is on no clock
        self.clock.start()
        signal = 0
        while self.step < self.steps and not (signal := self.team.largest(max(received, default=0))):
            self.train_step()
            if self.device.type == "cpu":  # where a step is over when its call returns, others' are not on this clock
                self.clock.lap()
            yield
            if self.device.type == "cpu":
                self.clock.start()
            progress.advance(self.step)
            if self.step % config.log_every == 0 or self.step == self.steps:
                self.clock.lap()
                row = self.window.row(self.clock.seconds)
                row["train/lr"] = float(self.optimizers[0].param_groups[0]["lr"])
                self.log(row)
                progress.show(self.step, row["train/loss"], row["train/acc"], row["train/images_per_second"])
            epoch, rest = divmod(self.step, self.steps_per_epoch)
            if rest == 0 and (epoch % config.eval_every == 0 or epoch == config.epochs):
                self.clock.lap()
                progress.line(f"epoch {epoch}: {self.validate()}")
                self.save_state()
                self.clock.start()
        progress.close()
        if self.step == self.steps:
            return self.finish()
        self.clock.lap()
        self.save_state()
        go_on = f"{python_command()} train.py --config {shlex.quote(str(self.folder / 'config.yaml'))} --resume"
        message = f"stopped after step {self.step} of {self.steps}, all saved; go on with: {go_on}"
        raise Interrupted(message, 128 + signal)

    def follow(self, received: list[int]) -> Generator[None, None, dict[str, Any]]:
        """`run` in a process that does not lead: the same steps and nothing else."""
        if self.config.train.compile and self.step < self.steps:
            self.compile()
        self.team.largest(0)
        while self.step < self.steps and not self.team.largest(max(received, default=0)):
            self.train_step()
            yield
        return {}

    def compile(self) -> None:
        """Compile the model on a batch of zeros, outside the clock, and say how long that took.

        Raises:
            UsageError: it cannot be compiled here, for want of a C++ compiler for instance.
        """
        from torch._dynamo.exc import TorchDynamoException  # a second's import

        start = time.perf_counter()
        part = self.config.train.batch_size // self.team.size // self.parts
        images = torch.zeros(part, 3, 32, 32, device=self.device)
        try:
            with self.autocast:
                self.model(images).sum().backward()
        except TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"train.compile: the model cannot be compiled here ({reason})") from None
        self.model.zero_grad()
        compute.synchronize(self.device)
        if self.team.leads:
            say(f"compiled in {time.perf_counter() - start:.0f} s")

    def train_step(self) -> None:
        """One optimizer step. Its randomness follows from the seed and the step number, so a resumed run repeats it."""
        config = self.config
        epoch, batch = divmod(self.step, self.steps_per_epoch)
        if self.order is None or self.order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(config.seed, "order", epoch))
            self.order = epoch, torch.randperm(len(self.images), generator=generator).to(self.device)
        B = config.train.batch_size
        indices = self.order[1][batch * B : (batch + 1) * B]
        seed = seed_of(config.seed, "step", self.step)
        set_lr(self.optimizers, schedule(self.step, self.steps, config.optim))
        if self.graph is not None:
            self.graph(indices, seed)
        else:
            torch.manual_seed(seed)
            self.update(indices)
        if self.ema is not None:
            update_ema(self.ema, self.model, self.step, config.optim.ema)
        self.step += 1
        self.window.count(B)

    def update(self, indices: Tensor) -> None:
        """Move the weights by the gradient of these B training images. It reads nothing back from the device."""
        config, team = self.config, self.team
        # All B in every process, so that a team sees the very images that one process would: mixing needs pairs.
        x, targets = augment(self.images[indices], self.labels[indices], config.model.classes, config.augment)
        x, targets = team.share(x), team.share(targets)
        if team.rank:  # or drop path would drop the same images of every share
            torch.manual_seed(seed_of(config.seed, f"process {team.rank}", self.step))
        for part, target in zip(x.chunk(self.parts), targets.chunk(self.parts), strict=True):
            with self.autocast:
                logits = self.model(part)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=config.train.label_smoothing)
            loss = loss / (self.parts * team.size)
            loss.backward()
            self.window.add(loss.detach(), logits.detach(), target)
        parameters = list(self.model.parameters())
        team.add([*(each.grad for each in parameters if each.grad is not None), self.window.now])
        limit = config.optim.clip_norm or math.inf
        self.window.close(torch.nn.utils.clip_grad_norm_(parameters, limit))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    @property
    def evaluated(self) -> VisionTransformer:
        """The model that is evaluated and kept for inference: the moving average if there is one."""
        return self.model if self.ema is None else self.ema

    def validate(self) -> str:
        """Evaluate on the validation split and keep the weights if they are the best so far.

        Without a validation split nothing is chosen: the latest weights are the best.
        """
        config = self.config
        results: Row = {
            "compute/epoch": self.step / self.steps_per_epoch,
            "compute/train_flops": self.train_flops,
            "compute/train_seconds": self.clock.seconds,
            **{key: value for key, value in self.origin().items() if value is not None},
        }
        if config.data.val_images:
            result = evaluate(self.evaluated, *self.splits.val, self.eval_batch_size, self.autocast)
            row = result.row("val")
            self.log(row)
            results |= row
            text = f"validation accuracy {result.acc:.2%}, loss {result.loss:.3f}"
            better = result.acc > self.best_val_acc
            self.best_val_acc = max(result.acc, self.best_val_acc)
        else:
            text, better = "saved (no validation split)", True
        for name in ("best", "last") if better else ("last",):
            checkpoint.save_checkpoint(self.folder / name, self.evaluated, config, results)
        return text

    def finish(self) -> dict[str, Any]:
        """Evaluate the best weights on the test split, once, and close the run."""
        config = self.config
        row: Row = {}
        media = None
        if config.train.test:
            best = checkpoint.load(self.folder / "best", self.device)
            images, labels = self.splits.test
            result = evaluate(best, images, labels, self.eval_batch_size, self.autocast, best.preprocess)
            row = result.row("test")
            checkpoint.add_results(self.folder / "best", row)
            write_predictions(self.folder, result.probabilities.argmax(dim=1), labels)
            with self.autocast:
                for batch in (1, 256):
                    row[f"inference/batch_{batch}_seconds"] = compute.latency_seconds(best, batch, self.device)
            media = partial(evaluation_media, best, result, images, labels, "test")
        if config.data.val_images:
            row["best/val_acc"] = self.best_val_acc
        row["compute/peak_memory_bytes"] = compute.peak_memory_bytes(self.device)
        rate = self.team.size * compute.gemm_flops_per_second(self.device, self.dtype)
        row["compute/mfu"] = self.train_flops / self.clock.seconds / rate
        self.log(row, media)
        self.tracker.wandb.upload(self.folder / "best", f"{config.name}", ["best"], row)
        summary = {
            "name": config.name,
            "seed": config.seed,
            "run": str(self.folder),
            "checkpoint": str(self.folder / "best"),
            "wandb": self.tracker.wandb.location,
            **self.origin(),
        } | self.tracker.last_values()
        self.tracker.finish()
        write_summary(self.folder, summary)
        return summary

    def origin(self) -> dict[str, str | None]:
        """On what, and by which code, the weights come to be."""
        return {
            "device": compute.device_name(self.device, self.team.size),
            "precision": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "commit": self.commit,
        }

    @property
    def train_flops(self) -> int:
        """FLOPs spent on training so far."""
        return self.step * self.config.train.batch_size * compute.train_flops(self.config.model)

    def costs(self) -> Row:
        """What is known before the first step."""
        model, train = self.config.model, self.config.train
        return {
            "model/params": compute.count_params(model),
            "model/forward_flops": compute.forward_flops(model),
            "model/forward_macs": compute.forward_macs(model),
            "attention/backend": compute.attention_backend(
                model, train.batch_size // self.team.size // self.parts, self.device, self.dtype
            ),
        }

    def log(self, row: Row, media: Callable[[], Row] | None = None) -> None:
        """Log a row with every x-axis beside it.

        Raises:
            Diverged: a number in it is not finite any more.
        """
        for key, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise Diverged(f"optim.lr: the training diverged ({key} is {value}); choose a smaller one")
        axes: Row = {
            "compute/train_flops": self.train_flops,
            "compute/images_seen": self.step * self.config.train.batch_size,
            "compute/train_seconds": self.clock.seconds,
            "compute/epoch": self.step / self.steps_per_epoch,
        }
        if self.clock.joules is not None and self.team.size == 1:  # it is of one GPU
            axes["compute/energy_joules"] = self.clock.joules
        self.tracker.log(axes | row, media)

    def save_state(self) -> None:
        state = {
            "step": self.step,
            "best_val_acc": self.best_val_acc,
            "commit": self.commit,
            "seconds": self.clock.seconds,
            "joules": self.clock.joules,
            "window": self.window.state(),
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "tracker": self.tracker.state(),
        }
        checkpoint.save_state(self.folder / "state.pt", state)

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go back to a saved state.

        Raises:
            UsageError: it is the state of something else.
        """
        try:
            self.restore_parts(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UsageError(f"{path}: not the state of this run ({str(error).splitlines()[0]})") from None

    def restore_parts(self, state: dict[str, Any]) -> None:
        self.step, self.best_val_acc, self.commit = state["step"], state["best_val_acc"], state["commit"]
        self.clock.seconds, self.clock.joules = state["seconds"], state["joules"]
        self.window.restore(state["window"])
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            # How a group is stepped is this device's affair: the state may come from another one.
            here = [dict(group) for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, own in zip(optimizer.param_groups, here, strict=True):
                group |= {key: own[key] for key in ("lr", "capturable") if key in own}


def seed_of(seed: int, purpose: str, index: int = 0) -> int:
    """An independent 63-bit seed for each purpose and index of a run."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
