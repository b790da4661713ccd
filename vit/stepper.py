"""The steps of one model: what turns weights and batches into the next weights, and what of it a resumed run needs."""

import contextlib
import copy
import hashlib
import math
import signal
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit import compute, window
from vit.augment import augment
from vit.checks import UsageError
from vit.config import Config
from vit.cuda_graph import CudaGraph
from vit.data import Split
from vit.device import autocast, micro_batches_of, precision_dtype
from vit.meters import Meter
from vit.model import VisionTransformer
from vit.optim import make_optimizers, schedule, set_lr, update_ema
from vit.parallel import Team
from vit.terminal import say
from vit.whitening import whiten


class Stepper:
    """A model, its optimizers, and the steps they go through. B images in a batch.

    In a team, every process has one with the same weights, and computes its share of each batch.

    Args:
        split: the training images and labels, on the device.
        weights: what to start from in place of weights drawn from the seed.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        split: Split,
        team: Team,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        self.config, self.device, self.team = config, device, team
        self.images, self.labels = split
        self.steps_per_epoch = len(self.images) // config.train.batch_size
        self.steps = self.steps_per_epoch * config.train.epochs
        self.order: tuple[int, Tensor] | None = None
        self.dtype = precision_dtype(config.train.precision, device)
        self.autocast = autocast(config.train.precision, device)
        share = config.train.batch_size // team.size
        self.micro_batches = config.train.accumulate or micro_batches_of(share, device, config.model.tokens)
        self.micro_batch_size = share // self.micro_batches

        torch.manual_seed(seed_of(config.seed, "weights"))
        self.model = VisionTransformer(config.model).to(device)
        if weights is not None:
            self.model.load_state_dict(weights, strict=False)  # a new classifier keeps its weights
        if config.whiten:
            whiten(self.model.patch_embed.proj, self.images)
        self.ema = copy.deepcopy(self.model).requires_grad_(False) if config.optim.ema else None
        # Not in a team: NCCL waits at its end for captured graphs that hold its messages (pytorch#115388).
        captured = device.type == "cuda" and team.size == 1
        self.optimizers = make_optimizers(self.model, config.optim, captured)
        self.step = 0
        self.stopped_by = 0  # the signal, if one has come
        self.ready = False  # whether the whole team is
        self.meter = Meter(device)
        if config.train.compile:
            for each in {self.model, self.evaluated}:
                each.compile()  # in place, so that parameters keep their names
        self.stream: Any = contextlib.nullcontext()
        self.graphs: dict[bool, CudaGraph] = {}
        if device.type == "cuda":
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))  # which made the weights
            self.stream = torch.cuda.stream(stream)
            if captured:
                for windowed in {config.train.window is not None, False}:
                    self.graphs[windowed] = CudaGraph(partial(self.update, windowed), device)

    @property
    def done(self) -> bool:
        return self.step == self.steps

    @property
    def epoch(self) -> float:
        """Epochs so far, a fraction within one."""
        return self.step / self.steps_per_epoch

    @property
    def evaluated(self) -> VisionTransformer:
        """The model that is evaluated and kept for inference: the moving average if there is one."""
        return self.model if self.ema is None else self.ema

    @property
    def train_flops(self) -> int:
        """FLOPs spent on training so far."""
        return window.train_flops(self.config, self.step, self.steps)

    @property
    def planned_flops(self) -> int:
        """FLOPs of the whole training."""
        return window.train_flops(self.config, self.steps, self.steps)

    def compile(self) -> None:
        """Compile the model, on zeros and outside the clock, for all that is still to come; say how long that took.

        Raises:
            UsageError: it cannot be compiled here, for want of a C++ compiler for instance.
        """
        from torch._dynamo.exc import TorchDynamoException  # a second's import

        start = time.perf_counter()
        images = torch.zeros(self.micro_batch_size, 3, 32, 32, device=self.device)
        now, last = (window.is_open(self.config.train, step, self.steps) for step in (self.step, self.steps - 1))
        try:
            for windowed in {now, last}:
                with self.autocast:
                    self.model(images, places=self.places(windowed, len(images))).sum().backward()
        except TorchDynamoException as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"train.compile: the model cannot be compiled here ({reason})") from None
        self.model.zero_grad()
        compute.synchronize(self.device)
        if self.team.leads:
            say(f"compiled in {time.perf_counter() - start:.0f} s")

    def take_steps(self, received: list[int]) -> Iterator[None]:
        """Step to the end, or until a process of the team has `received` a signal.

        Yields once all processes are ready, before the first step, and then after every step.
        """
        if self.config.train.compile and not self.done:
            self.compile()
        self.stopped_by = self.team.all_reduce_max(0)
        self.ready = True
        yield
        while not (self.done or self.stopped_by):
            self.stopped_by = self.team.all_reduce_max(max(received, default=0))
            if not self.stopped_by:
                self.train_step()
                yield

    @contextlib.contextmanager
    def led(self) -> Iterator[None]:
        """For what the leader alone does: where it cannot go on, the others, who wait for it, end too."""
        try:
            yield
        except (UsageError, OSError):
            if not (self.ready and self.done):
                self.team.all_reduce_max(signal.SIGTERM)
            raise

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
        windowed = window.is_open(config.train, self.step, self.steps)
        if self.graphs:
            self.graphs[windowed](indices, seed)
        else:
            torch.manual_seed(seed)
            self.update(windowed, indices)
        if self.ema is not None:
            update_ema(self.ema, self.model, self.step, config.optim.ema)
        self.step += 1
        self.meter.count(B)

    def update(self, windowed: bool, indices: Tensor) -> None:
        """Move the weights by the gradient of these B training images, or of a window of each.

        It reads nothing back from the device.
        """
        config, team = self.config, self.team
        # All B in every process, so that a team sees the very images that one process would: mixing needs pairs.
        x, targets = augment(self.images[indices], self.labels[indices], config.model.classes, config.augment)
        places = self.places(windowed, len(x))
        x, targets = team.shard(x), team.shard(targets)
        if team.rank:  # or drop path would drop the same images of every share
            torch.manual_seed(seed_of(config.seed, f"process {team.rank}", self.step))
        parts = self.micro_batches
        seen = [None] * parts if places is None else team.shard(places).chunk(parts)
        for images, target, part in zip(x.chunk(parts), targets.chunk(parts), seen, strict=True):
            with self.autocast:
                logits = self.model(images, places=part)
            loss = F.cross_entropy(logits.float(), target, label_smoothing=config.train.label_smoothing)
            loss = loss / (parts * team.size)
            loss.backward()
            self.meter.add(loss.detach(), logits.detach(), target)
        parameters = list(self.model.parameters())
        team.all_reduce_sum([*(each.grad for each in parameters if each.grad is not None), self.meter.now])
        limit = config.optim.clip_norm or math.inf
        self.meter.close(torch.nn.utils.clip_grad_norm_(parameters, limit))
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def places(self, windowed: bool, images: int) -> Tensor | None:
        """What the model sees of each image: the patches in a window, or all."""
        side = self.config.train.window
        return window.places(self.config.model, side, images, self.device) if windowed and side else None

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "meter": self.meter.state(),
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved `state()`.

        Raises:
            KeyError, IndexError, TypeError, AttributeError, ValueError, RuntimeError: it is not of this model.
        """
        with self.stream:
            self.step = state["step"]
            self.meter.restore(state["meter"])
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
