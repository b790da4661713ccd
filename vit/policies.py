"""RandAugment (Cubuk et al. 2019) and TrivialAugment (Mueller & Hutter 2021) for a whole batch on its device.

The operations, their strengths and their results are those of torchvision's `v2.RandAugment()` and
`v2.TrivialAugmentWide()`, pixel for pixel (tests/test_policies.py), which take one image per call. Here every image has
its own operation and strength too, but each operation is computed once, for the share of the batch that drew it.

n images of 3 channels, H x W pixels, uint8; `draw` (n,) picks each image's strength, a column of `strengths`.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip


def apply_policy(images: Tensor, policy: str) -> Tensor:
    """One random operation of random strength (trivialaugment) or two of medium strength (randaugment) per image.

    Args:
        images: uint8 (B, 3, H, W).

    Returns:
        uint8 (B, 3, H, W).
    """
    for _ in range(2 if policy == "randaugment" else 1):
        images = random_operation(images, policy)
    return images


def random_operation(images: Tensor, policy: str) -> Tensor:
    """Give every image (B, 3, H, W) one operation, each with probability 1/14, and a strength of its own.

    The images are dealt at random to ceil(B / 14) places of each operation. So the shapes never depend on the draw, and
    a GPU runs ahead; but within a batch the operations occur about equally often, not in multinomial numbers. Up to 13
    places stay over: their result is dropped.
    """
    B, _, H, W = images.shape
    places = math.ceil(B / len(OPERATIONS)) * len(OPERATIONS)
    place = torch.randperm(places, device=images.device)  # the first B of them are the images'
    draw = torch.randint(strengths(policy, H, W, images.device).shape[1], (places,), device=images.device)
    dealt = images.index_select(0, place.argsort() % B)
    return operate(dealt, draw, policy).index_select(0, place[:B])


def operate(images: Tensor, draw: Tensor, policy: str) -> Tensor:
    """In place: the first n / 14 images (n, 3, H, W) get the first of `OPERATIONS`, the next the second, and so on."""
    H, W = images.shape[2:]
    x = images.unflatten(0, (len(OPERATIONS), -1))  # (14, n / 14, 3, H, W)
    draw = draw.view(len(OPERATIONS), -1)
    strength = strengths(policy, H, W, images.device).gather(1, draw)[:, :, None, None, None]
    # x[0] stays as it is
    x[1:6] = move(x[1:6].flatten(0, 1), draw[1:6], policy).unflatten(0, (5, -1))
    x[6] = brightness(x[6], strength[6])
    x[7] = color(x[7], strength[7])
    x[8] = contrast(x[8], strength[8])
    x[9] = sharpness(x[9], strength[9])
    x[10] = x[10] & strength[10].to(torch.uint8)
    x[11] = x[11] ^ (x[11] >= strength[11]).to(torch.uint8) * 255
    x[12] = autocontrast(x[12])
    x[13] = equalize(x[13])
    return images


@functools.cache
def strengths(policy: str, H: int, W: int, device: torch.device) -> Tensor:
    """Strengths (14, draws) that an operation may be drawn with, all equally likely; 0 where it has none.

    TrivialAugment draws one of 31 steps and a sign, RandAugment always has step 9 and draws the sign. Posterize's are
    the masks of the bits it keeps, Solarize's the first grey levels it inverts.
    """
    wide = policy == "trivialaugment"
    shear, angle, factor, bits = (0.99, 135.0, 0.99, 6) if wide else (0.3, 30.0, 0.9, 4)
    across, down = (32.0, 32.0) if wide else (150 / 331 * W, 150 / 331 * H)
    signed = [torch.linspace(0, end, 31) for end in (shear, shear, across, down, angle, *[factor] * 4)]
    signed[2:4] = [shift.trunc() for shift in signed[2:4]]
    masks = 256 - 2 ** (torch.arange(31) / 30 * bits).round()
    levels = 255 * torch.linspace(1, 0, 31)
    none = torch.zeros(31)
    rows = torch.stack([none, *signed, masks, levels, none, none])
    sign = torch.ones(14, 1)
    sign[1:10] = -1
    steps = slice(None) if wide else slice(9, 10)
    return torch.cat([rows[:, steps], (sign * rows)[:, steps]], dim=1).to(device)


@functools.cache
def sources(policy: str, H: int, W: int, device: torch.device) -> Tensor:
    """Where each pixel comes from, H * W meaning black: int64 (5 * draws, H * W), for the five that move pixels."""
    shear_x, shear_y, across, down, angle = strengths(policy, H, W, torch.device("cpu")).double()[1:6, :, None, None]
    sin, cos = angle.deg2rad().sin(), angle.deg2rad().cos()
    y, x = torch.arange(H).double()[:, None] + 0.5, torch.arange(W).double() + 0.5  # the middle of each pixel
    from_middle_y, from_middle_x = y - H / 2, x - W / 2
    source_x = [x + shear_x * y, x, x - across, x, cos * from_middle_x - sin * from_middle_y + W / 2]
    source_y = [y, y + shear_y * x, y, y - down, sin * from_middle_x + cos * from_middle_y + H / 2]
    shape = (len(angle), H, W)
    # Exactly halfway between two pixels (in float32, as torchvision sees it) both take the even one.
    column = torch.stack([t.expand(shape) for t in source_x]).sub(0.5).float().round().long()
    row = torch.stack([t.expand(shape) for t in source_y]).sub(0.5).float().round().long()
    inside = (column >= 0) & (column < W) & (row >= 0) & (row < H)
    return torch.where(inside, row * W + column, H * W).view(-1, H * W).to(device)


def move(x: Tensor, draw: Tensor, policy: str) -> Tensor:
    """Shear, translate and rotate (5 * k, 3, H, W) by the strengths drawn (5, k), taking the nearest pixel."""
    n, C, H, W = x.shape
    table = sources(policy, H, W, x.device)
    first = torch.arange(0, len(table), len(table) // 5, device=x.device)[:, None]
    pixels = table.index_select(0, (first + draw).flatten())
    return F.pad(x.flatten(2), [0, 1]).gather(2, pixels[:, None].expand(n, C, H * W)).view_as(x)


def to_bytes(x: Tensor) -> Tensor:
    return x.clamp(0, 255).to(torch.uint8)


def grey(x: Tensor) -> Tensor:
    """Whole grey levels (n, 1, H, W) as float32."""
    red, green, blue = x.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


# Results are cut off to whole numbers, so even the last bit counts: `addcmul` rounds as torchvision's sums do.


def brightness(x: Tensor, strength: Tensor) -> Tensor:
    return to_bytes(x * (1 + strength))


def color(x: Tensor, strength: Tensor) -> Tensor:
    return to_bytes(torch.addcmul(x * (1 + strength), grey(x), -strength))


def contrast(x: Tensor, strength: Tensor) -> Tensor:
    return to_bytes(torch.addcmul(x * (1 + strength), grey(x).mean((1, 2, 3), keepdim=True), -strength))


def sharpness(x: Tensor, strength: Tensor) -> Tensor:
    """Away from (or towards) a 3 x 3 blur whose middle pixel weighs 5 times as much; the edge stays."""
    result = x.float()
    middle = result[..., 1:-1, 1:-1]
    rows = result[..., :-2, :] + result[..., 1:-1, :] + result[..., 2:, :]
    square = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = ((square + 4 * middle) / 13).round()
    middle.copy_(torch.addcmul(middle, blurred - middle, -strength))
    return to_bytes(result)


def autocontrast(x: Tensor) -> Tensor:
    """Stretch each channel to 0 ... 255."""
    low, high = x.amin((2, 3), keepdim=True).float(), x.amax((2, 3), keepdim=True).float()
    stretched = (x - low) / ((high - low) * (1 / 255))
    return torch.where(high > low, to_bytes(stretched), x)


def equalize(x: Tensor) -> Tensor:
    """Map the grey levels of each channel so that all become about equally frequent, in PIL's whole-number way."""
    pixels = x.flatten(2).long()
    count = pixels.new_zeros(*x.shape[:2], 256).scatter_add_(2, pixels, torch.ones_like(pixels))
    darker = count.cumsum(2) - count  # pixels below each level
    brightest = count.gather(2, pixels.amax(2, keepdim=True))
    step = (pixels.shape[2] - brightest) // 255
    level = (darker + step // 2) // step.clamp(min=1)
    equalized = to_bytes(level).gather(2, pixels).view_as(x)
    return torch.where(step[..., None] > 0, equalized, x)
