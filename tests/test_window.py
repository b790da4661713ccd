"""A window of the images costs what a smaller image does, and all that is learned from it holds for the whole image."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vit import compute, window
from vit.checks import UsageError
from vit.cli import parse
from vit.config import Config, TrainConfig, ViTConfig
from vit.model import VisionTransformer
from vit.runs import train

CPU = torch.device("cpu")
MODELS = {
    "mean": ViTConfig(dim=16, depth=2, heads=2),
    "class token": ViTConfig(dim=16, depth=2, heads=2, pool="cls", relative_bias=True),
    "relative bias": ViTConfig(dim=16, depth=2, heads=2, relative_bias=True),
    "sincos, cosine attention": ViTConfig(dim=16, depth=2, heads=1, pos_embed="sincos", qk_norm=True),
}
of_each_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


def windowed(side: int, share: float = 0.5, model: ViTConfig = MODELS["mean"]) -> Config:
    return Config(model=model, train=TrainConfig(window=side, window_share=share))


def pixels_of(patches: torch.Tensor) -> torch.Tensor:
    """Which pixels of a 32 x 32 image lie in those of its 4 x 4 patches."""
    mask = torch.zeros(64, dtype=torch.bool)
    mask[patches] = True
    return mask.view(8, 8).repeat_interleave(4, dim=0).repeat_interleave(4, dim=1)


@of_each_model
class TestPatches:
    def test_all_of_them_are_the_whole_image(self, config: ViTConfig) -> None:
        model, images = VisionTransformer(config), torch.randn(2, 3, 32, 32)
        assert torch.equal(model(images, patches=torch.arange(64)), model(images))

    def test_their_order_changes_nothing(self, config: ViTConfig) -> None:
        """So each brings its position, and its offset from every other."""
        model, images = VisionTransformer(config), torch.randn(2, 3, 32, 32)
        assert torch.allclose(model(images, patches=torch.randperm(64)), model(images), atol=1e-5)

    def test_nothing_else_is_seen(self, config: ViTConfig) -> None:
        model, images = VisionTransformer(config), torch.randn(2, 3, 32, 32)
        patches = window.patches(windowed(16), CPU)
        inside, outside = (images.where(where, 9.0) for where in (pixels_of(patches), ~pixels_of(patches)))
        assert torch.equal(model(inside, patches=patches), model(images, patches=patches))
        assert not torch.allclose(model(outside, patches=patches), model(images, patches=patches), atol=1e-4)

    def test_they_attend_as_in_the_whole_image_but_to_each_other_alone(self, config: ViTConfig) -> None:
        model, images = VisionTransformer(config), torch.randn(2, 3, 32, 32)
        patches = window.patches(windowed(16), CPU)
        kept = torch.cat([torch.arange(config.tokens - 64), config.tokens - 64 + patches])
        _, (whole, _) = model(images, return_attention=True)
        _, (part, _) = model(images, return_attention=True, patches=patches)
        expected = whole[:, :, kept][:, :, :, kept]
        assert torch.allclose(part, expected / expected.sum(dim=-1, keepdim=True), atol=1e-6)

    def test_flops_are_those_of_a_smaller_image(self, config: ViTConfig) -> None:
        with torch.device("meta"):
            model, images = VisionTransformer(config), torch.empty(1, 3, 32, 32)
        with FlopCounterMode(display=False) as counter:
            model(images, patches=window.patches(windowed(12), CPU).to("meta")).sum().backward()
        expected = window.train_flops(windowed(12, model=config), step=1, steps=2)
        assert counter.get_total_flops() * 250 == expected < 250 * compute.train_flops(config)


def test_a_window_is_a_square_at_any_place() -> None:
    places = set()
    for seed in range(200):
        torch.manual_seed(seed)
        patches = window.patches(windowed(20), CPU)
        rows, columns = patches // 8, patches % 8
        top, left = int(rows.min()), int(columns.min())
        assert patches.tolist() == [8 * row + column for row in range(top, top + 5) for column in range(left, left + 5)]
        places.add((top, left))
    assert places == {(top, left) for top in range(4) for left in range(4)}


def test_the_first_steps_see_it_and_cost_less(small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """5 of 12 steps, of 20 images."""
    config, seen = small(), []
    original = VisionTransformer.forward

    def forward(self: Any, x: torch.Tensor, return_attention: bool = False, patches: torch.Tensor | None = None) -> Any:
        if self.training:
            seen.append(16 if patches is None else len(patches))
        return original(self, x, return_attention, patches)

    monkeypatch.setattr(VisionTransformer, "forward", forward)
    folder = Path(train(config)["run"])
    assert seen == [4] * 5 + [16] * 7
    part, full = (20 * compute.train_flops(dataclasses.replace(config.model, image_size=side)) for side in (16, 32))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    spent = {row["compute/images_seen"] // 20: row["compute/train_flops"] for row in rows}
    assert spent == {0: 0, 4: 4 * part, 6: 5 * part + full, 8: 5 * part + 3 * full, 12: 5 * part + 7 * full}


@pytest.mark.parametrize(("side", "share", "opened"), [(None, 0.5, 0), (16, 0.5, 6), (16, 0.4, 5), (16, 1.0, 12)])
def test_the_share_of_steps(side: int | None, share: float, opened: int) -> None:
    config = TrainConfig(window=side, window_share=share)
    assert [window.is_open(config, step, steps=12) for step in range(12)] == [True] * opened + [False] * (12 - opened)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--train.window=10", "train.window: expected a multiple of patch_size 4 below 32, or null, got 10"),
        ("--train.window=32", "train.window: expected a multiple of patch_size 4 below 32, or null, got 32"),
        ("--train.window=0", "train.window: expected a multiple of patch_size 4 below 32, or null, got 0"),
        ("--train.window_share=0", "train.window_share: expected a part, above 0 and at most 1, got 0"),
        ("--train.window_share=1.5", "train.window_share: expected a part, above 0 and at most 1, got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(Config, [option])
