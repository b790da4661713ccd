"""Which device computes, and in which precision."""

import math
from contextlib import AbstractContextManager

import torch

from vit.checks import UsageError


def pick_device(name: str) -> torch.device:
    """The device of that name; auto is the accelerator if there is one, else the CPU.

    Raises:
        UsageError: there is no such device here.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).split(". ")[0].split(" device type at start")[0][:100]
        raise UsageError(
            f"device: {name!r} is not available here; expected auto, cpu, cuda, cuda:N or mps ({reason})"
        ) from None
    if device.type == "meta":
        raise UsageError(f"device: expected a device that computes, got {name!r}")
    return device


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of the matrix products: auto is bfloat16 where the device has units for it, float32 elsewhere."""
    if precision == "auto":
        precision = "bf16" if has_bfloat16_units(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def has_bfloat16_units(device: torch.device) -> bool:
    """CUDA GPUs from Ampere on, AMD's, and CPUs with AVX512_BF16 or AMX; others emulate bfloat16, a CPU at a
    hundredth of the speed."""
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """A context that runs matrix products in that precision."""
    dtype = precision_dtype(precision, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def images_per_pass(device: torch.device, tokens: int) -> int:
    """How many images of `tokens` tokens to evaluate at once where nothing else decides it.

    1000 on a GPU. On a CPU about 4000 tokens: the activations are used again while they are in the cache, and their
    memory is the allocator's own, not taken page by page from the kernel (measured in benchmarks/NOTES.md).
    """
    return max(4096 // tokens, 1) if device.type == "cpu" else 1000


def micro_batches_of(batch_size: int, device: torch.device, tokens: int) -> int:
    """How many equal micro-batches make a training batch: 1 but on a CPU, where each is about `images_per_pass`."""
    if device.type != "cpu":
        return 1
    divisors = [count for count in range(1, batch_size + 1) if batch_size % count == 0]
    wanted = batch_size / images_per_pass(device, tokens)
    return min(divisors, key=lambda count: abs(math.log(count / wanted)))
