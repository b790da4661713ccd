"""Each operation, looked at in pixels: it does what it says, to each image on its own, the same for the same seed."""

import pytest
import torch
from torch import Tensor

from vit.augment import augment, beta, cutout, flip_and_crop, mix, random_erasing
from vit.config import AugmentConfig
from vit.data import normalise

B = 400
OFF = {"flip": False, "crop": 0}


@pytest.fixture
def images() -> Tensor:
    """B copies of one picture without any symmetry and without black, so that what happened can be read off."""
    return torch.randint(1, 256, (1, 3, 32, 32), dtype=torch.uint8).expand(B, -1, -1, -1)


def test_everything_off_is_the_normalised_image(images: Tensor) -> None:
    labels = torch.arange(B) % 10
    x, targets = augment(images, labels, 10, AugmentConfig(**OFF))
    assert torch.equal(x, normalise(images))
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 10).float())


def test_flip_mirrors_about_half_of_the_images(images: Tensor) -> None:
    flipped = flip_and_crop(images, flip=True, shift=0)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert torch.equal(mirrored, ~kept)
    assert 0.4 * B < mirrored.sum() < 0.6 * B


def test_crop_shifts_every_image_by_its_own_offset_and_fills_with_black(images: Tensor) -> None:
    shifted = flip_and_crop(images, flip=False, shift=2)
    padded = torch.nn.functional.pad(images[0], [2] * 4)
    crops = {(dy, dx): padded[:, dy : dy + 32, dx : dx + 32] for dy in range(5) for dx in range(5)}
    seen = []
    for image in shifted:
        matches = [offset for offset, crop in crops.items() if torch.equal(image, crop)]
        assert len(matches) == 1
        seen += matches
    assert set(seen) == set(crops)  # all 25 offsets occur among 400 images


def test_flip_and_crop_combine(images: Tensor) -> None:
    padded = torch.nn.functional.pad(images[0], [1] * 4)
    crops = [padded[:, dy : dy + 32, dx : dx + 32] for dy in range(3) for dx in range(3)]
    variants = crops + [crop.flip(-1) for crop in crops]
    for image in flip_and_crop(images, flip=True, shift=1)[:50]:
        assert sum(torch.equal(image, variant) for variant in variants) == 1


def test_cutout_blanks_one_square_per_image(images: Tensor) -> None:
    x = torch.ones(B, 3, 32, 32)
    blank = (cutout(x, 8) == 0).all(dim=1)  # (B, H, W)
    heights, widths = blank.any(2).sum(1), blank.any(1).sum(1)
    assert torch.equal(blank.flatten(1).sum(1), heights * widths)  # one solid rectangle
    assert heights.max() == widths.max() == 8  # smaller only where cut off by the edge
    assert heights.min() >= 4
    assert widths.min() >= 4
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in blank}) > 100


def test_erasing_blanks_a_rectangle_in_a_part_of_the_images() -> None:
    x = torch.ones(4000, 3, 32, 32)
    blank = (random_erasing(x, 0.25) == 0).all(dim=1)
    heights, widths, area = blank.any(2).sum(1), blank.any(1).sum(1), blank.flatten(1).sum(1)
    assert torch.equal(area, heights * widths)
    erased = area > 0
    assert erased.float().mean().item() == pytest.approx(0.25, abs=0.03)
    share = area[erased] / 1024
    assert 0.01 < share.min() < 0.04
    assert 0.3 < share.max() < 0.36
    ratio = heights[erased] / widths[erased]
    assert ratio.min() < 0.4
    assert ratio.max() > 2.5


def test_mixup_blends_two_images_and_their_labels() -> None:
    x = torch.arange(B, dtype=torch.float32).view(B, 1, 1, 1).expand(B, 3, 4, 4)
    targets = torch.eye(B)
    mixed, soft = mix(x, targets, mixup=0.8, cutmix=0)
    values = mixed.flatten(1)
    assert torch.equal(values.min(1).values, values.max(1).values)  # a blend, not a patchwork
    torch.testing.assert_close(values[:, 0], soft @ x[:, 0, 0, 0])  # in the same proportion as the labels
    torch.testing.assert_close(soft.sum(1), torch.ones(B))
    assert len(soft.diagonal().unique()) > B / 2  # every image has its own share


def test_cutmix_pastes_a_box_and_mixes_labels_by_area() -> None:
    x = torch.arange(B, dtype=torch.float32).view(B, 1, 1, 1).expand(B, 3, 32, 32)
    mixed, soft = mix(x, torch.eye(B), mixup=0, cutmix=1.0)
    assert torch.equal(mixed, mixed[:, :1].expand_as(mixed))  # the same box in all channels
    pasted = mixed[:, 0] != x[:, 0]
    assert torch.equal(pasted.flatten(1).sum(1), pasted.any(2).sum(1) * pasted.any(1).sum(1))  # one rectangle
    torch.testing.assert_close(1 - soft.diagonal(), pasted.float().mean(dim=(1, 2)))
    for i in range(B):
        sources = mixed[i, 0][pasted[i]].unique().long().tolist()
        assert len(sources) <= 1
        assert all(soft[i, j] > 0 for j in sources)
    assert len(soft.diagonal().unique()) > B / 4


def test_mixup_and_cutmix_together_share_the_images() -> None:
    x = torch.arange(B, dtype=torch.float32).view(B, 1, 1, 1).expand(B, 1, 32, 32)
    mixed, _ = mix(x, torch.eye(B), mixup=1.0, cutmix=1.0)
    blended = torch.tensor([len(image.unique()) == 1 and image.flatten()[0] != i for i, image in enumerate(mixed)])
    patched = torch.tensor([len(image.unique()) == 2 for image in mixed])
    assert 0.35 * B < blended.sum() < 0.65 * B
    assert 0.3 * B < patched.sum() < 0.6 * B


def test_beta_has_the_moments_of_its_distribution() -> None:
    x = torch.empty(20_000, 1)
    for alpha in (0.2, 1.0):
        draws = beta(alpha, x)
        assert draws.mean().item() == pytest.approx(0.5, abs=0.02)
        assert draws.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert torch.equal(beta(0, x), torch.ones(20_000))


@pytest.mark.parametrize(
    "switch",
    [
        {"flip": True},
        {"crop": 2},
        {"policy": "trivialaugment"},
        {"policy": "randaugment"},
        {"cutout": 8},
        {"erasing": 1.0},
        {"mixup": 1.0},
        {"cutmix": 1.0},
    ],
    ids=str,
)
def test_every_switch_changes_the_batch(switch: dict) -> None:
    images, labels = torch.randint(1, 256, (32, 3, 32, 32), dtype=torch.uint8), torch.arange(32) % 10
    plain, hard = augment(images, labels, 10, AugmentConfig(**OFF))
    x, targets = augment(images, labels, 10, AugmentConfig(**(OFF | switch)))
    assert x.shape == plain.shape
    assert not torch.equal(x, plain)
    assert torch.equal(targets, hard) == (not switch.keys() & {"mixup", "cutmix"})


def test_reproducible_by_seed() -> None:
    images, labels = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8), torch.arange(32) % 10
    config = AugmentConfig(policy="trivialaugment", cutout=8, erasing=0.5, mixup=0.5, cutmix=1.0)

    def run(seed: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        return augment(images, labels, 10, config)

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
