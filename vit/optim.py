"""Parameter groups, Muon and AdamW, the learning-rate schedule, and weight averaging."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from vit.config import OptimConfig


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (Jordan et al. 2024) with the update of all matrices of one shape computed at once.

    Same state, same update. PyTorch orthogonalises one matrix after another, always in bfloat16: hundreds of small
    kernels on a GPU, and very slow on a CPU without bfloat16 units. Here equal shapes are stacked, in bfloat16 on a
    GPU and in float32 elsewhere.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "Muon takes gradients, not a closure"
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    by_shape[param.shape].append(param)
            for params in by_shape.values():
                self.step_equal_shapes(params, group)

    def step_equal_shapes(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for param in params:
            if not self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        grads = [param.grad for param in params if param.grad is not None]
        momentum = [self.state[param]["momentum_buffer"] for param in params]
        torch._foreach_lerp_(momentum, grads, 1 - group["momentum"])
        update = torch.stack(torch._foreach_lerp(grads, momentum, group["momentum"]))  # Nesterov
        update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = params[0].shape
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_sub_(params, (update * (group["lr"] * math.sqrt(max(1, rows / columns)))).unbind())


def orthogonalize(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Push the singular values of each matrix of a stack (S, rows, columns) towards 1 by a quintic Newton-Schulz
    iteration (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon)."""
    a, b, c = coefficients
    wide = x.to(torch.bfloat16 if x.is_cuda else torch.float32)
    if x.shape[-2] > x.shape[-1]:
        wide = wide.mT
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.baddbmm(wide, gram, wide, beta=a)
    return (wide.mT if x.shape[-2] > x.shape[-1] else wide).to(x.dtype)


def make_optimizers(model: nn.Module, config: OptimConfig, captured: bool = False) -> list[Optimizer]:
    """One AdamW, or Muon for the blocks' matrices and AdamW for the rest.

    Weight decay acts on matrices (linear layers and the patch projection), not on norms, biases, scales or positions.
    `captured` says that the steps will be part of a CUDA graph.
    """
    blocks, matrices, vectors = [], [], []
    for name, param in model.named_parameters():
        if not name.endswith(".weight") or param.ndim == 1:
            vectors.append(param)
        elif config.name == "muon" and name.startswith("blocks."):
            blocks.append(param)
        else:
            matrices.append(param)
    lr = config.lr if config.name == "adamw" else config.rest_lr
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizers: list[Optimizer] = [AdamW(groups, lr=lr, fused=True, capturable=captured)]
    if blocks:
        optimizers.insert(0, Muon(blocks, lr=config.lr, weight_decay=config.weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
            if captured:  # in a CUDA graph only a tensor can change
                group["lr"] = torch.tensor(group["lr"], device=matrices[0].device)
    return optimizers


def set_lr(optimizers: list[Optimizer], factor: float) -> None:
    """Set every learning rate to `factor` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            lr = group["peak_lr"] * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr


def schedule(step: int, steps: int, config: OptimConfig) -> float:
    """Learning rate of step 0 .. steps - 1 as a fraction of its peak: a linear warm-up, then cosine or linear decay."""
    warmup = int(config.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = 1 - (step - warmup) / (steps - warmup)
    return left if config.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the averaged weights towards the model's after step 0, 1, ...; the decay itself warms up from 0.1, so that
    a short run does not average in its initial weights (the rule of TensorFlow's ExponentialMovingAverage)."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
