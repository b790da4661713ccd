"""A published checkpoint is small, loads, and its card says what its files say and what evaluating it gives."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save

import vit
from eval import main as evaluate_door
from publish import main as publish_door
from vit import checkpoint, compute, data
from vit.checks import UsageError
from vit.cli import overrides, parse
from vit.commands import EvalConfig, EvalDataConfig, EvalWandbConfig, PublishConfig
from vit.config import Config, ViTConfig
from vit.description import read_description
from vit.device import autocast
from vit.evaluation import evaluate
from vit.publish import FILES, LIMIT, config_of
from vit.runs import train

Make = Callable[..., Config]
Cifar = tuple[data.Split, data.Split]

ROOT = Path(__file__).parents[1]
PUBLISHED = sorted(path.parent for path in (ROOT / "checkpoints").glob("*/config.json"))


def check_published(folder: Path, test: data.Split) -> None:
    check_card(folder)
    model, results = vit.load(folder), read_description(folder)["results"]
    assert sum(parameter.numel() for parameter in model.parameters()) == results["model/params"]
    result = evaluate(model, *test, 256, autocast("fp32", torch.device("cpu")), model.preprocess)
    assert result.acc == pytest.approx(results["test/acc"], abs=0.002)  # batches of another size may round otherwise


def check_card(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert (folder / "model.safetensors").stat().st_size <= LIMIT <= 8e6
    description, card = read_description(folder), (folder / "README.md").read_text()
    results, training = description["results"], description["training"]
    (hub,) = ModelCard(card).data.eval_results
    assert (hub.metric_type, hub.metric_value) == ("accuracy", pytest.approx(results["test/acc"], abs=5e-5))
    rows = dict(re.findall(r"^\| (.+) \| (.+) \|$", card, re.MULTILINE))
    assert rows["test accuracy"] == f"{results['test/acc']:.2%}"
    assert rows["test accuracy with test-time augmentation (ten views)"] == f"{results['test/acc_tta']:.2%}"
    assert rows["training cost"].startswith(f"{results['compute/train_flops'] / 1e15:.4g} PFLOP, ")
    assert rows["parameters"] == f"{results['model/params']:,}"
    assert rows["forward FLOPs an image (2 per multiply-accumulate)"] == f"{results['model/forward_flops']:,}"
    assert rows["seed"] == str(training["seed"])
    assert f'vit.load("{folder.parent.name}/{folder.name}")' in card
    assert not [key for key in training if key in ("runs_dir", "data.root") or key.startswith("wandb.")]


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_checkpoints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they reach is in acceptance/test_published.py, what their training was in test_numbers.py."""
    results = read_description(folder)["results"]
    model = checkpoint.load(folder).config
    assert results["model/params"] == compute.count_params(model)
    assert results["model/forward_flops"] == compute.forward_flops(model)
    assert results["test/acc"] == pytest.approx(results["train/test_acc"], abs=0.002)
    check_card(folder)
    monkeypatch.chdir(ROOT)
    trained = parse(Config, overrides(read_description(folder)["training"]))
    names = {"multi_head": "speedrun", "one_head": "speedrun_one_head"}
    assert results["config"] == config_of(trained) == f"configs/{names[folder.name]}.yaml"
    for link in re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text()):
        assert (folder / link).is_file(), link


@pytest.fixture
def run(small: Make) -> Path:
    return Path(train(small())["run"])


@pytest.fixture
def few(cifar: Cifar, monkeypatch: pytest.MonkeyPatch) -> Cifar:
    """CIFAR-10 with a test split of 500 images."""
    (train_split, (images, labels)) = cifar
    monkeypatch.setattr("vit.data.load", lambda root: (train_split, (images[:500], labels[:500])))
    return data.load("anywhere")


class TestPublishing:
    def test_the_run_comes_first_and_the_target_second(self) -> None:
        config = parse(PublishConfig, ["runs/multi_head", "checkpoints/multi_head", "--device=cpu"])
        assert config == PublishConfig("runs/multi_head", "checkpoints/multi_head", "cpu")

    def test_a_run_becomes_a_checkpoint_to_load_and_evaluate(self, run: Path, few: Cifar, tmp_path: Path) -> None:
        target = tmp_path / "checkpoints" / "multi_head"
        printed = publish_door(PublishConfig(str(run), str(target), device="cpu"))
        check_published(target, few[1])
        loaded, best = vit.load(target).state_dict(), vit.load(run).state_dict()
        assert all(torch.equal(loaded[name], best[name]) for name in best)
        config = EvalConfig(
            str(target), tta=True, device="cpu", data=EvalDataConfig("data"), wandb=EvalWandbConfig(mode="disabled")
        )
        evaluated = evaluate_door(config)
        assert evaluated["test/acc"] == printed["test/acc"]
        assert evaluated["test/acc_tta"] == printed["test/acc_tta"]

    def test_the_card_names_cost_splits_sibling_and_the_command(self, run: Path, few: Cifar, tmp_path: Path) -> None:
        summary = json.loads((run / "summary.json").read_text())
        summary |= {"device": "Some CPU, threads: 3", "compute/train_seconds": 90.0, "compute/train_flops": 2 * 10**15}
        (run / "summary.json").write_text(json.dumps(summary))
        target = tmp_path / "checkpoints" / "multi_head"
        publish_door(PublishConfig(str(run), str(target), device="cpu"))
        card = (target / "README.md").read_text()
        assert "| training cost | 2 PFLOP, 4.5 core-minutes |" in card
        assert "(../one_head/README.md)" in card
        assert "| whiten | False |" in card
        assert "relative bias" not in card
        assert "Validation (50 training images left out) chose the weights" in card
        assert f"| test accuracy as the training read it, in float32 | {summary['test/acc']:.2%} |" in card
        assert str(tmp_path) not in card + (target / "config.json").read_text()
        (command,) = re.findall(r"^python train.py (.*)$", card, re.MULTILINE)
        for setting in ("--name=multi_head", "--seed=0", "--model.dim=16", "--train.precision=fp32", "--optim.ema=0.9"):
            assert setting in command.split()
        # Loaded and saved again it is the same; only where it lies and what lies beside it are not.
        vit.load(target).save_pretrained(tmp_path / "copy")
        copied = (tmp_path / "copy" / "README.md").read_text()
        assert (tmp_path / "copy" / "config.json").read_bytes() == (target / "config.json").read_bytes()
        moved = {
            "# multi_head:": "# copy:",
            '- name: "multi_head"': '- name: "copy"',
            "checkpoints/multi_head": "path/to/copy",
        }
        expected = card.replace("\nCompare it with [one_head](../one_head/README.md).", "")
        for old, new in moved.items():
            expected = expected.replace(old, new)
        assert copied == expected
        # Publishing again replaces it.
        publish_door(PublishConfig(str(run), str(target), device="cpu"))
        assert (target / "README.md").read_text() == card

    def test_large_weights_are_stored_in_half_precision(
        self, run: Path, few: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        best = load_file(run / "best" / "model.safetensors")
        monkeypatch.setattr("vit.publish.LIMIT", len(save(best, {"format": "pt"})) - 1)
        publish_door(PublishConfig(str(run), str(tmp_path / "half"), device="cpu"))
        check_published(tmp_path / "half", few[1])
        stored = load_file(tmp_path / "half" / "model.safetensors")
        assert all(torch.equal(stored[name], best[name].half()) for name in best)
        monkeypatch.setattr("vit.publish.LIMIT", 100)
        with pytest.raises(UsageError, match=r"run: expected weights of at most 100 bytes, got .* in half precision"):
            publish_door(PublishConfig(str(run), str(tmp_path / "none"), device="cpu"))
        assert not (tmp_path / "none").exists()

    def test_what_cannot_be_published_is_refused(self, small: Make, run: Path, few: Cifar, tmp_path: Path) -> None:
        def refuse(source: Path, target: Path, message: str) -> None:
            with pytest.raises(UsageError, match=message):
                publish_door(PublishConfig(str(source), str(target), device="cpu"))

        refuse(tmp_path / "nowhere", tmp_path / "target", "nowhere: not a checkpoint or run folder")
        refuse(run / "best", tmp_path / "target", "expected the folder of a finished run")
        refuse(run, run, "expected a new folder or a published checkpoint, but it holds")
        refuse(run, run / "config.yaml", "target: expected a folder")
        refuse(run, tmp_path / "my_one_head", "target: expected a name that fits heads 2, got 'my_one_head'")
        one = Path(train(small(name="one", model=ViTConfig(dim=16, depth=2, heads=[1, 1], patch_size=8)))["run"])
        refuse(one, tmp_path / "multi_head", "target: expected a name that fits heads")
