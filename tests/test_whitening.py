"""A whitened patch embedding sees pixels that do not go together."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vit.checks import UsageError
from vit.cli import parse
from vit.config import Config, DataConfig, ViTConfig
from vit.data import Splits, normalise
from vit.parallel import Team
from vit.stepper import Stepper
from vit.whitening import FLOOR, whiten


def correlated(count: int) -> Tensor:
    """Images whose neighbouring pixels are alike, as those of photographs are."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(noise, size=(32, 32), mode="bilinear") * 255).byte()


def covariance(weight: Tensor, images: Tensor) -> Tensor:
    """Of what a patch embedding makes of patches, (D, D)."""
    patches = F.unfold(normalise(images), 4, stride=4).transpose(1, 2).flatten(0, 1)
    features = patches @ weight.flatten(1).T
    return features.T @ features / len(features)


def test_what_the_pixels_of_a_patch_become_is_uncorrelated() -> None:
    images, weight = correlated(500), torch.eye(48).view(48, 3, 4, 4)
    before = torch.linalg.eigvalsh(covariance(weight, images))
    whiten(weight, images)
    after = torch.linalg.eigvalsh(covariance(weight, images))
    assert before.max() > 100 * before.median()
    torch.testing.assert_close(after, before / (before + FLOOR), atol=1e-3, rtol=1e-2)


def test_it_changes_the_patch_embedding_alone_and_the_same_for_every_head_count(data_root: Any) -> None:
    splits = Splits.load(DataConfig(root=str(data_root), train_images=100, val_images=50), torch.device("cpu"))

    def weights(heads: int, whiten: bool) -> dict[str, Tensor]:
        config = Config(model=ViTConfig(dim=16, depth=1, heads=heads), whiten=whiten)
        config.train.batch_size = 50
        return Stepper(config, torch.device("cpu"), splits.train, Team()).model.state_dict()

    plain, one, four = weights(1, False), weights(1, True), weights(4, True)
    assert [name for name in plain if not torch.equal(plain[name], one[name])] == ["patch_embed.proj.weight"]
    assert all(torch.equal(one[name], four[name]) for name in one)


def test_weights_of_another_model_are_not_whitened() -> None:
    with pytest.raises(UsageError, match="whiten: expected false: init has a patch embedding of its own, got True"):
        parse(Config, ["--init=timm:vit_tiny_patch16_224", "--whiten=true"])
