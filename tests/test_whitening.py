"""A whitening patch embedding makes numbers that do not go together of pixels that do."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.checks import UsageError
from vit.cli import parse
from vit.config import Config, DataConfig, ViTConfig
from vit.data import Splits, normalise
from vit.parallel import Team
from vit.stepper import Stepper
from vit.whitening import whiten

PATCHES = ["patch_embed.proj.weight", "patch_embed.proj.bias"]


def correlated(count: int) -> Tensor:
    """Images whose neighbouring pixels are alike, as those of photographs are, and grainy."""
    noise = torch.Generator().manual_seed(0)
    scene = F.interpolate(torch.rand(count, 3, 8, 8, generator=noise), size=(32, 32), mode="bilinear")
    return ((0.8 * scene + 0.2 * torch.rand(scene.shape, generator=noise)) * 255).byte()


def covariance(embed: nn.Conv2d, images: Tensor) -> Tensor:
    """Of what a patch embedding makes of patches, (D, D)."""
    features = embed(normalise(images)).transpose(0, 1).flatten(1)
    return (features @ features.T / features.shape[1]).detach()


@pytest.mark.parametrize("width", [16, 48, 96])
def test_what_becomes_of_a_patch_is_uncorrelated_and_of_the_usual_size(width: int) -> None:
    images, embed = correlated(500), nn.Conv2d(3, width, 4, stride=4)
    before = torch.linalg.eigvalsh(covariance(embed, images))
    whiten(embed, images)
    after = covariance(embed, images)
    directions = min(width, 48)  # that 48 pixels can reach
    assert before[-1] > 15 * before[-directions:].median()
    assert torch.linalg.eigvalsh(after)[-directions:].min() > 0.8 * width / directions / 3
    assert torch.linalg.eigvalsh(after).max() < 1.001 * width / directions / 3
    assert 0.28 < after.diagonal().mean() < 0.334


def test_it_changes_the_patch_embedding_alone_and_the_same_for_every_head_count(data_root: Any) -> None:
    splits = Splits.load(DataConfig(root=str(data_root), train_images=100, val_images=50), torch.device("cpu"))

    def weights(heads: int, whiten: bool) -> dict[str, Tensor]:
        config = Config(model=ViTConfig(dim=16, depth=1, heads=heads), whiten=whiten)
        config.train.batch_size = 50
        return Stepper(config, torch.device("cpu"), splits.train, Team()).model.state_dict()

    plain, one, four = weights(1, False), weights(1, True), weights(4, True)
    assert [name for name in plain if not torch.equal(plain[name], one[name])] == PATCHES
    assert all(torch.equal(one[name], four[name]) for name in one)


def test_weights_of_another_model_are_not_whitened() -> None:
    with pytest.raises(UsageError, match="whiten: expected false: init has a patch embedding of its own, got True"):
        parse(Config, ["--init=timm:vit_tiny_patch16_224", "--whiten=true"])
