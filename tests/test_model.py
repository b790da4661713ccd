"""The model's claims: what the number of heads changes and what it does not, and that it is the ViT others know."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vit.checks import UsageError
from vit.config import ViTConfig
from vit.model import Attention, VisionTransformer

HEADS = [1, 2, 3, 4, 6, 12]


def build(seed: int = 0, **settings: object) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(ViTConfig(**({"dim": 48, "depth": 2, "patch_size": 8} | settings)))


def randomise(model: torch.nn.Module) -> None:
    """Weights of a size that makes every part matter (fresh norms are identities and fresh biases zero)."""
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn_like(param) * 0.2)


class TestHeadCountChangesNothingElse:
    @pytest.mark.parametrize("settings", [{}, {"qk_norm": True}])
    def test_equal_parameters(self, settings: dict) -> None:
        counts = {h: sum(p.numel() for p in build(heads=h, **settings).parameters()) for h in HEADS}
        assert len(set(counts.values())) == 1, counts

    def test_equal_flops(self) -> None:
        counts = {}
        for heads in HEADS:
            with torch.device("meta"):  # the CPU kernels of attention are not counted, the plain products here are
                model, images = build(heads=heads), torch.empty(1, 3, 32, 32)
            with FlopCounterMode(display=False) as counter:
                model(images)
            counts[heads] = counter.get_total_flops()
        assert len(set(counts.values())) == 1, counts

    @pytest.mark.parametrize("settings", [{}, {"qk_norm": True}])
    def test_bit_equal_initial_weights(self, settings: dict) -> None:
        reference = build(heads=1, **settings).state_dict()
        for heads in [*HEADS, [2, 12]]:
            weights = build(heads=heads, **settings).state_dict()
            assert weights.keys() == reference.keys()
            assert all(torch.equal(weights[name], reference[name]) for name in reference)
        other_seed = build(seed=1, heads=1, **settings).state_dict()
        assert not torch.equal(other_seed["blocks.0.attn.qkv.weight"], reference["blocks.0.attn.qkv.weight"])

    def test_but_the_function_differs(self) -> None:
        images = torch.randn(2, 3, 32, 32)
        one, many = build(heads=1), build(heads=4)
        randomise(one)
        many.load_state_dict(one.state_dict())
        assert not torch.allclose(one(images), many(images), atol=1e-3)


class TestAgainstTimm:
    @pytest.mark.parametrize("heads", [1, 4])
    @pytest.mark.parametrize("pool", ["mean", "cls"])
    def test_logits_and_gradients_equal(self, heads: int, pool: str) -> None:
        ours = build(heads=heads, pool=pool)
        randomise(ours)
        timm = TimmViT(
            img_size=32,
            patch_size=8,
            num_classes=10,
            embed_dim=48,
            depth=2,
            num_heads=heads,
            class_token=pool == "cls",
            global_pool="token" if pool == "cls" else "avg",
            fc_norm=False,
        )
        timm.load_state_dict(ours.state_dict())  # strict: the same names and shapes
        images, labels = torch.randn(4, 3, 32, 32), torch.tensor([1, 2, 3, 4])
        logits, reference = ours(images), timm(images)
        torch.testing.assert_close(logits, reference)
        F.cross_entropy(logits, labels).backward()
        F.cross_entropy(reference, labels).backward()
        gradients = dict(timm.named_parameters())
        for name, param in ours.named_parameters():
            torch.testing.assert_close(param.grad, gradients[name].grad, msg=lambda text, name=name: f"{name}: {text}")

    def test_same_initial_distribution(self) -> None:
        """Equal standard deviations of every tensor, on a model wide enough to tell."""
        ours = build(dim=192, heads=3, patch_size=4).state_dict()
        timm = TimmViT(
            img_size=32, patch_size=4, num_classes=10, embed_dim=192, depth=2, num_heads=3,
            class_token=False, global_pool="avg", fc_norm=False,
        ).state_dict()  # fmt: skip
        for name, tensor in ours.items():
            assert tensor.std().item() == pytest.approx(timm[name].std().item(), rel=0.15, abs=1e-6), name


def explicit_attention(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(K)) V one head at a time, straight from the paper; also the maps (B, H, N, N)."""
    inner = attention.heads * attention.head_dim
    q, k, v = F.linear(x, attention.qkv.weight, attention.qkv.bias).split(inner, dim=-1)
    outputs, maps = [], []
    for h in range(attention.heads):
        part = slice(h * attention.head_dim, (h + 1) * attention.head_dim)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(attention.head_dim)
        maps.append(torch.exp(scores) / torch.exp(scores).sum(dim=-1, keepdim=True))
        outputs.append(maps[-1] @ v[..., part])
    return F.linear(torch.cat(outputs, dim=-1), attention.proj.weight, attention.proj.bias), torch.stack(maps, dim=1)


class TestAttention:
    @pytest.mark.parametrize(("heads", "head_dim"), [(1, None), (4, None), (12, None), (3, 5), (1, 7)])
    def test_fused_and_returned_maps_equal_the_equation_in_float64(self, heads: int, head_dim: int | None) -> None:
        attention = Attention(ViTConfig(dim=48, heads=heads, head_dim=head_dim), heads).double()
        randomise(attention)
        x = torch.randn(3, 16, 48, dtype=torch.double)
        expected, expected_maps = explicit_attention(attention, x)
        fused, _ = attention(x)
        returned, maps = attention(x, return_attention=True)
        torch.testing.assert_close(fused, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(returned, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(maps, expected_maps, rtol=1e-12, atol=1e-12)

    def test_by_hand(self) -> None:
        """Two tokens of width 2, x = [[1, 0], [0, 1]], with Q = a x, K = x, V = [[2, 0], [0, 4]] and no projection.

        One head (K = 2, scale 1/sqrt 2) with a = sqrt(2) ln 3: scores ln 3 * [[1, 0], [0, 1]], weights [[3/4, 1/4],
        [1/4, 3/4]], output [[1.5, 1], [0.5, 3]].
        Two heads (K = 1, scale 1) with a = ln 3: head 1 sees q = (ln 3, 0), k = (1, 0), v = (2, 0): weights
        [[3/4, 1/4], [1/2, 1/2]], output (1.5, 1). Head 2 sees q = (0, ln 3), k = (0, 1), v = (0, 4): weights
        [[1/2, 1/2], [1/4, 3/4]], output (2, 3). Concatenated: [[1.5, 2], [1, 3]].
        """
        x = torch.eye(2, dtype=torch.double)[None]
        for heads, a, expected in (
            (1, math.sqrt(2) * math.log(3), [[1.5, 1.0], [0.5, 3.0]]),
            (2, math.log(3), [[1.5, 2.0], [1.0, 3.0]]),
        ):
            attention = Attention(ViTConfig(dim=2, heads=heads), heads).double()
            with torch.no_grad():
                identity = torch.eye(2, dtype=torch.double)
                value = torch.tensor([[2, 0], [0, 4]])
                attention.qkv.weight.copy_(torch.cat([a * identity, identity, value]))
                attention.qkv.bias.zero_()
                attention.proj.weight.copy_(identity)
                attention.proj.bias.zero_()
            output, _ = attention(x)
            torch.testing.assert_close(output, torch.tensor([expected], dtype=torch.double))

    def test_order_of_heads_is_immaterial(self) -> None:
        model, images = build(heads=4), torch.randn(2, 3, 32, 32)
        randomise(model)
        before = model(images)
        order, K = torch.tensor([2, 0, 3, 1]), 12
        channels = (order[:, None] * K + torch.arange(K)).flatten()
        with torch.no_grad():
            for block in model.blocks:
                qkv = block.attn.qkv
                qkv.weight.copy_(qkv.weight.view(3, 48, 48)[:, channels].flatten(0, 1))
                qkv.bias.copy_(qkv.bias.view(3, 48)[:, channels].flatten())
                block.attn.proj.weight.copy_(block.attn.proj.weight[:, channels])
        torch.testing.assert_close(model(images), before)

    @pytest.mark.parametrize(
        "settings",
        [
            {"heads": 1},
            {"heads": [1, 4]},
            {"heads": 3, "qk_norm": True, "pool": "cls"},
            {"heads": 2, "relative_bias": True, "pool": "cls"},
        ],
    )
    def test_return_attention(self, settings: dict) -> None:
        model, images = build(**settings), torch.randn(2, 3, 32, 32)
        randomise(model)
        logits, maps = model(images, return_attention=True)
        torch.testing.assert_close(logits, model(images))
        tokens = model.config.tokens
        assert [m.shape for m in maps] == [(2, heads, tokens, tokens) for heads in model.config.block_heads]
        for each in maps:
            torch.testing.assert_close(each.sum(dim=-1), torch.ones(each.shape[:-1]))

    def test_output_projection_is_always_there(self) -> None:
        for heads, head_dim in ((1, None), (1, 48), (4, None), (2, 5)):
            projection = build(heads=heads, head_dim=head_dim).blocks[0].attn.proj
            assert projection.weight.shape == (48, heads * (head_dim or 48 // heads))

    def test_relative_bias_leaves_the_other_initial_weights_alone(self) -> None:
        plain, biased = build(heads=4).state_dict(), build(heads=4, relative_bias=True).state_dict()
        assert all(torch.equal(plain[name], biased[name]) for name in plain)

    @pytest.mark.parametrize(
        ("heads", "places"),  # down, right
        [
            (1, [(0, 0)]),
            (2, [(0, -1), (0, 1)]),
            (3, [(0, -1), (-(0.75**0.5), 0.5), (0.75**0.5, 0.5)]),
            (4, [(0, -1), (-1, 0), (0, 1), (1, 0)]),
        ],
    )
    def test_heads_with_a_relative_bias_first_look_around_the_query(
        self, heads: int, places: list[tuple[float, float]]
    ) -> None:
        bias = build(heads=heads, relative_bias=True).blocks[0].attn.relative_bias().view(heads, 4, 4, 4, 4)
        for row, column in ((2, 1), (0, 3)):
            for scores, (down, right) in zip(bias[:, row, column], places, strict=True):
                for key in itertools.product(range(4), repeat=2):
                    distance = math.dist(key, (row + down, column + right))
                    nearer = (scores[key] - scores[row, column]).item()  # than the query itself
                    assert nearer == pytest.approx(math.hypot(down, right) - distance, abs=1e-5)

    @pytest.mark.parametrize("patch_size", [2, 4])
    def test_relative_bias_first_gives_a_class_token_the_weight_of_a_patch(self, patch_size: int) -> None:
        model = build(heads=4, relative_bias=True, pool="cls", patch_size=patch_size)
        side = 32 // patch_size
        bias = model.blocks[0].attn.relative_bias()
        of_the_middle = bias[:, 1 + side // 2 * side + side // 2].softmax(dim=-1)
        assert bool(((of_the_middle[:, 0] * model.config.tokens - 1).abs() < 0.2).all())

    @pytest.mark.parametrize("pool", ["mean", "cls"])
    def test_relative_bias_depends_on_the_offset_of_two_patches_alone(self, pool: str) -> None:
        model = build(heads=2, relative_bias=True, pool=pool)  # 4 x 4 patches
        attention = model.blocks[0].attn
        with torch.no_grad():
            attention.qkv.weight.zero_()  # no score but the bias
            attention.relative_bias.table.copy_(
                torch.stack([torch.arange(49) / 10, torch.zeros(49)]) / attention.relative_bias.GAIN
            )
        _, (maps, _) = model(torch.randn(1, 3, 32, 32), return_attention=True)
        extra = pool == "cls"
        torch.testing.assert_close(
            maps[0, 1], torch.full_like(maps[0, 1], 1 / len(maps[0, 1]))
        )  # a table for each head
        scores = maps[0, 0].log()[extra:, extra:].view(4, 4, 4, 4)  # row and column of the query, of the key
        for down, right in ((0, 0), (1, 0), (-2, 1), (0, 3)):  # beside the bias of a patch on itself, in table order
            for row, column in ((2, 0), (1, 2)):
                if 0 <= row + down < 4 and 0 <= column + right < 4:
                    relative = scores[row, column, row + down, column + right] - scores[row, column, row, column]
                    torch.testing.assert_close(relative, torch.tensor(-(7 * down + right) / 10), atol=1e-5, rtol=0)
        if extra:
            torch.testing.assert_close(maps[0, 0, 0], torch.full((17,), 1 / 17))  # the class token's offset is none

    def test_qk_norm_replaces_the_scale(self) -> None:
        """Longer queries and keys leave the output alone; the learned scale does not."""
        attention = Attention(ViTConfig(dim=48, heads=4, qk_norm=True), 4)
        randomise(attention.qkv)
        x = torch.randn(1, 16, 48)
        assert attention.scale.item() == pytest.approx(math.log2(64**2 - 64))  # 64 tokens (Henry et al. 2020)
        before, _ = attention(x)
        with torch.no_grad():
            attention.qkv.weight[:96] *= 3
            attention.qkv.bias[:96] *= 3
        torch.testing.assert_close(attention(x)[0], before)
        with torch.no_grad():
            attention.scale *= 2
        assert not torch.allclose(attention(x)[0], before)

    @pytest.mark.parametrize("heads", [1, 4])
    def test_plain_products_equal_the_fused_kernel(self, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """In bfloat16 on a CPU attention is two products and a softmax, which is faster; the logits are equal."""
        model = VisionTransformer(ViTConfig(heads=heads))
        x = torch.randn(4, 3, 32, 32)
        logits = {}
        for products in (True, False):
            monkeypatch.setattr("vit.model.plain_products", lambda *_, products=products: products)
            logits[products] = model(x)
        torch.testing.assert_close(logits[True], logits[False])


class TestParts:
    @pytest.mark.parametrize("pool", ["mean", "cls"])
    def test_under_autocast_bfloat16_runs_through_all_blocks(self, pool: str) -> None:
        """One float32 term in the sum of patches and positions would make every block read and write float32."""
        model = build(pool=pool)
        seen = []
        for block in model.blocks:
            block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.randn(2, 3, 32, 32))
        assert seen == [torch.bfloat16] * 2

    def test_sincos_positions_are_fixed_distinct_and_zero_for_the_class_token(self) -> None:
        model = build(pos_embed="sincos", pool="cls", patch_size=4)
        assert "pos_embed" in model.state_dict()
        assert "pos_embed" not in dict(model.named_parameters())
        positions = model.pos_embed[0]
        assert positions.shape == (65, 48)
        assert positions[0].abs().max() == 0
        distances = torch.cdist(positions[1:], positions[1:]) + 10 * torch.eye(64)
        assert distances.min() > 0.5
        # Row 2, column 3: the lowest-index frequency of each quarter is 1.
        token = positions[1 + 2 * 8 + 3]
        expected = [math.sin(2), math.cos(2), math.sin(3), math.cos(3)]
        torch.testing.assert_close(token[::12], torch.tensor(expected))

    def test_drop_path_drops_whole_branches_of_some_images_in_training_only(self) -> None:
        model, images = build(depth=3, drop_path=0.5), torch.randn(1, 3, 32, 32).expand(64, -1, -1, -1)
        randomise(model)
        assert [block.drop_path for block in model.blocks] == [0.0, 0.25, 0.5]
        assert len(model.train()(images).unique(dim=0)) > 4  # blocks 2 and 3 have two branches each: up to 16 ways
        assert len(model.eval()(images).unique(dim=0)) == 1
        branch = torch.ones(4000, 1, 1)
        dropped = model.blocks[2].train().drop(branch)
        assert set(dropped.unique().tolist()) == {0.0, 2.0}
        assert dropped.mean().item() == pytest.approx(1, abs=0.05)

    def test_wrong_image_size_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"expected images of shape \(B, 3, 32, 32\), got \(1, 3, 28, 28\)"):
            build()(torch.zeros(1, 3, 28, 28))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"heads": 5}, "model.heads: expected a divisor of dim 48"),
            ({"heads": 0}, "model.heads: expected a number above 0"),
            ({"heads": [1, 2, 3]}, "model.heads: expected one number for each of 2 blocks"),
            ({"patch_size": 5}, "model.patch_size: expected a divisor of image_size 32"),
            ({"drop_path": 1.0}, "model.drop_path"),
            ({"dim": 50, "heads": 1, "pos_embed": "sincos"}, "model.dim: expected a multiple of 4"),
        ],
    )
    def test_impossible_shapes_are_refused(self, settings: dict, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            build(**settings)
