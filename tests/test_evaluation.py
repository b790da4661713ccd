"""Metrics with known answers."""

from contextlib import nullcontext

import pytest
import torch

from vit.config import ViTConfig
from vit.evaluation import evaluate, measure
from vit.model import VisionTransformer


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
