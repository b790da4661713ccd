"""Muon is torch.optim.Muon, the schedule and the average are what they say, and every parameter is in one group."""

import pytest
import torch
import torch.optim._muon as torch_muon

from vit.config import OptimConfig, ViTConfig
from vit.model import VisionTransformer
from vit.optim import Muon, make_optimizers, orthogonalize, schedule, set_lr, update_ema


def float32_newton_schulz(grad, coefficients, steps, eps):
    """The iteration of Jordan et al. (2024) for one matrix, as they write it: X <- aX + b(XX')X + c(XX')(XX')X."""
    a, b, c = coefficients
    x = grad.T if len(grad) > grad.shape[1] else grad
    x = x / max(x.norm(), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x.T if len(grad) > grad.shape[1] else x


@pytest.mark.parametrize("exact", [True, False])
def test_muon_equals_pytorchs(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several steps: to float32 rounding once PyTorch's iteration runs in float32, to bfloat16's as it is."""
    if exact:
        monkeypatch.setattr(torch_muon, "_zeropower_via_newtonschulz", float32_newton_schulz)
    shapes = [(24, 8), (8, 8), (8, 24), (8, 24), (24, 8)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(param.detach().clone()) for param in ours]
    optimizers = [Muon(ours, lr=0.1, weight_decay=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1)]
    start = [param.detach().clone() for param in ours]
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, before in zip(ours, theirs, start, strict=True):
        gap = (a - b).norm() / (b - before).norm()
        assert gap < (1e-5 if exact else 0.03), gap
    state, reference = (optimizer.state_dict()["state"] for optimizer in optimizers)
    torch.testing.assert_close(state, reference)


def test_orthogonalize_pushes_singular_values_towards_one() -> None:
    for shape in ((3, 8, 24), (2, 24, 8)):
        x = torch.randn(shape)
        result = orthogonalize(x, (3.4445, -4.7750, 2.0315), 5, 1e-7)
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.5
        assert values.max() < 1.3
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        # Same singular vectors: in their basis the result is diagonal.
        diagonal = u.mT @ result @ v.mT
        assert (diagonal - torch.diag_embed(diagonal.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_parameter_is_in_one_group(name: str) -> None:
    model = VisionTransformer(ViTConfig(dim=16, depth=2, heads=2, pool="cls", qk_norm=True))
    optimizers = make_optimizers(model, OptimConfig(name=name, lr=0.02, rest_lr=0.003, weight_decay=0.1))
    names = {param: key for key, param in model.named_parameters()}
    seen = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for param in group["params"]:
                assert names[param] not in seen
                seen[names[param]] = (type(optimizer).__name__, group["lr"], group["weight_decay"])
    assert seen.keys() == set(names.values())
    assert seen["blocks.0.attn.qkv.weight"] == (("Muon" if name == "muon" else "AdamW"), 0.02, 0.1)
    rest_lr = 0.003 if name == "muon" else 0.02
    assert seen["patch_embed.proj.weight"] == seen["head.weight"] == ("AdamW", rest_lr, 0.1)
    for free in ("pos_embed", "cls_token", "norm.weight", "blocks.1.attn.scale", "blocks.1.mlp.fc1.bias"):
        assert seen[free] == ("AdamW", rest_lr, 0.0), free


def test_schedule_rises_to_the_peak_and_falls_to_zero() -> None:
    for kind in ("linear", "cosine"):
        config = OptimConfig(warmup=0.1, schedule=kind)
        values = [schedule(step, 100, config) for step in range(100)]
        assert values[:3] == pytest.approx([1 / 11, 2 / 11, 3 / 11])
        assert values[10] == max(values) == 1
        assert values[10:] == sorted(values[10:], reverse=True)
        assert 0 < values[-1] < 0.02
        assert values[55] == pytest.approx(0.5, abs=1e-6)
    assert schedule(0, 100, OptimConfig(warmup=0)) == 1


def test_set_lr_scales_every_group_from_its_own_peak() -> None:
    model = VisionTransformer(ViTConfig(dim=16, depth=1, heads=1))
    optimizers = make_optimizers(model, OptimConfig(lr=0.02, rest_lr=0.003))
    set_lr(optimizers, 0.1)
    set_lr(optimizers, 0.5)
    assert [group["lr"] for optimizer in optimizers for group in optimizer.param_groups] == [0.01, 0.0015, 0.0015]


def test_ema_is_the_weighted_mean_of_the_weights() -> None:
    model, average = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(average.weight)
    expected = 0.0
    for step in range(200):
        torch.nn.init.constant_(model.weight, step)
        update_ema(average, model, step, decay=0.9)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weight.item() == pytest.approx(expected, rel=1e-5)
    assert average.weight.item() == pytest.approx(199 - 9, rel=0.01)  # mean age of a decay of 0.9: 9 steps
