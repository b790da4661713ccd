"""The trained weights in the repository work with every command on a fresh clone, at once."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import vit
from vit import data
from vit.device import autocast
from vit.evaluation import evaluate
from vit.preprocess import Preprocess
from vit.results import unpack

ROOT = Path(__file__).parents[2]
CAT = "tests/pictures/cat.png"


@pytest.fixture(params=["multi_head", "one_head"])
def checkpoint(request: pytest.FixtureRequest) -> str:
    return f"checkpoints/{request.param}"


def command(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_the_picture_is_a_test_image(cifar: tuple[data.Split, data.Split]) -> None:
    with Image.open(ROOT / CAT) as picture:
        assert torch.equal(Preprocess(32).pixels(picture)[0], cifar[1][0][0])
    assert data.LABELS[int(cifar[1][1][0])] == "cat"


def test_predict_knows_the_cat_and_draws_where_it_looks(checkpoint: str, tmp_path: Path) -> None:
    output = command("predict.py", checkpoint, CAT, "--topk=3", "--format=json", f"--attention={tmp_path / 'drawn'}")
    answer = json.loads(output)
    assert answer["predictions"][0]["label"] == "cat"
    assert len(answer["predictions"]) == 3
    with Image.open(tmp_path / "drawn" / "cat.png") as drawn:
        assert drawn.width > 32


def test_its_card_tells_its_accuracy(checkpoint: str, cifar: tuple[data.Split, data.Split]) -> None:
    """In float32, as published; another processor may round an image or two across. And image by image it has right
    what its training had, up to what float32 instead of bfloat16 decides."""
    folder = ROOT / checkpoint
    described = json.loads((folder / "config.json").read_text())["results"]
    model, (images, labels) = vit.load(folder), cifar[1]
    result = evaluate(model, images, labels, 64, autocast("fp32", torch.device("cpu")), model.preprocess)
    assert result.acc == pytest.approx(described["test/acc"], abs=0.0005)
    assert f"{100 * described['test/acc']:.2f}%" in (folder / "README.md").read_text()
    rung = Path(described["config"]).stem.removesuffix("_one_head")
    with (ROOT / f"reports/{rung}/results.csv").open(newline="") as file:
        rows = {(row["phase"], row["arm"], row["seed"]): row for row in csv.DictReader(file)}
    right = torch.from_numpy(unpack(rows["final", folder.name, "0"]["test/correct"]))
    same = (result.probabilities.argmax(dim=1) == labels) == right
    assert same.float().mean() > 0.99


def test_it_is_exported(checkpoint: str, tmp_path: Path) -> None:
    command("-m", "vit.export", checkpoint, "--format=torch", f"--output={tmp_path / 'model.pt2'}")
    assert (tmp_path / "model.pt2").stat().st_size > 1e6
