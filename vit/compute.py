"""What a model costs: parameters and FLOPs in closed form, and what the device delivers, measured.

FLOPs are those of the matrix products, a multiply-accumulate counting as 2 (so FLOPs = 2 * MACs); norms, softmax,
activations and the optimizer are left out, as usual. Head count does not appear where head_dim = dim / heads.
N tokens, D width, K head_dim, H heads, L blocks, P patch side, C channels.
"""

import functools
import importlib.util
import platform
import re
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from vit.config import ViTConfig
from vit.model import VisionTransformer, plain_products


def count_params(config: ViTConfig) -> int:
    """Trainable parameters, in closed form."""
    D, hidden = config.dim, config.mlp_dim
    total = config.patch_size**2 * config.channels * D + D  # patch_embed.proj
    total += config.tokens * D * (config.pos_embed == "learned") + D * (config.pool == "cls")
    for heads, inner in zip(config.block_heads, inner_widths(config), strict=True):
        total += D * 3 * inner + 3 * inner + inner * D + D  # attn.qkv, attn.proj
        total += D * hidden + hidden + hidden * D + D  # mlp
        total += 4 * D + config.qk_norm  # norm1, norm2, attn.scale
        total += heads * (2 * config.image_size // config.patch_size - 1) ** 2 * config.relative_bias
    return total + 2 * D + D * config.classes + config.classes  # norm, head


def forward_macs(config: ViTConfig) -> int:
    """Multiply-accumulates of one image's forward pass, in closed form."""
    N, D = config.tokens, config.dim
    total = patch_macs(config) + D * config.classes
    for inner in inner_widths(config):
        total += N * (4 * inner * D + 2 * D * config.mlp_dim)  # qkv and proj, MLP
        total += 2 * N * N * inner  # Q K^T and its product with V, all heads together
    return total


def forward_flops(config: ViTConfig) -> int:
    """FLOPs of one image's forward pass: 2 * MACs."""
    return 2 * forward_macs(config)


def train_flops(config: ViTConfig) -> int:
    """FLOPs of one image's forward and backward pass.

    Every product costs twice its forward FLOPs in the backward pass, except that nothing needs the gradient of the
    pixels: 3 * forward less one patch embedding.
    """
    return 3 * forward_flops(config) - 2 * patch_macs(config)


def model_costs(config: ViTConfig) -> dict[str, int]:
    """Parameters and forward FLOPs of one image, under the names that they are logged by."""
    return {
        "model/params": count_params(config),
        "model/forward_flops": forward_flops(config),
        "model/forward_macs": forward_macs(config),
    }


def patch_macs(config: ViTConfig) -> int:
    return config.patches * config.patch_size**2 * config.channels * config.dim


def inner_widths(config: ViTConfig) -> list[int]:
    """H * K of each block."""
    return [heads * width for heads, width in zip(config.block_heads, config.block_head_dims, strict=True)]


def attention_backend(config: ViTConfig, batch: int, device: torch.device, dtype: torch.dtype) -> str:
    """The path of each block's attention in training: "products" (see `vit.model.plain_products`), or the kernel that
    PyTorch picks, e.g. "flash".

    It chooses silently by head_dim, dtype and device, so that two head counts can run on different kernels.

    Returns:
        One name if all blocks agree, otherwise the L names joined by commas; "unknown" on Apple's GPUs.
    """
    if plain_products(device, dtype, config.tokens):
        return "products"
    if device.type == "mps":  # where PyTorch does not say
        return "unknown"
    names = []
    for heads, head_dim in zip(config.block_heads, config.block_head_dims, strict=True):
        shape = (batch, heads, config.tokens, head_dim)
        q, k, v = torch.empty(3, *shape, device=device, dtype=dtype, requires_grad=True)
        scores = (heads, config.tokens, config.tokens)
        bias = torch.empty(scores, device=device, dtype=dtype, requires_grad=True)
        choice = torch._fused_sdp_choice(q, k, v, bias if config.relative_bias else None)
        names.append(torch.nn.attention.SDPBackend(choice).name.removesuffix("_ATTENTION").lower())
    return names[0] if len(set(names)) == 1 else ",".join(names)


def device_name(device: torch.device, processes: int = 1) -> str:
    """The GPU's or CPU's model, for a CPU with the number of threads of all processes, e.g. `2 x NVIDIA H200`."""
    if device.type != "cpu":
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"
        return f"{processes} x {name}" if processes > 1 else name
    cpuinfo = Path("/proc/cpuinfo")  # platform.processor() knows no model on Linux
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{found[1] if found else platform.processor()}, threads: {processes * torch.get_num_threads()}"


def units_of(name: str) -> tuple[int, str] | None:
    """How many of what a `device_name` stands for: (2, "core") or (1, "GPU").

    None for "A, then B", of a training that went on elsewhere: its seconds are of no one device.
    """
    if ", then " in name:
        return None
    threads = re.search(r", threads: (\d+)$|, (\d+) threads$", name)  # the second form is in older results
    if threads:
        return int(threads[1] or threads[2]), "core"
    gpus = re.match(r"(\d+) x ", name)
    return int(gpus[1]) if gpus else 1, "GPU"


@functools.cache
def gemm_flops_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """The rate of a large matrix product, best of half a second: the ceiling that `compute/mfu` is a fraction of.

    Measured once in a process.
    """
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    seconds: list[float] = []
    while sum(seconds) < 0.5:
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


@torch.no_grad()
def latency_seconds(model: VisionTransformer, batch: int, device: torch.device) -> float:
    """Seconds from normalised images on the device to logits: the median of passes that take 0.2 s together."""
    side = model.config.image_size
    images = torch.randn(batch, model.config.channels, side, side, device=device)
    model(images)
    seconds: list[float] = []
    while sum(seconds) < 0.2 or len(seconds) < 3:
        synchronize(device)
        start = time.perf_counter()
        model(images)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Largest memory so far: allocated by PyTorch on a GPU since it was last reset, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    kibibytes_or_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes_or_bytes * (1 if sys.platform == "darwin" else 1024)


def energy_joules(device: torch.device) -> float | None:
    """What the GPU's energy counter reads (NVML), or None where there is no such counter."""
    if device.type != "cuda" or importlib.util.find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(nvml_handle(device)) / 1000
    except pynvml.NVMLError:
        return None


@functools.cache
def nvml_handle(device: torch.device) -> Any:
    """NVML's name of a GPU, looked up once."""
    import pynvml

    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
