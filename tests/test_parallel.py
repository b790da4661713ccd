"""A team of processes trains the model that one process would, and only its leader logs and saves."""

import dataclasses
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import OF_THE_MACHINE
from safetensors.torch import load_file

from vit.checks import UsageError
from vit.config import Config, OptimConfig, ViTConfig
from vit.data import Splits
from vit.model import Block
from vit.parallel import Team, gathered
from vit.runs import train
from vit.stepper import Stepper

ROOT = Path(__file__).parents[1]

Start = Callable[..., subprocess.Popen]


@pytest.fixture
def config(small: Any, tmp_path: Path) -> Config:
    """Every augmentation is on; without drop path, whose masks each process draws for itself."""
    small = small(model=ViTConfig(dim=16, depth=2, heads=2, patch_size=8))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(small)))
    return small


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Start]:
    """Start train.py in two processes; what still runs at the end of the test is stopped."""
    started: list[subprocess.Popen] = []

    def start(*options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += [str(ROOT / "train.py"), "--config=config.yaml", "--train.precision=fp32", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=tmp_path, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_what_one_does(config: Config, tmp_path: Path, torchrun: Start) -> None:
    stdout, stderr = torchrun("--name=team").communicate(timeout=200)
    [line] = stdout.splitlines()  # of the leader alone
    assert json.loads(line)["name"] == "team", stderr
    assert stderr.count("test accuracy") == 1
    alone = Path(train(config)["run"])
    team = tmp_path / "runs" / "team"
    for ours, theirs in zip(rows(team), rows(alone), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - set(OF_THE_MACHINE):
            expected = theirs[key]
            if isinstance(expected, float):  # a few images of a split may change sides on another CPU
                expected = pytest.approx(expected, rel=1e-3, abs=0.04 if key.endswith("acc") else 1e-5)
            assert ours[key] == expected, key
    ours, theirs = (load_file(folder / "last" / "model.safetensors") for folder in (team, alone))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)


def test_a_stopped_team_goes_on_to_the_same_end(config: Config, tmp_path: Path, torchrun: Start) -> None:
    longer = "--train.epochs=30"
    stdout, stderr = torchrun(longer, "--name=whole").communicate(timeout=200)
    assert stdout, stderr
    stopped = torchrun(longer, "--name=stopped")
    folder = tmp_path / "runs" / "stopped"
    while not (folder / "best").exists():
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)  # torchrun hands it to every process
    _, stderr = stopped.communicate(timeout=100)
    assert "all saved; go on with: torchrun --nproc-per-node=2 train.py --config " in stderr
    assert not (folder / "summary.json").exists()
    stdout, stderr = torchrun(longer, "--name=stopped", "--resume").communicate(timeout=200)
    assert stdout, stderr
    ours, theirs = (load_file(tmp_path / "runs" / name / "last" / "model.safetensors") for name in ("stopped", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [row["compute/epoch"] for row in rows(folder)] == [
        row["compute/epoch"] for row in rows(tmp_path / "runs/whole")
    ]


def test_a_name_in_use_is_refused_by_the_leader_alone(config: Config, tmp_path: Path, torchrun: Start) -> None:
    (tmp_path / "runs" / "taken").mkdir(parents=True)
    (tmp_path / "runs" / "taken" / "mine").touch()
    process = torchrun("--name=taken")
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode != 0
    assert stdout == ""
    assert stderr.count("runs/taken exists already") == 1
    assert "gloo" not in stderr  # no follower was left waiting for a message


def test_a_finished_run_is_not_trained_again(config: Config, tmp_path: Path, torchrun: Start) -> None:
    finished = train(
        dataclasses.replace(config, name="done", train=dataclasses.replace(config.train, precision="fp32"))
    )
    stdout, stderr = torchrun("--name=done", "--resume", f"--runs_dir={config.runs_dir}").communicate(timeout=100)
    assert json.loads(stdout)["test/acc"] == finished["test/acc"]
    assert stderr.count("is finished already") == 1


def test_a_team_that_diverges_ends_together(config: Config, tmp_path: Path, torchrun: Start) -> None:
    process = torchrun("--name=wild", "--optim.lr=1e30", "--train.log_every=1")
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode != 0
    assert stdout == ""
    assert stderr.count("the training diverged") == 1
    assert "gloo" not in stderr  # no follower was left waiting for a message


def test_a_team_whose_leader_cannot_begin_ends_together(config: Config, tmp_path: Path, torchrun: Start) -> None:
    settings = dataclasses.replace(config.train, precision="fp32")
    folder = Path(train(dataclasses.replace(config, name="cut", train=settings))["run"])
    (folder / "summary.json").unlink()
    (folder / "metrics.jsonl").write_text("")
    process = torchrun("--name=cut", "--resume", f"--runs_dir={config.runs_dir}")
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode != 0
    assert stdout == ""
    assert stderr.count("metrics.jsonl: shorter than when the run was saved") == 1
    assert "gloo" not in stderr  # no follower was left waiting for a message


def test_a_batch_that_cannot_be_shared_is_refused(config: Config, tmp_path: Path, torchrun: Start) -> None:
    process = torchrun("--name=odd", "--train.batch_size=25")
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode != 0
    assert stdout == ""
    assert "train.batch_size: expected a multiple of the 2 processes, got 25" in stderr
    assert not (tmp_path / "runs").exists()


def test_seeds_side_by_side_and_a_team_are_refused_together(config: Config, tmp_path: Path, torchrun: Start) -> None:
    _, stderr = torchrun("--seeds=[0, 1]").communicate(timeout=100)
    assert "seeds: expected null: torchrun trains one seed at a time" in stderr
    assert not (tmp_path / "runs").exists()


def test_processes_of_several_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"--nnodes: expected 1, .* got '4 processes'"), gathered(torch.device("cpu")):
        pass


def test_every_process_drops_other_images(small: Any, cifar: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drop path's masks of the first step: those of process 1 are not those of process 0, nor of process 2."""
    config = small(optim=OptimConfig())
    splits = Splits.load(config.data, torch.device("cpu"))
    monkeypatch.setattr(Team, "all_reduce_sum", lambda *_: None)
    masks = []
    for rank in range(3):
        dropped: list[torch.Tensor] = []

        def drop(block: Block, branch: torch.Tensor, dropped: list[torch.Tensor] = dropped) -> torch.Tensor:
            dropped.append(torch.rand(len(branch)))
            return branch

        monkeypatch.setattr(Block, "drop", drop)
        Stepper(config, torch.device("cpu"), splits.train, Team(rank, 4)).train_step()
        masks.append(torch.cat(dropped))
    for one, other in itertools.combinations(masks, 2):
        assert not set(one.tolist()) & set(other.tolist())
