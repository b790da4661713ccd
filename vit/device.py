"""Which device computes, and in which precision."""

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
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split(". ")[0].split(" device type at start")[0][:100]
        raise UsageError(
            f"device: {name!r} is not available here; expected auto, cpu, cuda, cuda:N or mps ({reason})"
        ) from None
    if device.type == "meta":
        raise UsageError(f"device: expected a device that computes, got {name!r}")
    return device


def precision_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The type of the matrix products: auto is bfloat16 on a CUDA GPU and float32 elsewhere."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """A context that runs matrix products in that precision."""
    dtype = precision_dtype(precision, device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)
