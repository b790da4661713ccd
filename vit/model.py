"""The Vision Transformer, in the order the data flow: patches -> attention -> block -> classifier.

Shapes: B images, C channels, P patch side in pixels, N tokens, D width, H heads, K head_dim, L blocks.
Parameter names and initialisation are timm's (`timm.models.vision_transformer`), so that with head_dim = dim / heads
the weights load into timm's `VisionTransformer(global_pool="avg" | "token", fc_norm=False)` and give its logits.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit.config import ViTConfig
from vit.pretrained import Pretrained


class PatchEmbed(nn.Module):
    """Cut the image into patches and project each to D numbers (Dosovitskiy et al. 2020): a linear map per patch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        # A convolution with stride = kernel size is that linear map; the weight keeps its shape (D, C, P, P).
        self.proj = nn.Conv2d(config.channels, config.dim, config.patch_size, stride=config.patch_size)

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """(B, C, height, width) -> (B, N, D), or of the patches at `places` (B, n) alone -> (B, n, D)."""
        B, C, height, width = x.shape
        P = self.proj.kernel_size[0]
        x = x.reshape(B, C, height // P, P, width // P, P)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * P * P)  # (B, N, C*P*P)
        x = x if places is None else seen(x, places)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)  # (B, N, D)


class Attention(nn.Module):
    """Self-attention with H heads; H = 1 is the same code, one softmax over the whole width (Vaswani et al. 2017).

    head_h = softmax(Q_h K_h^T / sqrt(K)) V_h and output = concat(head_1 .. head_H) W + b. The output projection is
    always there. With `qk_norm`, Q and K rows have length 1 and one learned scale per block replaces 1 / sqrt(K),
    starting at log2(N^2 - N) (Henry et al. 2020, arXiv 2010.04245). With `relative_bias`, each head adds a learned
    number to the score of two patches, which depends on their offset alone (Liu et al. 2021, arXiv 2103.14030).
    """

    def __init__(self, config: ViTConfig, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_dim = config.head_dim or config.dim // heads
        inner = heads * self.head_dim
        self.qkv = nn.Linear(config.dim, 3 * inner)
        self.proj = nn.Linear(inner, config.dim)
        self.scale = None
        if config.qk_norm:
            tokens = max(config.tokens, 2)
            self.scale = nn.Parameter(torch.tensor(math.log2(tokens**2 - tokens)))
        self.relative_bias = RelativeBias(config, heads) if config.relative_bias else None

    def forward(
        self, x: Tensor, return_attention: bool = False, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(B, N, D) -> (B, N, D), and the attention maps (B, H, N, N) if asked for."""
        B, N, _ = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, K)
        scale = self.head_dim**-0.5
        if self.scale is not None:
            q, k = F.normalize(q, dim=-1) * self.scale, F.normalize(k, dim=-1)
            scale = 1.0
        bias = None if self.relative_bias is None else self.relative_bias(places).to(q.dtype)  # (H, N, N)
        maps = None
        if return_attention or plain_products(v.device, v.dtype, N):
            scores = q * scale @ k.transpose(-2, -1)  # (B, H, N, N)
            maps = (scores if bias is None else scores + bias).softmax(dim=-1)
            x = maps @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, bias, scale=scale)  # (B, H, N, K)
        x = x.transpose(1, 2).reshape(B, N, self.heads * self.head_dim)  # heads concatenated
        return self.proj(x), maps if return_attention else None


class RelativeBias(nn.Module):
    """A learned number for every head and offset (rows, columns) of a query from a key.

    At first the heads look at places around the query, evenly spread and one patch away, a head alone at the query
    itself: attention falls exponentially with the distance from there. So it begins as a soft convolution (Cordonnier
    et al. 2020, arXiv 1911.03584; d'Ascoli et al. 2021, arXiv 2103.10697, where it falls with the squared distance).
    """

    # The table holds the numbers divided by this, so that they learn this much faster: Adam moves each by about its
    # learning rate a step, too little for scores in a short training (docs/recipe.md).
    GAIN = 15.0

    def __init__(self, config: ViTConfig, heads: int) -> None:
        super().__init__()
        self.side = config.image_size // config.patch_size
        self.prefix_tokens = config.tokens - config.patches
        offset = torch.arange(1 - self.side, self.side)
        angle = 2 * math.pi / heads * torch.arange(heads)[:, None, None]
        reach = 0 if heads == 1 else 1
        distance = torch.hypot(offset[:, None] - reach * angle.sin(), offset - reach * angle.cos())
        # Shifted so that away from borders patches weigh as much on average as a class token, whose number is 0.
        start = (-distance).flatten(1).log_softmax(dim=1) + math.log(config.patches)
        self.table = nn.Parameter(start / self.GAIN)

    def forward(self, places: Tensor | None = None) -> Tensor:
        """(H, N, N): the number of each query's and key's offset, 0 for a class token.

        Of all patches, or of those at `places` (B, n), which have the same offsets in every image.
        """
        # Made here each time, not kept as a buffer: a model that is loaded begins without the content of its tensors.
        place = torch.arange(self.side**2, device=self.table.device) if places is None else places[0]
        down, right = (each[:, None] - each + self.side - 1 for each in (place // self.side, place % self.side))
        index = (down * (2 * self.side - 1) + right).flatten().expand(len(self.table), -1)
        # Not table[:, index], whose gradient several threads of a CPU may sum in any order.
        bias = self.GAIN * self.table.gather(1, index).unflatten(1, down.shape)  # (H, patches, patches)
        return F.pad(bias, (self.prefix_tokens, 0, self.prefix_tokens, 0))


def plain_products(device: torch.device, dtype: torch.dtype, tokens: int) -> bool:
    """Whether two matrix products and a softmax beat PyTorch's fused attention, by measurement (benchmarks/NOTES.md).

    On a CPU its fused kernel is slow in bfloat16: at 64 tokens a training step's attention takes 2.5 times as long with
    one head and 4 times with four; at 1024 tokens and four heads the fused kernel wins.
    """
    return device.type == "cpu" and dtype == torch.bfloat16 and tokens <= 512


class Mlp(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ViTConfig, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = Attention(config, heads)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config)
        self.drop_path = drop_path

    def forward(
        self, x: Tensor, return_attention: bool = False, places: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        branch, maps = self.attn(self.norm1(x), return_attention, places)
        x = x + self.drop(branch)
        x = x + self.drop(self.mlp(self.norm2(x)))
        return x, maps

    def drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016): in training, zero the branch of random images, scale up the others."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        mask = torch.rand(len(branch), 1, 1, device=branch.device) < keep
        return branch * mask / keep


class VisionTransformer(nn.Module, Pretrained):
    """A plain pre-norm ViT (Dosovitskiy et al. 2020) whose attention has one head, many, or a number per block.

    Models that differ only in `heads` (with head_dim null and no relative bias) have equal parameters, equal FLOPs and,
    built after the same `torch.manual_seed`, bit-equal initial weights.
    """

    # What the logits mean, how pictures become input, how to compute, and all else that is known; `vit.load` sets them.
    labels: tuple[str, ...] = ()
    preprocess: Callable[..., Tensor]
    precision: str = "auto"
    eval_batch_size: int | None = None
    description: dict[str, Any] | None = None
    digest: str | None = None  # of the weights that all this is known of

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim)) if config.pool == "cls" else None
        if config.pos_embed == "learned":
            self.pos_embed: Tensor = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        else:
            self.register_buffer("pos_embed", sincos_positions(config))
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            Block(config, heads, drop_path=config.drop_path * i / last) for i, heads in enumerate(config.block_heads)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, config.classes)
        self.init_weights()

    def init_weights(self) -> None:
        """timm's: normal(0, 0.02) truncated for linear layers and positions, PyTorch's default for the patches."""
        if isinstance(self.pos_embed, nn.Parameter):
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, x: Tensor, return_attention: bool = False, places: Tensor | None = None
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Classify normalised images.

        Args:
            x: (B, C, image_size, image_size), float.
            return_attention: also return what every head attends to.
            places: (B, n), int64, the patches of each image that are seen, numbered row by row; null is all. N is
                smaller then, and with it the cost, and every patch keeps its position. With a relative bias they must
                have the same offsets from each other in every image, as the patches of a window have.

        Returns:
            Logits (B, classes); with `return_attention` also L attention maps (B, H, N, N), whose rows sum to 1.

        Raises:
            ValueError: the images are not of the size in the config.
        """
        C, side = self.config.channels, self.config.image_size
        if x.ndim != 4 or x.shape[1:] != (C, side, side):
            raise ValueError(f"expected images of shape (B, {C}, {side}, {side}), got {tuple(x.shape)}")
        x = self.patch_embed(x, places)  # (B, N, D)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        # In the projection's precision: a float32 sum would carry float32 through every block under autocast.
        x = x + self.positions(places).to(x.dtype)
        attention = []
        for block in self.blocks:
            x, maps = block(x, return_attention, places)
            attention.append(maps)
        x = self.norm(x)
        x = x.mean(dim=1) if self.cls_token is None else x[:, 0]  # (B, D)
        logits = self.head(x)  # (B, classes)
        return (logits, attention) if return_attention else logits

    def positions(self, places: Tensor | None) -> Tensor:
        """The position embedding of every token (1, N, D), or of the patches that are seen (B, N, D)."""
        if places is None:
            return self.pos_embed
        everywhere = self.pos_embed.expand(len(places), -1, -1)
        prefix, patches = everywhere.split([self.config.tokens - self.config.patches, self.config.patches], dim=1)
        return torch.cat([prefix, seen(patches, places)], dim=1)

    def predict(self, images: Any, topk: int = 5, batch_size: int | None = None) -> list[Any]:
        """Classify pictures as they come.

        Args:
            images: one picture or a list of them: a path, a file object, a PIL image, a uint8 array (H, W) of grey,
                (H, W, 3) of RGB, or (H, W, 2 or 4) of those with transparency, or a uint8 tensor (3, H, W). A uint8
                array (B, H, W, 3), or array or tensor (B, 3, H, W), is a list of B.
            topk: how many classes to give.
            batch_size: pictures per forward pass; null is what suits the device. Only so many are held at once.

        Returns:
            For one picture a list of `{"label": name, "score": probability}`, the most probable first; for a list of
            pictures a list of such lists.

        Raises:
            PictureError: a file is not a picture, damaged or too large.
            ValueError: an array or tensor of another type or shape, or the model is not one that `vit.load` gave.
            TypeError: something else than those.
        """
        from vit.predict import predict

        return predict(self, images, topk, batch_size)


def seen(patches: Tensor, places: Tensor) -> Tensor:
    """What stands at the places (B, n) of each image's patches: (B, N, D) -> (B, n, D).

    Not by indexing, whose gradient is a sum over images in an order that several threads make another every time.
    """
    return patches.gather(1, places[..., None].expand(-1, -1, patches.shape[2]))


def sincos_positions(config: ViTConfig) -> Tensor:
    """Fixed 2-D sine-cosine positions (1, N, D), zero for a class token (Chen et al. 2021, MoCo v3, arXiv 2104.02057).

    A quarter of D each for sin and cos of the row and of the column, at frequencies 10000^(-i / (D/4)).
    """
    side = config.image_size // config.patch_size
    quarter = config.dim // 4
    frequency = 10000 ** -(torch.arange(quarter) / quarter)
    angle = torch.arange(side)[:, None] * frequency  # (side, D/4)
    rows = angle[:, None].expand(side, side, quarter)
    columns = angle[None].expand(side, side, quarter)
    positions = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=-1).reshape(-1, config.dim)
    return F.pad(positions, (0, 0, config.tokens - config.patches, 0))[None]
