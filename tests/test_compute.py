"""The closed forms equal what is there: PyTorch's own count of FLOPs, and the parameters of the built model."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vit import compute
from vit.config import ViTConfig
from vit.model import VisionTransformer

MODELS = {
    "one head": ViTConfig(heads=1),
    "many heads": ViTConfig(heads=8),
    "class token": ViTConfig(pool="cls"),
    "deep and narrow": ViTConfig(depth=9, dim=48, heads=12),
    "wide": ViTConfig(dim=384, depth=2, heads=6),
    "patch 8": ViTConfig(patch_size=8),
    "patch 2": ViTConfig(patch_size=2, depth=1),
    "slim mlp": ViTConfig(mlp_ratio=1.5),
    "free head_dim": ViTConfig(heads=3, head_dim=20),
    "a list of heads": ViTConfig(heads=[1, 2, 4, 8]),
    "a list with head_dim": ViTConfig(heads=[1, 2, 4, 8], head_dim=16),
    "relative bias": ViTConfig(relative_bias=True),
    "relative bias and class token": ViTConfig(relative_bias=True, patch_size=8, pool="cls"),
    "qk_norm and sincos": ViTConfig(qk_norm=True, pos_embed="sincos", pool="cls"),
}


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())
def test_closed_forms(config: ViTConfig) -> None:
    with torch.device("meta"):
        model, images = VisionTransformer(config), torch.empty(3, 3, 32, 32)
    assert compute.count_params(config) == sum(p.numel() for p in model.parameters())
    with FlopCounterMode(display=False) as counter:
        logits = model(images)
    assert 3 * compute.forward_flops(config) == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        logits = model(images)
        logits.sum().backward()
    assert 3 * compute.train_flops(config) == counter.get_total_flops()


def test_by_hand() -> None:
    """d128 L4 p4: L * (N * 12 D^2 + 2 N^2 D) + N * 48 * D + 10 * D multiply-accumulates, N = 64."""
    macs = 4 * (64 * 12 * 128**2 + 2 * 64**2 * 128) + 64 * 48 * 128 + 10 * 128
    assert compute.forward_macs(ViTConfig()) == macs
    assert compute.forward_flops(ViTConfig()) == 2 * macs


def test_fixed_head_dim_makes_heads_cost() -> None:
    """The article's silent comparison: with head_dim fixed, one head is cheaper and smaller."""
    one, many = ViTConfig(heads=1, head_dim=32), ViTConfig(heads=4, head_dim=32)
    assert compute.forward_flops(one) < compute.forward_flops(many)
    assert compute.count_params(one) < compute.count_params(many)


def test_attention_backend_names_the_kernel_of_each_block() -> None:
    cpu = torch.device("cpu")
    one = compute.attention_backend(ViTConfig(heads=1), 8, cpu, torch.float32)
    assert one in {"flash", "math", "efficient"}
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert compute.attention_backend(ViTConfig(heads=[1, 2, 4, 8]), 8, cpu, torch.float32) == "math"


def test_attention_backend_names_the_path_that_was_measured_to_be_fast() -> None:
    """On a CPU: the fused kernel in float32, plain products in bfloat16 unless the sequence is long."""
    cpu = torch.device("cpu")
    assert compute.attention_backend(ViTConfig(), 8, cpu, torch.float32) != "products"
    assert compute.attention_backend(ViTConfig(), 8, cpu, torch.bfloat16) == "products"
    assert compute.attention_backend(ViTConfig(patch_size=1), 8, cpu, torch.bfloat16) != "products"


def test_attention_backend_does_not_ask_where_nothing_answers() -> None:
    assert compute.attention_backend(ViTConfig(), 8, torch.device("mps"), torch.float32) == "unknown"


@pytest.mark.parametrize(
    ("device", "units"),
    [
        ("Intel(R) Xeon(R) Processor, 1 threads", (1, "core")),
        ("AMD EPYC 9R14, threads: 16", (16, "core")),
        ("NVIDIA H100 80GB HBM3", (1, "GPU")),
        ("2 x NVIDIA H200", (2, "GPU")),
        ("AMD EPYC 9R14, threads: 16, then NVIDIA H200", None),
    ],
)
def test_units_of_a_device_name(device: str, units: tuple[int, str] | None) -> None:
    assert compute.units_of(device) == units


def test_no_accelerator_counts_as_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute.units_of(compute.device_name(torch.device("mps"))) == (1, "GPU")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    assert compute.units_of(compute.device_name(torch.device("cuda"), processes=2)) == (2, "GPU")


def test_units_of_this_machine() -> None:
    name = compute.device_name(torch.device("cpu"), processes=3)
    assert compute.units_of(name) == (3 * torch.get_num_threads(), "core")
