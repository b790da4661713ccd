"""What each head looks at: attention as maps over the picture.

Shapes: L blocks, B images, H heads, N tokens (a class token first, if there is one), S = image_size / patch_size.
"""

import math
from pathlib import Path

import numpy
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vit.files import atomic
from vit.model import VisionTransformer

TILE, GAP, LINE = 112, 6, 14  # pixels: side of a picture, space around it, height of the words under it
# From dark over red to bright yellow, evenly spaced; brightness rises all the way, so that it reads in grey too.
COLOURS = numpy.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])


def over_patches(maps: Tensor, patches: int) -> Tensor:
    """How much the answer reads each patch: attention (..., N, N) to (..., S, S), each summing to 1.

    With a class token: its own row. Without: the mean of all rows, because the tokens are averaged.

    Args:
        patches: how many of the N tokens are patches, S * S.
    """
    read = maps[..., 0, :] if maps.shape[-1] > patches else maps.mean(dim=-2)
    read = read[..., maps.shape[-1] - patches :]
    side = math.isqrt(patches)
    return (read / read.sum(dim=-1, keepdim=True)).unflatten(-1, (side, side))


def rollout(maps: list[Tensor]) -> Tensor:
    """Attention through all blocks (Abnar & Zuidema 2020, arXiv 2005.00928): L x (B, H, N, N) to (B, N, N).

    The product, last block first, of (A + I) / 2, where A is the mean of a block's heads and I stands for the residual
    connection; its rows sum to 1.
    """
    identity = torch.eye(maps[0].shape[-1], device=maps[0].device)
    total = identity
    for block in maps:
        total = (block.mean(dim=1) + identity) / 2 @ total
    return total


@torch.inference_mode()
def attention(model: VisionTransformer, pixels: Tensor) -> list[Tensor]:
    """Where a model looks: maps L x (B, H, N, N) on the CPU, whose rows sum to 1.

    Args:
        model: in eval mode, as `vit.load` gives it.
        pixels: uint8 (B, 3, image_size, image_size).
    """
    # In float32 whatever the answer was computed in, so that the rows sum to 1.
    _, maps = model(model.preprocess(pixels.to(next(model.parameters()).device)), return_attention=True)
    return [block.cpu() for block in maps]


def draw(model: VisionTransformer, pixels: Tensor, picture: Image.Image, title: str, path: Path) -> Path:
    """Write the `sheet` of one picture as PNG; returns the path.

    Args:
        model: in eval mode, as `vit.load` gives it.
        pixels: uint8 (1, 3, image_size, image_size), the picture as the model sees it.
        picture: RGB, to draw on.
    """
    page = sheet(picture, attention(model, pixels), model.config.patches, title)
    with atomic(path) as part:
        page.save(part, format="PNG")
    return path


def thumbnail(picture: Image.Image, side: int = TILE) -> Image.Image:
    """A picture at the size of a tile, stretched to a square, as for the model."""
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def sheet(picture: Image.Image, maps: list[Tensor], patches: int, title: str) -> Image.Image:
    """One picture of all that the model looks at: the rollout, and a row of `block_tiles` for each block.

    A patch is as bright as it is attended to, from 0 to the most of its own tile; the words under a tile say how many
    times the even share, 1 / (S * S), that most is.

    Args:
        picture: RGB, stretched to a square, as for the model.
        maps: attention of this one picture, L x (1, H, N, N).
    """
    picture = thumbnail(picture)
    rows = [[("picture", picture), rollout_tile(picture, maps, patches)]]
    rows += [block_tiles(picture, maps, patches, number) for number in range(len(maps))]

    width, height = TILE + GAP, TILE + GAP + LINE
    columns = max(max(len(row) for row in rows), 4)  # room for the title
    page = Image.new("RGB", (GAP + columns * width, GAP + LINE + len(rows) * height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(10)
    title = title.encode("ascii", "replace").decode()  # all that Pillow's own font has
    while font.getlength(title) > page.width - 2 * GAP:
        title = "..." + title[4:]
    draw.text((GAP, GAP / 2), title, "black", font)
    for y, row in enumerate(rows):
        for x, (words, image) in enumerate(row):
            left, top = GAP + x * width, GAP + LINE + y * height
            page.paste(image, (left, top))
            draw.text((left, top + TILE), words, "black", font)
    return page


def rollout_tile(picture: Image.Image, maps: list[Tensor], patches: int) -> tuple[str, Image.Image]:
    """The `tile` of the rollout; arguments as for `sheet`."""
    return tile("rollout", picture, over_patches(rollout(maps)[0], patches))


def block_tiles(picture: Image.Image, maps: list[Tensor], patches: int, number: int) -> list[tuple[str, Image.Image]]:
    """The `tile`s of one block, counted from 0: the mean of its heads, if it has many, then each head; arguments as for
    `sheet`."""
    heads = over_patches(maps[number][0], patches)
    if len(heads) == 1:
        return [tile(f"block {number} head 0", picture, heads[0])]
    mean = tile(f"block {number} mean", picture, heads.mean(dim=0))
    return [mean] + [tile(f"head {head}", picture, each) for head, each in enumerate(heads)]


def tile(name: str, picture: Image.Image, heat: Tensor) -> tuple[str, Image.Image]:
    """The words under a tile, and the picture with (S, S) attention laid over it, a square per patch."""
    most = heat.max().item()
    level = (heat / most).numpy()
    stops = numpy.linspace(0, 1, len(COLOURS))
    colours = numpy.stack([numpy.interp(level, stops, COLOURS[:, channel]) for channel in range(3)], axis=-1)
    patches = Image.fromarray(colours.round().astype(numpy.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    return f"{name}  {most * heat.numel():.1f}x", Image.blend(picture, patches, 0.6)
