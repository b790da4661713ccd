"""A sweep's agent trains what the sweep asks for, as runs that W&B finds under the ids it gave them."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb_server import WandbServer

from vit.cli import parse
from vit.config import Config, flatten

ROOT = Path(__file__).parents[1]
SWEEP = yaml.safe_load((ROOT / "configs/sweep.yaml").read_text())


def wandb(*arguments: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where the agent looks for `python`
    environment = os.environ | {"PATH": path, "WANDB_SILENT": "false"}
    command = [sys.executable, "-m", "wandb", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_every_point_of_the_sweep_is_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    fixed = [part.split("#")[0].strip() for part in SWEEP["command"] if part.startswith("--")]
    values = [[f"--{key}={value}" for value in each["values"]] for key, each in SWEEP["parameters"].items()]
    configs = [parse(Config, [*fixed, *point]) for point in itertools.product(*values)]
    assert len({json.dumps(flatten(config)) for config in configs}) == len(configs) == 24
    # A name would be in use from the second run on, and a sweep chooses, which the test split must not.
    assert all(config.name is None and not config.train.test for config in configs)
    assert SWEEP["program"] == "train.py"
    assert SWEEP["metric"]["name"] == "best/val_acc"


def test_an_agent_trains_the_settings_of_the_sweep(tmp_path: Path, data_root: Path, server: WandbServer) -> None:
    tiny = {"model.dim": 16, "model.depth": 1, "model.patch_size": 8, "data.train_images": 100, "data.val_images": 50}
    tiny |= {"train.epochs": 1, "train.batch_size": 50, "data.root": str(data_root), "device": "cpu"}
    settings = [f"--{key}={value}" for key, value in tiny.items()]
    *before, _ = SWEEP["command"]
    sweep: dict[str, Any] = SWEEP | {
        "program": str(ROOT / "train.py"),
        "command": [*(part for part in before if "--config" not in str(part)), *settings, "${args}"],
        "parameters": {"model.heads": {"values": [1, 2]}, "optim.lr": {"values": [0.012]}},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    said = wandb("sweep", "sweep.yaml", folder=tmp_path)
    (agent,) = re.findall(r"wandb agent (\S+)", said)
    wandb("agent", agent, folder=tmp_path)

    runs = list(server.runs.values())
    assert [run.name for run in runs] == ["agents-1", "agents-0"]
    assert [run.config["model.heads"]["value"] for run in runs] == [1, 2]
    for run in runs:
        assert run.config["optim.lr"]["value"] == 0.012
        assert run.config["train.test"]["value"] is False
        assert run.sweep == "sweep"
        assert run.finished
        assert SWEEP["metric"]["name"] in run.rows[-1]
    assert len(list((tmp_path / "runs").glob("*/"))) == 2
