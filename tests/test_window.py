"""A window of the images costs what a smaller image does, and all that is learned from it holds for the whole image."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vit import compute, window
from vit.checks import UsageError
from vit.cli import parse
from vit.config import Config, TrainConfig, ViTConfig
from vit.model import RelativeBias, VisionTransformer
from vit.runs import train
from vit.study_file import load_study

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
MODELS = {
    "mean": ViTConfig(dim=16, depth=2, heads=2),
    "class token": ViTConfig(dim=16, depth=2, heads=2, pool="cls", relative_bias=True),
    "relative bias": ViTConfig(dim=16, depth=2, heads=2, relative_bias=True),
    "sincos, cosine attention": ViTConfig(dim=16, depth=2, heads=1, pos_embed="sincos", qk_norm=True),
}
of_each_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


def pixels_of(places: torch.Tensor) -> torch.Tensor:
    """Which pixels of 32 x 32 images lie in those of their 4 x 4 patches: (B, n) -> (B, 1, 32, 32)."""
    mask = torch.zeros(len(places), 64, dtype=torch.bool).scatter(1, places, True)
    return mask.view(-1, 1, 8, 8).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


@of_each_model
class TestPlaces:
    def test_all_of_them_are_the_whole_image(self, config: ViTConfig) -> None:
        model, images = VisionTransformer(config), torch.randn(2, 3, 32, 32)
        assert torch.equal(model(images, places=torch.arange(64).expand(2, -1)), model(images))

    def test_nothing_else_is_seen(self, config: ViTConfig) -> None:
        model, images = VisionTransformer(config), torch.randn(2, 3, 32, 32)
        places = window.places(config, 16, 2, CPU)
        inside, outside = (images.where(where, 9.0) for where in (pixels_of(places), ~pixels_of(places)))
        assert torch.equal(model(inside, places=places), model(images, places=places))
        assert not torch.allclose(model(outside, places=places), model(images, places=places), atol=1e-4)

    def test_they_attend_as_in_the_whole_image_but_to_each_other_alone(self, config: ViTConfig) -> None:
        """So each brings its position, and its offset from every other."""
        model, images = VisionTransformer(config), torch.randn(3, 3, 32, 32)
        places = window.places(config, 16, 3, CPU)
        _, (whole, _) = model(images, return_attention=True)
        _, (part, _) = model(images, return_attention=True, places=places)
        extra = config.tokens - config.patches
        for ours, all_of_them, those in zip(part, whole, places, strict=True):
            kept = torch.cat([torch.arange(extra), extra + those])
            expected = all_of_them[:, kept][:, :, kept]
            assert torch.allclose(ours, expected / expected.sum(dim=-1, keepdim=True), atol=1e-6)

    def test_flops_are_those_of_a_smaller_image(self, config: ViTConfig) -> None:
        with torch.device("meta"):
            model, images = VisionTransformer(config), torch.empty(1, 3, 32, 32)
        with FlopCounterMode(display=False) as counter:
            model(images, places=window.places(config, 12, 1, CPU).to("meta")).sum().backward()
        expected = window.train_flops(Config(model=config, train=TrainConfig(window=12)), step=1, steps=2)
        assert counter.get_total_flops() * 250 == expected < 250 * compute.train_flops(config)


def test_a_window_is_a_square_at_any_place_in_every_image() -> None:
    torch.manual_seed(0)
    found = set()
    for places in window.places(MODELS["mean"], 20, 200, CPU):
        top, left = divmod(int(places[0]), 8)
        assert places.tolist() == [8 * row + column for row in range(top, top + 5) for column in range(left, left + 5)]
        found.add((top, left))
    assert found == {(top, left) for top in range(4) for left in range(4)}


def test_gradients_are_the_same_to_the_bit_every_time() -> None:
    """With many images and threads, whose sums into the embedding of one place could be in any order."""
    model, images = VisionTransformer(MODELS["relative bias"]), torch.randn(500, 3, 32, 32)
    places = window.places(model.config, 24, 500, CPU)
    found, threads = [], torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in range(10):
            model.zero_grad()
            model(images, places=places).sum().backward()
            found.append([each.grad.clone() for each in model.parameters() if each.grad is not None])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for grads in found for a, b in zip(grads, found[0], strict=True))


def test_gradients_of_the_bias_are_the_same_to_the_bit_every_time() -> None:
    """Of one head and many patches, where threads could share the sum of one offset."""
    bias = RelativeBias(ViTConfig(patch_size=2, relative_bias=True), heads=1)
    grad, found, threads = torch.randn(1, 256, 256), [], torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in range(20):
            bias.table.grad = None
            bias().backward(grad)
            found.append(bias.table.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)


def test_the_shapes_that_are_compared_cost_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """To a thousandth, with a window."""
    monkeypatch.chdir(ROOT)
    study = load_study("configs/studies/shapes.yaml")
    recipe, *others = (window.train_flops(study.config(arm, {}), 1800, 1800) for arm in study.arms)
    assert others == [pytest.approx(recipe, rel=0.0011)] * len(others)


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_it_compiles_to_one_graph_for_any_batch(pool: Literal["mean", "cls"]) -> None:
    torch._dynamo.reset()
    config = dataclasses.replace(MODELS["relative bias"], pool=pool)
    model = VisionTransformer(config)
    # Every size is a symbol, as a batch's is from the second on; it raises where Dynamo has to break the graph.
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    for batch in (5, 4):
        images, places = torch.randn(batch, 3, 32, 32), window.places(config, 24, batch, CPU)
        assert torch.allclose(compiled(images), model(images), atol=1e-5)
        assert torch.allclose(compiled(images, places=places), model(images, places=places), atol=1e-5)


def test_the_first_steps_see_it_and_cost_less(small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """5 of 12 steps, of 20 images."""
    config, seen = small(), []
    original = VisionTransformer.forward

    def forward(self: Any, x: torch.Tensor, return_attention: bool = False, places: torch.Tensor | None = None) -> Any:
        if self.training:
            seen.append(16 if places is None else places.shape[1])
        return original(self, x, return_attention, places)

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
        ("--augment.cutmix=1.0", "train.window: expected null with augment.cutmix, got 16"),
        ("--train.window_share=1.5", "train.window_share: expected a part, above 0 and at most 1, got 1.5"),
    ],
)
def test_what_cannot_be_is_refused(option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(Config, ["--train.window=16", option])
