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
from vit.config import Config, TrainConfig


def is_open(config: TrainConfig, step: int, steps: int) -> bool:
    """Whether that one of so many steps, counted from 0, sees a window alone."""
    return step < window_steps(config, steps)


def window_steps(config: TrainConfig, steps: int) -> int:
    """How many of all steps see a window alone; they come first."""
    return round(config.window_share * steps) if config.window else 0


def places(config: Config, images: int, device: torch.device) -> Tensor:
    """The patches in a window at a random place in each image, (B, n), numbered row by row."""
    patch = config.model.patch_size
    grid, side = config.model.image_size // patch, (config.train.window or config.model.image_size) // patch
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
