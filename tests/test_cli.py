"""Settings arrive as they were written, from a command line or from a W&B agent."""

import itertools
from pathlib import Path

import yaml

from vit.cli import parse
from vit.commands import PredictConfig
from vit.config import Config

ROOT = Path(__file__).parents[1]


def test_dashes_in_the_name_of_an_option_are_underscores() -> None:
    config = parse(PredictConfig, ["run", "a-b.png", "--batch-size=8", "--device", "cpu"])
    assert (config.images, config.batch_size) == (["a-b.png"], 8)
    assert parse(Config, ["--train.batch-size", "10", "--train.compile", "--name=a-b"]).name == "a-b"


def test_every_run_of_the_sweep_is_a_possible_training_of_its_own() -> None:
    sweep = yaml.safe_load((ROOT / "configs/sweep.yaml").read_text())
    assert sweep["program"] == "train.py"
    given = [
        f"--config={ROOT / 'configs/quickstart.yaml'}",
        *(word for word in sweep["command"][4:] if "$" not in word),
    ]
    values = [[(key, value) for value in each["values"]] for key, each in sweep["parameters"].items()]
    configs = [
        parse(Config, [*given, *(f"--{key}={value}" for key, value in point)]) for point in itertools.product(*values)
    ]
    assert {config.model.heads for config in configs} == {1, 2, 4, 8}
    # A name would be in use from the second run on, and a sweep chooses, which the test split must not.
    assert all(config.name is None and not config.train.test for config in configs)
    assert sweep["metric"]["name"] == "best/val_acc"
