"""An initial patch embedding that whitens pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.data import normalise

# Added to the variances of the principal components of patches of normalised pixels, which reach from 30 down to less
# than this: what lies below is noise, and is not blown up.
EPS = 0.01
IMAGES = 5000  # of which 320,000 patches of 4 x 4 pixels are plenty for the covariance of 48 numbers


@torch.no_grad()
def whiten(embed: nn.Conv2d, images: Tensor) -> None:
    """Make a patch embedding a random rotation of whitened patches, in place, with a bias of 0.

    Neighbouring pixels are nearly equal, so that random weights see little but a patch's mean colour. Here a patch's
    principal components are divided by the root of their variance plus EPS (ZCA whitening, Bell & Sejnowski 1997; as
    a first layer on CIFAR-10: Coates & Ng 2011, Page 2019, Jordan 2024, arXiv 2404.00498), so that strong ones become
    equal and noise remains small, and an orthogonal matrix takes the result to D outputs. It is then trained like any
    other weight.

    Args:
        embed: its weight is (D, C, P, P), its bias (D,). The outputs' mean square would be 1/3 without EPS, as
            PyTorch's own initial weights make it for white inputs; on CIFAR-10 it is about half of that.
        images: uint8 (M, C, H, W) of the training split.
    """
    assert embed.bias is not None
    width, side = embed.weight.shape[0], embed.weight.shape[-1]
    # On the CPU, as all initial weights are drawn: they do not depend on the device, some of which have no float64.
    patches = F.unfold(normalise(images[:IMAGES].cpu()), side, stride=side)  # (M, C*P*P, N)
    patches = patches.transpose(0, 1).flatten(1).double()  # (C*P*P, M*N)
    variances, components = torch.linalg.eigh(patches @ patches.T / patches.shape[1])
    # Symmetric, as the signs of components are up to the library that finds them.
    whitening = components * (variances + EPS).rsqrt() @ components.T
    rotation = torch.empty(width, len(variances), dtype=torch.double)
    nn.init.orthogonal_(rotation, gain=(max(1, width / len(variances)) / 3) ** 0.5)
    embed.weight.copy_((rotation @ whitening).view_as(embed.weight))
    nn.init.zeros_(embed.bias)
