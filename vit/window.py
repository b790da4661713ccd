"""A training whose first steps see a window of each image: fewer patches, so less compute.

A square of `train.window` pixels at a random place of the grid of patches, another in each image. The patches in it
keep their positions, so all weights mean the same when the rest is seen (measured in docs/recipe.md). They are
neighbours, as in the local crops of Caron et al. 2021 (DINO, arXiv 2104.14294), not scattered as in Liu et al. 2022
(PatchDropout).
"""

from dataclasses import replace

import torch
from torch import Tensor

from vit import compute
from vit.config import Config, TrainConfig, ViTConfig


def is_open(config: TrainConfig, step: int, steps: int) -> bool:
    """Whether step `step` of `steps`, counted from 0, sees only a window of each image."""
    return step < window_steps(config, steps)


def window_steps(config: TrainConfig, steps: int) -> int:
    """How many of all steps see only a window; they come first."""
    return round(config.window_share * steps) if config.window else 0


def sizes(config: Config, steps: int) -> list[int]:
    """Sides, in pixels, of the images that so many steps see, in the order in which they come."""
    whole, part = config.model.image_size, config.train.window
    seen = [part if part and is_open(config.train, step, steps) else whole for step in (0, steps - 1)]
    return list(dict.fromkeys(seen))


def places(model: ViTConfig, window: int, images: int, device: torch.device) -> Tensor:
    """The patches in a window of so many pixels at a random place in each image, (B, n), numbered row by row."""
    grid, side = model.image_size // model.patch_size, window // model.patch_size
    row, column = torch.randint(grid - side + 1, (2, images, 1, 1), device=device)
    within = torch.arange(side, device=device)
    return ((row + within[:, None]) * grid + column + within).flatten(1)


def train_flops(config: Config, step: int, steps: int) -> int:
    """FLOPs of the first `step` of so many optimizer steps. What sees a window costs what a smaller image does."""
    full = compute.train_flops(config.model)
    total = step * full
    if config.train.window:
        part = compute.train_flops(replace(config.model, image_size=config.train.window))
        total -= min(step, window_steps(config.train, steps)) * (full - part)
    return config.train.batch_size * total
