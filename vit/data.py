"""CIFAR-10 as uint8 tensors: one cached file that is memory-mapped, and its fixed splits.

The file `cifar10.bin` holds 60000 rows, the 50000 training images first, each a label byte and 3 * 32 * 32 pixel bytes:
the rows of the data set's own "binary version" (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vit.checks import UsageError
from vit.config import DataConfig
from vit.files import FULL
from vit.terminal import say

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
TRAIN, TEST = 50000, 10000
PIXELS = 3 * 32 * 32
FILE = "cifar10.bin"
SHA256 = "013ba16d14ecc4829da62bf2af648ca30f600491ecb3e7f329c827db0dd17522"  # of that file

Split = tuple[Tensor, Tensor]


def load(root: str | Path) -> tuple[Split, Split]:
    """The official training and test sets, downloaded into `root` if they are not there.

    Returns:
        (train images, train labels), (test images, test labels): images uint8 (50000 or 10000, 3, 32, 32), labels
        int64 (50000 or 10000,). The images are views of the memory-mapped file and must not be written to.

    Raises:
        UsageError: there is no source, a folder is not writable, or the content is not CIFAR-10.
    """
    path = Path(root) / FILE
    if not path.exists():
        from vit.download import prepare  # network and archive code, needed once per machine

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock"))
            try:
                mine = lock.acquire(timeout=0)
            except Timeout:  # of several processes one prepares, the others wait
                say(f"{path}: another process prepares it; waiting")
                mine = lock.acquire()
            with mine:
                if not path.exists():
                    prepare(path)
        except OSError as error:
            if error.errno in FULL:
                raise
            raise UsageError(f"data.root {root}: cannot write there ({error.strerror})") from None
    rows = read_rows(path)
    images = rows[:, 1:].unflatten(1, (3, 32, 32))
    labels = rows[:, 0].long()
    return (images[:TRAIN], labels[:TRAIN]), (images[TRAIN:], labels[TRAIN:])


def read_rows(path: Path) -> Tensor:
    """Memory-map a cached file as uint8 (60000, 1 + 3 * 32 * 32); one that is not CIFAR-10 is deleted."""
    size = (TRAIN + TEST) * (1 + PIXELS)
    path.open("rb").close()  # where it may not be read this says so in an error of the system, torch.from_file does not
    if path.stat().st_size == size:
        rows = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).view(-1, 1 + PIXELS)
        if digest(rows) == SHA256:
            return rows
    path.unlink(missing_ok=True)  # another process may have come to the same
    raise UsageError(f"{path}: not CIFAR-10 (its SHA-256 differs), so it was deleted; run again to fetch it anew")


def digest(rows: Tensor) -> str:
    """SHA-256 of contiguous uint8 rows, without a copy of them."""
    return hashlib.sha256(rows.numpy().data).hexdigest()


def split_indices(labels: Tensor, config: DataConfig) -> tuple[Tensor, Tensor]:
    """Indices of the training and the validation images among the official training set.

    Validation is the last val_images / 10 of every class in the data set's own order, whatever the seed; training is
    the first train_images / 10 of what is left of every class, or all of it.

    Args:
        labels: (50000,) classes of the official training set.

    Returns:
        Two int64 vectors in ascending order, disjoint.
    """
    train, val = [], []
    for label in range(len(LABELS)):
        members = (labels == label).nonzero().flatten()
        cut = len(members) - config.val_images // 10
        kept = cut if config.train_images is None else config.train_images // 10
        train.append(members[:kept])
        val.append(members[cut:])
    return torch.cat(train).sort().values, torch.cat(val).sort().values


@dataclass(frozen=True)
class Splits:
    """Training, validation and test images and labels, on the device."""

    train: Split
    val: Split
    test: Split

    @classmethod
    def load(cls, config: DataConfig, device: torch.device) -> "Splits":
        (images, labels), test = load(config.root)
        train, val = split_indices(labels, config)
        parts = (images[train], labels[train]), (images[val], labels[val]), test
        return cls(*((images.to(device), labels.to(device)) for images, labels in parts))


def normalise(images: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """uint8 (..., 3, H, W) to float32 with mean 0 and standard deviation 1 per channel over the training set."""
    return (images.float() / 255 - per_channel(mean, images.device)) / per_channel(std, images.device)


@functools.cache
def per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Constants (3, 1, 1), made once: copying them to a GPU in every step would make it wait."""
    return torch.tensor(values, device=device).view(3, 1, 1)
