"""Typed settings of a training and what each may be. The only home of their defaults; what cannot work is refused here.

Those of the other commands are in commands.py.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vit.checks import check, check_batch_size, check_folder_name, check_project, check_seeds, check_types


@dataclass
class ViTConfig:
    """The model. `heads` is the switch: 1 is one-head self-attention, more is multi-head, a list is one per block.

    Args:
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels; it must divide image_size.
        channels: colour channels of the input.
        classes: number of logits.
        dim: width D of a token.
        depth: number of blocks L.
        heads: attention heads, for all blocks or as a list of one number per block.
        head_dim: width K of a head; null means dim / heads, so that every head count costs the same.
        qk_norm: cosine attention with a learned scale in place of 1 / sqrt(head_dim) (Henry et al. 2020).
        relative_bias: each head adds a learned number to the score of two patches, one for every offset between them
            (Liu et al. 2021, Swin); at first they point the heads to places around the query. Each head has its own.
        mlp_ratio: hidden width of the MLP as a multiple of dim.
        pool: average the tokens (mean) or read a class token (cls).
        pos_embed: position embedding, learned or fixed 2-D sine-cosine.
        drop_path: probability of skipping a residual branch in the last block, rising linearly from 0 in the first
            (so that a single block skips none).
    """

    image_size: int = 32
    patch_size: int = 4
    channels: int = 3
    classes: int = 10
    dim: int = 128
    depth: int = 4
    heads: int | list[int] = 4
    head_dim: int | None = None
    qk_norm: bool = False
    relative_bias: bool = False
    mlp_ratio: float = 4.0
    pool: Literal["mean", "cls"] = "mean"
    pos_embed: Literal["learned", "sincos"] = "learned"
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "model.")
        for key in ("image_size", "patch_size", "channels", "classes", "dim", "depth"):
            check(getattr(self, key) > 0, f"model.{key}", "a number above 0", getattr(self, key))
        for key, most in (("depth", 1000), ("dim", 100_000), ("head_dim", 100_000)):
            check((getattr(self, key) or 0) <= most, f"model.{key}", f"at most {most}", getattr(self, key))
        divides = self.image_size % self.patch_size == 0
        check(divides, "model.patch_size", f"a divisor of image_size {self.image_size}", self.patch_size)
        if isinstance(self.heads, list):
            fits = len(self.heads) == self.depth
            check(fits, "model.heads", f"one number for each of {self.depth} blocks", self.heads)
        for heads in self.block_heads:
            check(heads > 0, "model.heads", "a number above 0", self.heads)
            fits = self.head_dim is not None or self.dim % heads == 0
            check(fits, "model.heads", f"a divisor of dim {self.dim} (or set head_dim)", self.heads)
        check(self.head_dim is None or self.head_dim > 0, "model.head_dim", "a number above 0 or null", self.head_dim)
        ratio_fits = 0 < self.mlp_ratio < 1000 and self.mlp_dim > 0
        check(ratio_fits, "model.mlp_ratio", "a ratio below 1000, of at least 1 / dim", self.mlp_ratio)
        sincos_fits = self.pos_embed != "sincos" or self.dim % 4 == 0
        check(sincos_fits, "model.dim", "a multiple of 4 for sincos positions", self.dim)
        check(0 <= self.drop_path < 1, "model.drop_path", "a probability in [0, 1)", self.drop_path)

    @property
    def block_heads(self) -> list[int]:
        """Heads of each block, length L."""
        return self.heads if isinstance(self.heads, list) else [self.heads] * self.depth

    @property
    def block_head_dims(self) -> list[int]:
        """Width K of the heads of each block, length L."""
        return [self.head_dim or self.dim // heads for heads in self.block_heads]

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens(self) -> int:
        """Sequence length N: the patches, and the class token if there is one."""
        return self.patches + (self.pool == "cls")

    @property
    def mlp_dim(self) -> int:
        return int(self.dim * self.mlp_ratio)


@dataclass
class DataConfig:
    """CIFAR-10 and its splits.

    Args:
        root: folder that holds, or will hold, the data set.
        train_images: train on a stratified part of this size (a multiple of 10); null means all but the validation.
        val_images: size of the fixed stratified validation split (a multiple of 10); 0 trains on all 50000.
    """

    root: str = "data"
    train_images: int | None = None
    val_images: int = 5000

    def __post_init__(self) -> None:
        check_types(self, "data.")
        val, train = self.val_images, self.train_images
        check(0 <= val < 50000 and val % 10 == 0, "data.val_images", "a multiple of 10 from 0 to 49990", val)
        if train is not None:
            rest = 50000 - val
            fits = 0 < train <= rest and train % 10 == 0
            check(fits, "data.train_images", f"a multiple of 10 up to the {rest} not kept for validation", train)


@dataclass
class AugmentConfig:
    """Augmentation of training images, drawn anew for every image. 0, false or none switches a step off.

    Args:
        flip: mirror left-right with probability 1/2.
        crop: shift by up to this many pixels each way (zero-padded random crop).
        policy: per image one random operation of random strength (trivialaugment, Mueller & Hutter 2021) or two of
            medium strength (randaugment, Cubuk et al. 2019).
        cutout: side in pixels of the blanked square (DeVries & Taylor 2017).
        erasing: probability of blanking a random rectangle (Zhong et al. 2017).
        mixup: alpha of the Beta distribution that blends two images (Zhang et al. 2017).
        cutmix: alpha of the Beta distribution that pastes one image into another (Yun et al. 2019);
            with mixup on too, each image gets one of the two at random.
    """

    flip: bool = True
    crop: int = 2
    policy: Literal["none", "randaugment", "trivialaugment"] = "none"
    cutout: int = 0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "augment.")
        for key in ("crop", "cutout"):
            check(0 <= getattr(self, key) <= 64, f"augment.{key}", "a number from 0 to 64", getattr(self, key))
        for key in ("mixup", "cutmix"):  # float32 cannot draw from a distribution much narrower or wider
            alpha = getattr(self, key)
            check(alpha == 0 or 0.01 <= alpha <= 1000, f"augment.{key}", "0 or a number from 0.01 to 1000", alpha)
        check(0 <= self.erasing <= 1, "augment.erasing", "a probability in [0, 1]", self.erasing)


@dataclass
class OptimConfig:
    """Optimizer and schedule.

    Args:
        name: muon trains the blocks' matrices with Muon and the rest with AdamW; adamw trains everything.
        lr: peak learning rate of the optimizer named above.
        weight_decay: decoupled weight decay of all matrices, with muon those of AdamW too.
        rest_lr: with muon, the peak learning rate of AdamW on embeddings, norms, biases and the classifier.
        warmup: part of all steps over which the learning rate rises from 0.
        schedule: how it falls to 0 afterwards.
        clip_norm: largest gradient norm; 0 switches clipping off.
        ema: decay of the exponential moving average of the weights, which is then what is evaluated; 0 is off.
    """

    name: Literal["muon", "adamw"] = "muon"
    lr: float = 0.02
    weight_decay: float = 0.01
    rest_lr: float = 0.003
    warmup: float = 0.1
    schedule: Literal["cosine", "linear"] = "linear"
    clip_norm: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "optim.")
        for key in ("lr", "rest_lr"):
            check(0 < getattr(self, key) < math.inf, f"optim.{key}", "a number above 0", getattr(self, key))
        for key in ("weight_decay", "clip_norm"):
            check(0 <= getattr(self, key) < math.inf, f"optim.{key}", "0 or more", getattr(self, key))
        for key in ("warmup", "ema"):
            check(0 <= getattr(self, key) < 1, f"optim.{key}", "a number in [0, 1)", getattr(self, key))


@dataclass
class TrainConfig:
    """The loop.

    Args:
        epochs: passes over the training images.
        batch_size: images per optimizer step; the last incomplete batch of an epoch is left out.
        accumulate: micro-batches of each batch, whose gradients are averaged; null is 1 on a GPU, and on a CPU as many
            as make each fit its cache.
        window: side in pixels, a multiple of patch_size, of what the first steps see of each image, a square at a
            random place (see vit/window.py); null is all. Not with augment.cutmix, whose labels are shares of all.
        window_share: the part of all steps that see no more than that.
        label_smoothing: probability mass spread over all classes.
        precision: auto is bfloat16 autocast on a GPU or a CPU that has units for it, float32 elsewhere.
        compile: torch.compile the model. (One process on a GPU replays its steps as a CUDA graph with it or without.)
        log_every: steps between two logged rows.
        eval_every: epochs between two evaluations on the validation split; resumable state is saved then too.
        eval_batch_size: images per forward pass in evaluation; null is 1000 on a GPU, fewer on a CPU, for its cache.
        test: evaluate the chosen weights on the test split at the end; false where settings are still being chosen.
    """

    epochs: int = 10
    batch_size: int = 250
    accumulate: int | None = None
    window: int | None = None
    window_share: float = 0.85
    label_smoothing: float = 0.1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    log_every: int = 10
    eval_every: int = 1
    eval_batch_size: int | None = None
    test: bool = True

    def __post_init__(self) -> None:
        check_types(self, "train.")
        for key in ("epochs", "batch_size", "log_every", "eval_every"):
            check(getattr(self, key) > 0, f"train.{key}", "a number above 0", getattr(self, key))
        check_batch_size("train.eval_batch_size", self.eval_batch_size)
        divides = self.accumulate is None or (self.accumulate > 0 and self.batch_size % self.accumulate == 0)
        check(divides, "train.accumulate", f"a divisor of batch_size {self.batch_size} or null", self.accumulate)
        check(0 < self.window_share <= 1, "train.window_share", "a part, above 0 and at most 1", self.window_share)
        check(0 <= self.label_smoothing < 1, "train.label_smoothing", "a number in [0, 1)", self.label_smoothing)


@dataclass
class WandbConfig:
    """Weights & Biases.

    Args:
        mode: auto is what WANDB_MODE says, else online if an API key is found and offline otherwise.
        project: project that the run belongs to.
        entity: team or user; null is the account's default.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "vit-cifar10"
    entity: str | None = None

    def __post_init__(self) -> None:
        check_types(self, "wandb.")
        check_project("wandb.project", self.project)


@dataclass
class Config:
    """Train one Vision Transformer on CIFAR-10.

    Args:
        name: run name, the folder under runs_dir; null makes one from the date and time.
        seed: seed of the initial weights, the order of the images and the augmentation.
        seeds: train one model per seed of this list, side by side, each in a run folder NAME-seedN of its own.
        device: auto, cpu, cuda, cuda:1, mps.
        runs_dir: folder that holds the run folders.
        resume: continue the run of this name where it stopped (or start it if there is none).
        init: start from the weights of a ViT of timm's: timm: and a model's name, a file or a folder; null draws
            them from the seed.
        whiten: start the patch embedding as a random rotation of whitened pixels (see vit/whitening.py).
    """

    name: str | None = None
    seed: int = 0
    seeds: list[int] | None = None
    device: str = "auto"
    runs_dir: str = "runs"
    resume: bool = False
    init: str | None = None
    whiten: bool = False
    model: ViTConfig = field(default_factory=ViTConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        check_types(self)
        if self.name is not None:
            check_folder_name("name", self.name)
        check(self.name is not None or not self.resume, "name", "the run to resume", self.name)
        check(self.seed >= 0, "seed", "0 or more", self.seed)
        if self.seeds is not None:
            check_seeds("seeds", self.seeds)
        if self.init is not None:
            named = self.init.startswith("timm:") and self.init != "timm:"
            check(named, "init", "timm: and a name, a file or a folder, or null", self.init)
            check(not self.whiten, "whiten", "false: init has a patch embedding of its own", self.whiten)
            check(self.model.pos_embed == "learned", "model.pos_embed", "learned, as timm's", self.model.pos_embed)
        # CIFAR-10 fixes these; other data would need its own data.py.
        for key, value in (("image_size", 32), ("channels", 3), ("classes", 10)):
            check(
                getattr(self.model, key) == value, f"model.{key}", f"{value}, as in CIFAR-10", getattr(self.model, key)
            )
        side, patch = self.train.window, self.model.patch_size
        fits = side is None or (0 < side < self.model.image_size and side % patch == 0)
        check(fits, "train.window", f"a multiple of patch_size {patch} below {self.model.image_size}, or null", side)
        # Whose labels are shares of whole images: a window may hold nothing of what was pasted.
        check(side is None or not self.augment.cutmix, "train.window", "null with augment.cutmix", side)
        measured = self.train.test or self.data.val_images > 0
        check(measured, "train.test", "true where there is no validation split", self.train.test)
        size = self.data.train_images or 50000 - self.data.val_images
        fits = self.train.batch_size <= size
        check(fits, "train.batch_size", f"at most the {size} training images", self.train.batch_size)


def flatten(settings: Config | dict[str, Any]) -> dict[str, Any]:
    """Settings as one flat dict with dotted keys (`model.heads`), the form W&B sweeps write."""
    flat: dict[str, Any] = {}
    for key, value in (settings if isinstance(settings, dict) else asdict(settings)).items():
        flat |= {f"{key}.{inner}": item for inner, item in value.items()} if isinstance(value, dict) else {key: value}
    return flat
