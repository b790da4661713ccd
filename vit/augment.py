"""Augmentation of a whole batch on its device, every image with its own random draw.

All randomness comes from PyTorch's global generators, so `torch.manual_seed` before a call makes it reproducible.
B images of C channels, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vit.config import AugmentConfig
from vit.data import normalise
from vit.policies import apply_policy


def augment(images: Tensor, labels: Tensor, classes: int, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Turn stored images into a training batch.

    Args:
        images: uint8 (B, 3, H, W).
        labels: int64 (B,).

    Returns:
        Normalised float32 images (B, 3, H, W) and target probabilities (B, classes).
    """
    if config.flip or config.crop:
        images = flip_and_crop(images, config.flip, config.crop)
    if config.policy != "none":
        images = apply_policy(images, config.policy)
    x = normalise(images)
    if config.cutout:
        x = cutout(x, config.cutout)
    if config.erasing:
        x = random_erasing(x, config.erasing)
    targets = F.one_hot(labels, classes).float()
    if config.mixup or config.cutmix:
        x, targets = mix(x, targets, config.mixup, config.cutmix)
    return x, targets


def flip_and_crop(images: Tensor, flip: bool, shift: int) -> Tensor:
    """Mirror each image with probability 1/2 and move it by up to `shift` pixels each way, in one gather."""
    B, C, H, W = images.shape
    device = images.device
    rows = torch.arange(H, device=device) + torch.randint(0, 2 * shift + 1, (B, 1), device=device)  # (B, H)
    columns = torch.arange(W, device=device).expand(B, W)
    if flip:
        mirrored = torch.rand(B, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = columns + torch.randint(0, 2 * shift + 1, (B, 1), device=device)  # (B, W)
    padded = F.pad(images, [shift] * 4)
    pixels = rows[:, :, None] * (W + 2 * shift) + columns[:, None, :]  # (B, H, W)
    return padded.flatten(2).gather(2, pixels.flatten(1)[:, None].expand(-1, C, -1)).view(B, C, H, W)


def cutout(x: Tensor, side: int) -> Tensor:
    """Blank (to the mean colour) a square of `side` pixels around a random point; it may reach over the edge."""
    B, _, H, W = x.shape
    y, x_ = torch.rand(2, B, device=x.device)
    top, left = (y * H - side / 2).round(), (x_ * W - side / 2).round()
    return x.masked_fill(boxes(x, top, left, top + side, left + side), 0)


def random_erasing(x: Tensor, probability: float) -> Tensor:
    """Blank a rectangle of 2 to 33 % of the area, sides in ratio 0.3 to 3.3, inside a random part of the images."""
    B, _, H, W = x.shape
    area = torch.empty(B, device=x.device).uniform_(0.02, 0.33) * H * W
    ratio = torch.exp(torch.empty(B, device=x.device).uniform_(-1.2, 1.2))
    height = (area * ratio).sqrt().round().clamp(1, H)
    width = (area / ratio).sqrt().round().clamp(1, W)
    height = height * (torch.rand(B, device=x.device) < probability)  # an empty box leaves the image alone
    top = (torch.rand(B, device=x.device) * (H - height + 1)).floor()
    left = (torch.rand(B, device=x.device) * (W - width + 1)).floor()
    return x.masked_fill(boxes(x, top, left, top + height, left + width), 0)


def mix(x: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Blend each image (Mixup) or paste into it a box (CutMix) of another; targets mix in the same proportion.

    Each image draws its own share from Beta(alpha, alpha); with both alphas above 0, one of the two kinds at random.
    """
    B, _, H, W = x.shape
    partner = torch.randperm(B, device=x.device)
    use_cutmix = torch.rand(B, device=x.device) < (0.5 if mixup and cutmix else float(cutmix > 0))
    share = torch.where(use_cutmix, beta(cutmix, x), beta(mixup, x))  # what the image keeps of itself
    # CutMix: a box of area 1 - share around a random point, cut off at the edges; the share is then what is left.
    half = (1 - share).sqrt() / 2
    cy, cx = torch.rand(2, B, device=x.device)
    top, bottom = ((cy - half) * H).round().clamp(0, H), ((cy + half) * H).round().clamp(0, H)
    left, right = ((cx - half) * W).round().clamp(0, W), ((cx + half) * W).round().clamp(0, W)
    share = torch.where(use_cutmix, 1 - (bottom - top) * (right - left) / (H * W), share)
    blend = share.view(B, 1, 1, 1)
    pasted = boxes(x, top, left, bottom, right)
    other = x[partner]
    mixed = torch.where(use_cutmix.view(B, 1, 1, 1), torch.where(pasted, other, x), blend * x + (1 - blend) * other)
    return mixed, share[:, None] * targets + (1 - share[:, None]) * targets[partner]


def beta(alpha: float, x: Tensor) -> Tensor:
    """One draw from Beta(alpha, alpha) per image, or ones for alpha 0."""
    if alpha == 0:
        return torch.ones(len(x), device=x.device)
    concentration = torch.full((len(x),), alpha, device=x.device)
    return torch.distributions.Beta(concentration, concentration, validate_args=False).sample()


def boxes(x: Tensor, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Tensor:
    """A mask (B, 1, H, W) that is true inside each image's rectangle; bounds (B,), bottom and right exclusive."""
    rows = torch.arange(x.shape[2], device=x.device)
    columns = torch.arange(x.shape[3], device=x.device)
    inside_rows = (rows >= top[:, None]) & (rows < bottom[:, None])  # (B, H)
    inside_columns = (columns >= left[:, None]) & (columns < right[:, None])  # (B, W)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]
