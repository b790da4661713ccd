"""Attention drawn over the picture shows what was attended to."""

import torch
from PIL import Image

from vit.config import ViTConfig
from vit.heads import GAP, LINE, TILE, over_patches, rollout, sheet
from vit.model import VisionTransformer


def test_rollout_by_hand() -> None:
    """Two blocks, two tokens, two heads: (A2 + I) / 2 times (A1 + I) / 2, with A the mean of the heads."""
    first = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    second = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    # A1 is 1/2 everywhere; (A1 + I) / 2 = [[3/4, 1/4], [1/4, 3/4]]; (A2 + I) / 2 = [[1/2, 1/2], [0, 1]]
    expected = torch.tensor([[[0.5, 0.5], [0.25, 0.75]]])
    torch.testing.assert_close(rollout([first, second]), expected)


def test_rollout_of_a_real_model_is_a_distribution_for_every_token() -> None:
    model = VisionTransformer(ViTConfig(dim=16, depth=3, heads=[1, 2, 4], patch_size=8)).eval()
    _, maps = model(torch.randn(2, 3, 32, 32), return_attention=True)
    through = rollout(maps)
    assert through.shape == (2, 16, 16)
    torch.testing.assert_close(through.sum(dim=-1), torch.ones(2, 16))
    assert (through.diagonal(dim1=1, dim2=2) > 0.1).all()  # each token still sees itself


def test_a_class_token_is_read_by_its_own_row_and_patches_by_their_mean() -> None:
    maps = torch.zeros(1, 1, 5, 5)
    maps[..., 0, :] = torch.tensor([0.5, 0.1, 0.2, 0.1, 0.1])
    maps[..., 1:, 4] = 1
    torch.testing.assert_close(over_patches(maps, 4)[0, 0], torch.tensor([[0.2, 0.4], [0.2, 0.2]]))
    maps = torch.zeros(4, 4)
    maps[:3, 1] = maps[3, 2] = 1
    torch.testing.assert_close(over_patches(maps, 4), torch.tensor([[0, 0.75], [0.25, 0]]))


def colours(image: Image.Image) -> list:
    return image.getcolors(maxcolors=TILE**2)


def test_the_sheet_has_a_row_per_block_and_is_bright_where_a_head_looks() -> None:
    """Blocks of one and of three heads; every token of head 1 of block 1 looks at the lower left patch of 2 x 2."""
    maps = [torch.full((1, heads, 4, 4), 0.25) for heads in (1, 3)]
    maps[1][:, 1] = 0
    maps[1][:, 1, :, 2] = 1
    page = sheet(Image.new("RGB", (50, 90), (128, 128, 128)), maps, 4, "a picture: cat")
    assert page.size == (GAP + 4 * (TILE + GAP), GAP + LINE + 3 * (TILE + GAP + LINE))
    left, top = GAP + 2 * (TILE + GAP), GAP + LINE + 2 * (TILE + GAP + LINE)  # the mean comes first
    grey = page.crop((left, top, left + TILE, top + TILE)).convert("L").resize((2, 2), Image.Resampling.BOX)
    upper_left, upper_right, lower_left, lower_right = grey.tobytes()
    assert lower_left > 180
    assert max(upper_left, upper_right, lower_right) < 60
    above = top - (TILE + GAP + LINE)
    even, mean = (page.crop((GAP, y, GAP + TILE, y + TILE)) for y in (above, top))
    assert len(colours(even)) == 1
    assert len(colours(mean)) == 2  # the mean of the three heads: one patch brighter than the rest


def test_long_titles_and_letters_without_a_shape_fit() -> None:
    page = sheet(
        Image.new("RGB", (8, 8)), [torch.full((1, 1, 4, 4), 0.25)], 4, "/folder" * 99 + "/\N{SNOWMAN}\udce9.png: cat"
    )
    assert page.width < 600
