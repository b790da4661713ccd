"""The models and the data pipeline that ours is measured against, each as its library documents it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vit import data
from vit.config import ViTConfig
from vit.model import VisionTransformer


def timm(config: ViTConfig) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer as Timm

    return Timm(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=config.classes,
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.block_heads[0],
        mlp_ratio=config.mlp_ratio,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    )


def vit_pytorch(config: ViTConfig) -> nn.Module:
    from vit_pytorch import SimpleViT

    heads = config.block_heads[0]
    return SimpleViT(
        image_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=config.classes,
        dim=config.dim,
        depth=config.depth,
        heads=heads,
        dim_head=config.dim // heads,
        mlp_dim=config.mlp_dim,
    )


def hugging_face(config: ViTConfig) -> nn.Module:
    from transformers import ViTConfig as HFConfig
    from transformers import ViTForImageClassification

    class Logits(ViTForImageClassification):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).logits

    shape: dict[str, Any] = {
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.block_heads[0],
        "intermediate_size": config.mlp_dim,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_labels": config.classes,
        "attn_implementation": "sdpa",
    }
    return Logits(HFConfig(**shape))  # its dropout is 0 by default


MODELS: dict[str, Callable[[ViTConfig], nn.Module]] = {
    "ours": VisionTransformer,
    "timm": timm,
    "vit-pytorch": vit_pytorch,
    "Hugging Face": hugging_face,
}


class Pictures(torch.utils.data.Dataset):
    """CIFAR-10 as torchvision serves it: a PIL image, transformed."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        from torchvision.transforms import v2

        # NumPy arrays, which go to the workers whatever memory they lie in; uint8 (n, 32, 32, 3), as PIL wants them.
        self.images, self.labels = images.permute(0, 2, 3, 1).numpy().copy(), labels.tolist()
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=2),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(data.MEAN, data.STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        import PIL.Image

        return self.transform(PIL.Image.fromarray(self.images[index])), self.labels[index]


def ordinary_loader(
    images: Tensor, labels: Tensor, batch_size: int, batches: int, workers: int
) -> Iterable[tuple[Tensor, Tensor]]:
    """Each iteration gives so many random, flipped and cropped float32 batches (B, 3, 32, 32) and labels (B,)."""
    pictures = Pictures(images, labels)
    return torch.utils.data.DataLoader(
        pictures,
        batch_size,
        sampler=torch.utils.data.RandomSampler(pictures, num_samples=batches * batch_size),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        multiprocessing_context="forkserver" if workers else None,
    )
