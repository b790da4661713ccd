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
from vit.whitening import EPS, whiten

PATCHES = ["patch_embed.proj.weight", "patch_embed.proj.bias"]


def correlated(count: int) -> Tensor:
    """Images whose neighbouring pixels are alike, as those of photographs are."""
    noise = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(noise, size=(32, 32), mode="bilinear") * 255).byte()


@pytest.mark.parametrize("width", [16, 48, 96])
def test_a_patch_is_whitened_and_rotated(width: int) -> None:
    """What the embedding makes of a patch would be uncorrelated, had every pixel noise of the variance EPS."""
    images, embed = correlated(500), nn.Conv2d(3, width, 4, stride=4)
    patches = F.unfold(normalise(images), 4, stride=4).transpose(0, 1).flatten(1)
    pixels = patches @ patches.T / patches.shape[1] + EPS * torch.eye(48)

    def variances() -> Tensor:
        """Of the outputs' principal components, but for those that 48 pixels cannot give."""
        weight = embed.weight.flatten(1)
        return torch.linalg.eigvalsh(weight @ pixels @ weight.T).detach()[-48:]

    before = variances()
    whiten(embed, images)
    assert before.max() > 50 * before.median()
    # A mean over all outputs of 1/3.
    torch.testing.assert_close(variances(), torch.full((min(width, 48),), max(1, width / 48) / 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(embed.bias, torch.zeros(width))


def test_the_signs_of_principal_components_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    eigh, weights = torch.linalg.eigh, []
    for sign in (1, -1):
        monkeypatch.setattr(torch.linalg, "eigh", lambda x, sign=sign: (eigh(x)[0], sign * eigh(x)[1]))
        torch.manual_seed(0)
        embed = nn.Conv2d(3, 64, 4, stride=4)
        whiten(embed, correlated(50))
        weights.append(embed.weight)
    torch.testing.assert_close(*weights)


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
