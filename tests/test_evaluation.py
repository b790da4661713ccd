"""Metrics with known answers."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from eval import main as evaluate_door
from vit import data
from vit.checks import UsageError
from vit.commands import EvalConfig, EvalDataConfig, EvalWandbConfig
from vit.config import Config, ViTConfig
from vit.data import normalise
from vit.evaluation import augmented_accuracy, evaluate, measure, views
from vit.model import VisionTransformer
from vit.runs import train


def test_accuracy_confusion_and_top5_by_hand() -> None:
    logits = torch.tensor([[9.0, 0, 1, 2, 3, 4], [0, 9, 1, 2, 3, 4], [9, 0, 1, 2, 3, 4], [6, 5, 4, 3, 2, 1]])
    labels = torch.tensor([0, 1, 1, 5])
    result = measure(logits, labels)
    assert result["acc"] == 0.5
    assert result["acc_top5"] == 0.5  # classes 1 of the third and 5 of the fourth are the sixth choice
    assert result["confusion"][1] == [1, 1, 0, 0, 0, 0]
    assert result["confusion"][5] == [1, 0, 0, 0, 0, 0]
    assert result["per_class_acc"] == [1, 0.5, 0, 0, 0, 0]
    assert result["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())


def test_calibration_error_by_hand() -> None:
    """Eight predictions at 80 % confidence of which 4 are right, two at 60 % both right: 0.8 * 0.3 + 0.2 * 0.4."""
    sure, less = torch.tensor([0.8, 0.2]).log(), torch.tensor([0.6, 0.4]).log()
    logits = torch.stack([sure] * 8 + [less] * 2)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 0, 0])
    assert measure(logits, labels)["ece"] == pytest.approx(0.32)


def test_a_calibrated_model_has_no_calibration_error() -> None:
    probabilities = torch.rand(200_000, 1) / 2 + 0.5
    logits = torch.cat([probabilities, 1 - probabilities], dim=1).log()
    labels = (torch.rand(200_000) > probabilities[:, 0]).long()
    assert measure(logits, labels)["ece"] < 0.005


def test_evaluate_is_batch_independent_and_leaves_the_model_as_it_was() -> None:
    model = VisionTransformer(ViTConfig(dim=16, depth=2, heads=2, patch_size=8, drop_path=0.5)).train()
    images, labels = torch.randint(0, 256, (23, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (23,))
    whole = evaluate(model, images, labels, 23, nullcontext())
    parts = evaluate(model, images, labels, 5, nullcontext())
    torch.testing.assert_close(whole.probabilities, parts.probabilities)
    assert model.training
    assert whole.images_per_second > 0
    assert whole.row("val").keys() == {"val/loss", "val/acc"}
    assert whole.row("test").keys() == {"test/loss", "test/acc", "test/ece"}


class TestTestTimeAugmentation:
    def test_views_of_a_symmetric_image_agree(self) -> None:
        """Mirroring changes neither the image nor its moves up and down, and swaps those to the left and right."""
        half = torch.randn(2, 3, 8, 4)
        x = torch.cat([half, half.flip(3)], dim=3)
        seen = views(x)
        assert len(seen) == 10
        assert torch.equal(seen[0], x)
        for view, mirrored in ((0, 5), (1, 6), (2, 7), (3, 9), (4, 8)):
            assert torch.equal(seen[view], seen[mirrored])
        assert all(not torch.equal(a, b) for i, a in enumerate(seen[:5]) for b in seen[:i])

    def test_accuracy_is_that_of_a_plain_loop(self, cifar: tuple[data.Split, data.Split]) -> None:
        """One view of one image at a time, each pixel moved by hand; untrained, but with weights large enough to tell
        views apart."""
        _, (images, labels) = cifar
        images, labels = images[:300], labels[:300]
        model = VisionTransformer(ViTConfig(dim=16, depth=1, heads=2, patch_size=8, drop_path=0.5)).train()
        torch.nn.init.normal_(model.head.weight)
        correct = plain = 0
        model.eval()
        for image, label in zip(images, labels, strict=True):
            probabilities = torch.zeros(10)
            for mirrored in (False, True):
                for down, right in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
                    view = normalise(image[None]).roll((down, right), (2, 3))
                    if down:
                        view[:, :, 0 if down > 0 else -1] = 0
                    if right:
                        view[:, :, :, 0 if right > 0 else -1] = 0
                    probabilities += model(view.flip(3) if mirrored else view)[0].softmax(dim=0).detach() / 10
            correct += int(probabilities.argmax() == label)
            plain += int(model(normalise(image[None])).argmax() == label)
        model.train()
        assert augmented_accuracy(model, images, labels, 64, nullcontext()) == correct / 300
        assert correct != plain  # or the test would not see a difference
        assert model.training

    def test_eval_refuses_other_classes(self, small: Callable[..., Config], data_root: Path) -> None:
        path = Path(train(small())["checkpoint"]) / "config.json"
        description = json.loads(path.read_text())
        path.write_text(json.dumps(description | {"labels": description["labels"][::-1]}))
        with pytest.raises(UsageError, match="labels: expected the classes of CIFAR-10"):
            evaluate_door(EvalConfig(str(path.parent), device="cpu", data=EvalDataConfig(str(data_root))))

    def test_eval_shows_the_plain_accuracy_first_and_the_augmented_beside_it(
        self, small: Callable[..., Config], data_root: Path, capsys: pytest.CaptureFixture
    ) -> None:
        folder = Path(train(small())["run"])
        results = {}
        for tta in (False, True):
            capsys.readouterr()
            config = EvalConfig(
                str(folder),
                split="val",
                tta=tta,
                device="cpu",
                data=EvalDataConfig(str(data_root)),
                wandb=EvalWandbConfig(mode="disabled"),
            )
            results[tta] = evaluate_door(config)
            first, *lines = capsys.readouterr().err.splitlines()
            assert "50 images in float32 on cpu" in first
            assert ("ten views" in first) == tta
            assert lines[0].startswith(f"accuracy {results[tta]['val/acc']:.2%}, top-5")
            assert ("test-time augmentation" in lines[1]) == tta
        assert "val/acc_tta" not in results[False]
        assert results[True]["val/acc"] == results[False]["val/acc"]
        keys = list(results[True])
        assert keys[keys.index("val/acc") + 1] == "val/acc_tta"
        assert f"accuracy {results[True]['val/acc_tta']:.2%} with test-time augmentation" in lines[1]
