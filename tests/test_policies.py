"""The policies are torchvision's: the same operations and strengths, the same pixels, an own draw for every image."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from vit import policies
from vit.policies import OPERATIONS, apply_policy, operate, random_operation, strengths

POLICIES = ["randaugment", "trivialaugment"]
CPU = torch.device("cpu")


def pictures() -> Tensor:
    """Noise, a photo-like gradient in colour and in grey, two levels, one colour, one grey, black, white."""
    noise = torch.randint(0, 256, (2, 3, 32, 32))
    slope = torch.linspace(0, 150, 32)[:, None] + torch.linspace(0, 60, 32)
    smooth = slope + torch.tensor([0, 20, 40])[:, None, None] + 6 * torch.randn(3, 32, 32)
    grey = smooth[:1].expand(3, 32, 32)
    two = torch.randint(0, 2, (3, 32, 32)) * 200 + 20
    flat = torch.tensor([[10, 100, 200], [77, 77, 77], [0, 0, 0], [255, 255, 255]])[:, :, None, None]
    return torch.cat([noise, torch.stack([smooth, grey, two]), flat.expand(4, 3, 32, 32)]).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_operation_at_every_strength_equals_torchvision(policy: str) -> None:
    torch.manual_seed(0)
    draws = strengths(policy, 32, 32, CPU).shape[1]
    images = pictures().repeat(draws, 1, 1, 1)
    draw = torch.arange(draws).repeat_interleave(len(images) // draws)
    ours = operate(images.repeat(14, 1, 1, 1), draw.repeat(14), policy).unflatten(0, (14, -1))
    theirs = v2.RandAugment() if policy == "randaugment" else v2.TrivialAugmentWide()
    assert tuple(theirs._AUGMENTATION_SPACE) == OPERATIONS
    steps = [9] if policy == "randaugment" else range(31)
    for operation, results in zip(OPERATIONS, ours, strict=True):
        table, signed = theirs._AUGMENTATION_SPACE[operation]
        values = table(31, 32, 32)
        magnitudes = [0.0 if values is None else float(values[step]) for step in steps]
        magnitudes += [-m if signed else m for m in magnitudes]
        for image, i, result in zip(images, draw, results, strict=True):
            expected = theirs._apply_image_or_video_transform(
                image, operation, magnitudes[i], theirs.interpolation, theirs._fill
            )
            assert torch.equal(result, expected), f"{operation} {magnitudes[i]}"


@pytest.fixture
def dealt(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Operations that only leave their number in the first channel; the draws of each call are collected."""
    draws = []

    def mark(images: Tensor, draw: Tensor, policy: str) -> Tensor:
        draws.append(draw)
        images[:, 0] = torch.arange(14).repeat_interleave(len(images) // 14)[:, None, None]
        return images

    monkeypatch.setattr(policies, "operate", mark)
    return draws


def numbered(B: int) -> Tensor:
    return torch.arange(B, dtype=torch.uint8).view(B, 1, 1, 1).expand(B, 3, 2, 2)


@pytest.mark.parametrize("B", [1, 13, 14, 15, 250])
def test_every_image_comes_back_in_its_place_with_one_operation(B: int, dealt: list[Tensor]) -> None:
    images = numbered(B)
    result = random_operation(images, "trivialaugment")
    assert torch.equal(result[:, 1:], images[:, 1:])
    counts = result[:, 0, 0, 0].long().bincount(minlength=14)
    assert counts.sum() == B
    assert counts.max() <= -(-B // 14)


@pytest.mark.parametrize("B", [3, 20])
def test_every_image_gets_each_operation_equally_often(B: int, dealt: list[Tensor]) -> None:
    calls = 2800
    drawn = torch.stack([random_operation(numbered(B), "trivialaugment")[:, 0, 0, 0].long() for _ in range(calls)])
    for image in drawn.T:
        counts = image.bincount(minlength=14)
        assert (counts - calls / 14).abs().max() < 5 * (calls / 14) ** 0.5


def test_strengths_are_drawn_evenly_and_randaugment_deals_twice(dealt: list[Tensor]) -> None:
    apply_policy(numbered(250).repeat(40, 1, 1, 1), "trivialaugment")
    counts = dealt.pop().bincount()
    assert len(counts) == 62  # 31 steps with either sign
    assert (counts - 10_000 / 62).abs().max() < 5 * (10_000 / 62) ** 0.5
    apply_policy(numbered(250), "randaugment")
    first, second = dealt
    assert 90 < first.sum() < 160  # either sign of step 9
    assert not torch.equal(first, second)


@pytest.mark.parametrize("policy", POLICIES)
def test_copies_of_one_image_come_out_different(policy: str) -> None:
    images = pictures()[2:3].expand(200, -1, -1, -1)
    before = images.clone()
    result = apply_policy(images, policy)
    assert result.dtype == torch.uint8
    assert result.shape == images.shape
    assert len(result.unique(dim=0)) > (60 if policy == "randaugment" else 120)
    assert torch.equal(images, before)


@pytest.mark.parametrize("policy", POLICIES)
def test_reproducible_by_seed(policy: str) -> None:
    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return apply_policy(images, policy)

    images = pictures()
    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("policy", POLICIES)
def test_no_shape_or_branch_depends_on_values(policy: str) -> None:
    """The meta device has no values; a GPU would have to wait for them, and could not be captured as a CUDA graph."""
    images = torch.empty(50, 3, 32, 32, dtype=torch.uint8, device="meta")
    assert apply_policy(images, policy).shape == images.shape
