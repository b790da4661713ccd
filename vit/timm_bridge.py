"""To timm and from it: a trained model as timm's, and timm's weights to start a training from.

N patches of side P and one class token or none, D width; timm's names (`timm.models.vision_transformer`) are ours.
"""

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vit import data
from vit.checks import UsageError, check, one_line
from vit.config import ViTConfig
from vit.model import VisionTransformer
from vit.terminal import say

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer as TimmViT


def need_timm() -> None:
    if importlib.util.find_spec("timm") is None:
        raise UsageError("the package timm is not installed: pip install timm")


def to_timm(model: VisionTransformer) -> "TimmViT":
    """A copy of the model as timm's `VisionTransformer`, with equal logits, in eval mode on the same device.

    Of a model from `vit.load`, `timm.data.resolve_model_data_config` gives the preprocessing, which stretches a picture
    to the square as ours does, and `timm.models.save_for_hf(theirs, folder, model_args=theirs.model_args)` writes what
    `timm.create_model("local-dir:...", pretrained=True)`, or `init: timm:folder`, makes the same model of.

    Raises:
        UsageError: timm's model has no such attention.
    """
    need_timm()
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    config = model.config
    [heads, *others] = sorted(set(config.block_heads))
    check(not others, "model.heads", "one number for all blocks, as in timm's model", config.heads)
    inner = heads * config.block_head_dims[0]
    check(inner == config.dim, "model.head_dim", "null, as in timm's model", config.head_dim)
    check(not config.qk_norm, "model.qk_norm", "false: timm's is another one", config.qk_norm)
    check(not config.relative_bias, "model.relative_bias", "false, as in timm's model", config.relative_bias)
    arguments: Any = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "num_classes": config.classes,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": heads,
        "mlp_ratio": config.mlp_ratio,
        "class_token": config.pool == "cls",
        "global_pool": "token" if config.pool == "cls" else "avg",
        "fc_norm": False,
        "drop_path_rate": config.drop_path,
    }
    timm_model: Any = TimmViT(**arguments, weight_init="skip")
    timm_model.load_state_dict(model.state_dict())
    if model.description:
        timm_model.pretrained_cfg = {
            "architecture": "vit_tiny_patch16_224",  # any of timm's names for this class: the arguments make it ours
            "input_size": (config.channels, config.image_size, config.image_size),
            "num_classes": config.classes,
            "label_names": list(model.labels),
            "mean": tuple(model.description["mean"]),
            "std": tuple(model.description["std"]),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "fixed_input_size": True,
        }
        timm_model.model_args = arguments
    return timm_model.to(model.pos_embed.device).eval()


def initial_weights(init: str, config: ViTConfig) -> dict[str, Tensor]:
    """The weights of a ViT of timm's, made to fit a model of ours that is to be trained further.

    Patch embedding (Beyer et al. 2023, arXiv 2212.08013) and position embedding are resampled to the model's patch and
    image size. With pool mean, the class token and its position are left out. The classifier is left out unless it
    has as many classes. Where timm knows how its model's pixels were normalised, the difference to CIFAR-10's mean and
    standard deviation is worked into the patch embedding, so that each pixel means what it meant.

    Args:
        init: `timm:` and the name of a model that timm can download, a file of weights (safetensors, or a .pth that
            holds tensors alone), or a folder of timm's `save_for_hf`.

    Returns:
        Tensors for `load_state_dict(..., strict=False)`: all but perhaps the classifier's.

    Raises:
        UsageError: there is no such model or file, or it does not fit; the text names the first parameter of those.
    """
    need_timm()
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    tensors, pixels = read(init, config)
    with torch.device("meta"):
        wanted = VisionTransformer(config).state_dict()
    size = config.patch_size
    kernel = tensors.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim == 4:
        tensors["patch_embed.proj.weight"] = resample_patch_embed(kernel, [size, size])
    positions = tensors.get("pos_embed")
    if positions is not None and positions.ndim == 3:
        extra = positions.shape[1] - math.isqrt(positions.shape[1]) ** 2  # a position of the class token
        if extra <= 1:
            side = config.image_size // size
            positions = resample_abs_pos_embed(positions, [side, side], num_prefix_tokens=extra)
            if config.pool == "mean":
                positions = positions[:, extra:]
            elif extra == 0:  # timm's no_embed_class
                positions = F.pad(positions, (0, 0, 1, 0))
            tensors["pos_embed"] = positions
    if config.pool == "mean":
        tensors.pop("cls_token", None)
    classes = len(tensors.get("head.bias", ()))
    if classes != config.classes:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
        wanted = {name: tensor for name, tensor in wanted.items() if not name.startswith("head.")}
    for name in (*wanted, *tensors):
        have, want = (str(tuple(side[name].shape)) if name in side else "absent" for side in (tensors, wanted))
        if have != want:
            raise UsageError(f"init: {init}: {name} is {have}, this model asks for {want}")
        if not tensors[name].isfinite().all():
            raise UsageError(f"init: {init}: {name} holds NaN or infinity")
    if pixels is not None:
        renormalise(tensors, *pixels)
    say(
        f"starting from {init}, with {'its' if classes == config.classes else 'a new'} classifier, made for pixels "
        + ("of its own normalisation" if pixels else "as here (a file does not say)")
    )
    return tensors


def read(init: str, config: ViTConfig) -> tuple[dict[str, Tensor], tuple[Any, Any] | None]:
    """The tensors that `init` names, in float32, and mean and standard deviation of the pixels, if they are known."""
    import timm
    from timm.models.vision_transformer import VisionTransformer as TimmViT

    name = init.removeprefix("timm:")
    try:
        if Path(name).is_file():
            content = timm.models.load_state_dict(name, weights_only=True)
            if not content or not all(isinstance(each, Tensor) for each in content.values()):
                raise UsageError(f"init: {name}: expected a file of tensors by their names")
            return {key: tensor.float() for key, tensor in content.items()}, None
        model = timm.create_model(f"local-dir:{name}" if Path(name).is_dir() else name, pretrained=True)
    except UsageError:
        raise
    except Exception as error:  # of pickle, safetensors, timm and whatever carries a download
        raise UsageError(
            f"init: {name}: expected a name that timm has weights for, a file or a folder ({one_line(error)})"
        ) from None
    if not isinstance(model, TimmViT):
        raise UsageError(f"init: {name}: expected a VisionTransformer, got timm's {type(model).__name__}")
    first: Any = model.blocks[0]
    heads = first.attn.num_heads
    if config.heads != heads:
        say(f"init: {name} was trained with {heads} heads; this model has {config.heads}, so it is another function")
    known: Any = model.pretrained_cfg or {}
    pixels = (known["mean"], known["std"]) if "mean" in known and "std" in known else None
    return {key: tensor.float() for key, tensor in model.state_dict().items()}, pixels


def renormalise(tensors: dict[str, Tensor], mean: Any, std: Any) -> None:
    """Change the patch embedding so that it gives of (x - MEAN) / STD what it gave of (x - mean) / std.

    The latter is x' STD / std + (MEAN - mean) / std, where x' is the former: a factor on the weights of each channel
    and a constant, which goes into the bias.
    """
    weight = tensors["patch_embed.proj.weight"].double()  # (D, 3, P, P)
    ours, theirs = (
        torch.tensor(each, dtype=torch.double).view(2, 3, 1, 1) for each in ((data.MEAN, data.STD), (mean, std))
    )
    shift = (weight * (ours[0] - theirs[0]) / theirs[1]).sum(dim=(1, 2, 3))
    tensors["patch_embed.proj.weight"] = (weight * ours[1] / theirs[1]).float()
    tensors["patch_embed.proj.bias"] = (tensors["patch_embed.proj.bias"].double() + shift).float()
