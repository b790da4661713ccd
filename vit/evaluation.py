"""How good a model is on a split: accuracy, loss, calibration, per class."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from vit.compute import synchronize
from vit.data import normalise
from vit.progress import has_width

BINS = 15  # of confidence, as in the paper's tables


@dataclass
class Evaluation:
    """Fractions and means over a split of n images; `probabilities` is (n, classes) on the CPU."""

    acc: float
    acc_top5: float
    loss: float
    ece: float
    per_class_acc: list[float]
    confusion: list[list[int]]
    images_per_second: float
    probabilities: Tensor

    def row(self, split: str) -> dict[str, float]:
        """The logged metrics, named after the split."""
        row = {f"{split}/loss": self.loss, f"{split}/acc": self.acc}
        return row | ({f"{split}/ece": self.ece} if split == "test" else {})


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and then as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    autocast: AbstractContextManager,
    preprocess: Callable[[Tensor], Tensor] = normalise,
) -> Evaluation:
    """Classify a split in eval mode, batch by batch, and put the model back as it was.

    Args:
        images: uint8 (n, 3, H, W), on any device.
        labels: int64 (n,).
        autocast: context that sets the precision of the forward pass.
        preprocess: turns uint8 images into what the model takes.
    """
    device = next(model.parameters()).device
    synchronize(device)
    start = time.perf_counter()
    with evaluating(model), autocast:
        logits = torch.cat([model(preprocess(batch.to(device))).float() for batch in images.split(batch_size)])
    synchronize(device)
    seconds = time.perf_counter() - start
    metrics = measure(logits.cpu(), labels.cpu())
    return Evaluation(images_per_second=len(images) / seconds, **metrics)


@torch.no_grad()
def augmented_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    autocast: AbstractContextManager,
    preprocess: Callable[[Tensor], Tensor] = normalise,
) -> float:
    """Accuracy, a fraction, with the class probabilities of ten views averaged; arguments as for `evaluate`."""
    device = next(model.parameters()).device
    correct = 0
    pairs = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    bar = tqdm(pairs, "ten views", -(-len(images) // batch_size), leave=False, unit=" batches", disable=not has_width())
    with evaluating(model), autocast:
        for batch, truth in bar:
            probabilities = [model(view).float().softmax(dim=1) for view in views(preprocess(batch.to(device)))]
            correct += int((torch.stack(probabilities).mean(dim=0).argmax(dim=1) == truth.to(device)).sum())
    return correct / len(images)


def views(x: Tensor) -> list[Tensor]:
    """Ten views of normalised images (B, C, H, W): as they are and moved by one pixel down, up, right and left, then
    the mirror image of each of the five. Zeros, the mean colour, fill what a move leaves empty."""
    H, W = x.shape[2:]
    padded = F.pad(x, [1] * 4)
    moved = [padded[:, :, y : y + H, x : x + W] for y, x in ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))]
    return moved + [view.flip(3) for view in moved]


def measure(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Metrics of logits (n, classes) against labels (n,).

    `ece` is the expected calibration error (Guo et al. 2017, arXiv 1706.04599): the gap between mean confidence and
    accuracy in each of BINS equal bins of confidence, weighted by the images in the bin.
    """
    n, classes = logits.shape
    probabilities = logits.double().softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    correct = (predicted == labels).double()
    bin_of = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.double).index_add_(0, bin_of, confidence - correct)
    confusion = torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes)
    per_class = confusion.diag().double() / confusion.sum(dim=1).clamp(min=1)
    top5 = logits.topk(min(5, classes), dim=1).indices
    return {
        "acc": correct.mean().item(),
        "acc_top5": (top5 == labels[:, None]).any(dim=1).double().mean().item(),
        "loss": F.cross_entropy(logits.double(), labels).item(),
        "ece": gaps.abs().sum().item() / n,
        "per_class_acc": per_class.tolist(),
        "confusion": confusion.tolist(),  # rows: true class, columns: predicted
        "probabilities": probabilities.float(),
    }
