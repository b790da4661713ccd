"""Initial weights of the patch embedding that take whitened pixels for granted."""

import torch
import torch.nn.functional as F
from torch import Tensor

from vit.data import normalise

# Added to the variances of the principal components of patches of normalised pixels, which reach from 30 down to less
# than this: what lies below is noise, and is not blown up.
FLOOR = 0.01
IMAGES = 5000  # the covariance of 48 numbers needs no more


@torch.no_grad()
def whiten(weight: Tensor, images: Tensor) -> None:
    """Change a patch embedding's weight so that it does to patches what it did to them after whitening.

    Neighbouring pixels are nearly equal, so that random weights see little but a patch's mean colour. The weight is
    multiplied by the inverse square root of the covariance of patches (ZCA whitening, Bell & Sejnowski 1997; as a first
    layer on CIFAR-10: Coates & Ng 2011, Page 2019, Jordan 2024, arXiv 2404.00498). It is trained on like any other.

    Args:
        weight: (D, C, P, P), changed in place.
        images: uint8 (M, C, H, W) of the training split.
    """
    side = weight.shape[-1]
    patches = F.unfold(normalise(images[:IMAGES]), side, stride=side)  # (M, C*P*P, N)
    patches = patches.transpose(0, 1).flatten(1).double()  # (C*P*P, M*N)
    variances, components = torch.linalg.eigh(patches @ patches.T / patches.shape[1])
    whitening = components * (variances + FLOOR).rsqrt() @ components.T
    weight.copy_((weight.flatten(1).double() @ whitening).view_as(weight))
