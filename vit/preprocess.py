"""Pictures in any form to what a model takes."""

from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

from vit.data import MEAN, STD, normalise


@dataclass(frozen=True)
class Preprocess:
    """Pictures to model input: RGB, resized to size x size if need be, normalised."""

    size: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD

    def __call__(self, image: Any) -> Tensor:
        """Float32 (B, 3, size, size) of what `pixels` takes; raises what that raises."""
        return normalise(self.pixels(image), self.mean, self.std)

    def pixels(self, image: Any) -> Tensor:
        """Uint8 (B, 3, size, size), before normalising: the whole picture, whatever its shape, stretched to the square.

        Args:
            image: a path, a binary file object, a PIL image, a uint8 array (H, W), (H, W, 2), (H, W, 3) or (H, W, 4) of
                grey or RGB without or with transparency, a uint8 tensor (3, H, W), or a batch: a uint8 array
                (B, H, W, 3) or (B, 3, H, W), a uint8 tensor (B, 3, H, W).

        Raises:
            TypeError: something else than those.
            ValueError: an array or tensor of another type or shape.
            PictureError: a picture that cannot be read, is damaged or too large (`vit.pictures`).
        """
        if isinstance(image, numpy.ndarray):
            image = from_array(image)
        elif not isinstance(image, Tensor):
            image = from_picture(image)
        if image.dtype != torch.uint8 or image.ndim not in (3, 4) or image.shape[-3] != 3:
            expected = "expected a uint8 tensor (3, H, W) or (B, 3, H, W)"
            raise ValueError(f"{expected}, got {image.dtype} {tuple(image.shape)}")
        image = image if image.ndim == 4 else image[None]
        if image.shape[-2:] != (self.size, self.size):
            if 0 in image.shape:
                raise ValueError(f"expected images with pixels, got {tuple(image.shape)}")
            # Antialiased, or a large picture would become a few of its pixels. PyTorch does it in uint8 on a CPU alone.
            resized = torch.nn.functional.interpolate(
                image.cpu(), (self.size, self.size), mode="bicubic", antialias=True
            )
            image = resized.to(image.device)
        return image


def from_array(array: numpy.ndarray) -> Tensor:
    """Uint8 (3, H, W), or (B, 3, H, W) of an array that is one; arguments and errors as for `Preprocess.pixels`."""
    batch = array.ndim == 4 and 3 in (array.shape[1], array.shape[3])
    picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (2, 3, 4))
    if array.dtype != numpy.uint8 or not (batch or picture):
        expected = "expected a uint8 array (H, W), (H, W, 2), (H, W, 3), (H, W, 4), (B, H, W, 3) or (B, 3, H, W)"
        raise ValueError(f"{expected}, got {array.dtype} {array.shape}")
    if batch:
        return torch.from_numpy((array if array.shape[1] == 3 else array.transpose(0, 3, 1, 2)).copy())
    if array.ndim == 2:
        array = numpy.broadcast_to(array[..., None], (*array.shape, 3))
    if array.shape[2] == 3:
        return torch.from_numpy(array.copy()).permute(2, 0, 1)
    if 0 in array.shape:
        raise ValueError(f"expected images with pixels, got {array.shape}")
    import PIL.Image  # which training does not need

    return from_picture(PIL.Image.fromarray(numpy.ascontiguousarray(array)))  # LA or RGBA


def from_picture(source: Any) -> Tensor:
    """Uint8 (3, H, W) of what `vit.pictures.open_picture` takes; raises what that raises."""
    from vit.pictures import open_picture  # Pillow again

    return torch.from_numpy(numpy.array(open_picture(source))).permute(2, 0, 1)
