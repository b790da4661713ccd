"""What is measured while training: loss and accuracy since the last row, and the time and energy of training alone."""

import time
from typing import Any

import torch
from torch import Tensor

from vit import compute


class Meter:
    """Sums over the steps since the last logged row, kept on the device so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        number = torch.double if device.type != "mps" else torch.float
        self.sums = torch.zeros(3, dtype=number, device=device)
        self.now = torch.zeros(2, dtype=number, device=device)  # loss and hits of the present step
        self.images = self.steps = 0
        self.since = 0.0  # training seconds at the last row

    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Of one part of a step: its share of the step's loss, and how often the likeliest class is the target's."""
        correct = (logits.argmax(dim=1) == targets.argmax(dim=1)).sum()
        self.now[0] += loss
        self.now[1] += correct

    def close(self, grad_norm: Tensor) -> None:
        """The step is over: take what `now` holds."""
        self.sums[:2] += self.now
        self.sums[2] += grad_norm
        self.now.zero_()

    def count(self, images: int) -> None:
        """One more step, of that many images."""
        self.images += images
        self.steps += 1

    def row(self, seconds: float) -> dict[str, Any]:
        """The sums as a row; they begin anew."""
        loss, correct, norm = self.sums.tolist()
        row = {
            "train/loss": loss / self.steps,
            "train/acc": correct / self.images,
            "train/grad_norm": norm / self.steps,
            "train/images_per_second": self.images / (seconds - self.since),
        }
        self.sums.zero_()
        self.images, self.steps, self.since = 0, 0, seconds
        return row

    def state(self) -> dict[str, Any]:
        return {"sums": self.sums.tolist(), "images": self.images, "steps": self.steps, "since": self.since}

    def restore(self, state: dict[str, Any]) -> None:
        self.sums.copy_(torch.tensor(state["sums"], dtype=self.sums.dtype))
        self.images, self.steps, self.since = state["images"], state["steps"], state["since"]


class Clock:
    """Seconds, and on a GPU joules, of training alone: what lies between a `start` and the next `lap`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self.joules: float | None = None

    def start(self) -> None:
        compute.synchronize(self.device)
        self.meter = compute.energy_joules(self.device)
        self.started = time.perf_counter()  # last, as reading the meter takes milliseconds

    def lap(self) -> None:
        compute.synchronize(self.device)
        self.seconds += time.perf_counter() - self.started
        meter = compute.energy_joules(self.device)
        if meter is not None and self.meter is not None:
            self.joules = (self.joules or 0.0) + meter - self.meter
