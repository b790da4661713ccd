"""What tests share: the real CIFAR-10, and settings small enough to train in seconds."""

import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from wandb_server import WandbServer

from vit import data
from vit.config import AugmentConfig, Config, DataConfig, OptimConfig, TrainConfig, ViTConfig, WandbConfig

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


# What depends on the clock or the memory of the machine; all else is reproducible.
OF_THE_MACHINE = (
    "compute/train_seconds",
    "train/images_per_second",
    "compute/mfu",
    "compute/peak_memory_bytes",
    "inference/batch_1_seconds",
    "inference/batch_256_seconds",
)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with CIFAR-10, downloaded if need be: the one that `make train` uses."""
    data.load(ROOT / "data")
    return ROOT / "data"


@pytest.fixture(scope="session")
def cifar(data_root: Path) -> tuple[data.Split, data.Split]:
    return data.load(data_root)


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test finds the developer's W&B account, or leaves anything behind in the repository."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    yield
    if "wandb" in sys.modules:
        # It remembers the environment it first saw. Where a question of its was given up it may wait for ever.
        ending = threading.Thread(target=sys.modules["wandb"].teardown, daemon=True)
        ending.start()
        ending.join(60)
        assert not ending.is_alive()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A W&B server on the loopback interface, which this test is logged in at."""
    server = WandbServer()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    yield server
    server.close()


@pytest.fixture
def small(tmp_path: Path, data_root: Path) -> Callable[..., Config]:
    """Settings of a run of 2 epochs of 6 steps, with everything random switched on; groups can be overridden."""

    def make(**groups: Any) -> Config:
        defaults: dict[str, Any] = {
            "name": "run",
            "runs_dir": str(tmp_path / "runs"),
            "device": "cpu",
            "model": ViTConfig(dim=16, depth=2, heads=2, patch_size=8, drop_path=0.2),
            "data": DataConfig(root=str(data_root), train_images=120, val_images=50),
            "augment": AugmentConfig(cutout=8, erasing=0.3, mixup=0.4, policy="trivialaugment"),
            "optim": OptimConfig(ema=0.9),
            "train": TrainConfig(epochs=2, batch_size=20, log_every=4, window=16, window_share=0.4),
            "wandb": WandbConfig(mode="disabled"),
        }
        return Config(**(defaults | groups))

    return make


@pytest.fixture(autouse=True)
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Precision auto means float32 here on every machine; commands in processes of their own use what the CPU has."""
    monkeypatch.setattr("vit.device.has_bfloat16_units", lambda device: False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def browser() -> Iterator[Any]:
    """A real browser; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()
