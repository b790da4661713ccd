"""To timm and back: equal logits where the geometry is equal, a training that starts from timm's weights otherwise."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from torch import Tensor

import vit
from vit import checkpoint, data
from vit.checks import UsageError
from vit.cli import parse
from vit.config import AugmentConfig, Config, DataConfig, OptimConfig, TrainConfig, ViTConfig
from vit.model import VisionTransformer
from vit.run_folder import material
from vit.runs import train
from vit.timm_bridge import initial_weights

Cifar = tuple[data.Split, data.Split]


def randomise(model: torch.nn.Module) -> None:
    """Weights of a size that makes every part matter."""
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn_like(param) * 0.2)


def timm_vit(**settings: Any) -> Any:
    """timm's ViT of width 192, 3 heads, one class token, but small."""
    model = timm.create_model("vit_tiny_patch16_224", **({"img_size": 32, "patch_size": 8, "depth": 2} | settings))
    randomise(model)
    return model.eval()


def ours_from(init: Path | str, **settings: Any) -> VisionTransformer:
    config = ViTConfig(**({"dim": 192, "depth": 2, "heads": 3, "patch_size": 8, "pool": "cls"} | settings))
    model = VisionTransformer(config)
    model.load_state_dict(initial_weights(f"timm:{init}", config), strict=False)
    return model.eval()


class TestToTimm:
    @pytest.mark.parametrize(
        "settings",
        [
            {"heads": 1},
            {"heads": 4, "pool": "cls", "drop_path": 0.1},
            {"heads": [2, 2], "mlp_ratio": 1.5},
            {"heads": 3, "head_dim": 16, "pos_embed": "sincos"},
        ],
    )
    def test_logits_are_equal(self, settings: dict, tmp_path: Path, cifar: Cifar) -> None:
        config = Config(name="run", model=ViTConfig(**({"dim": 48, "depth": 2, "patch_size": 8} | settings)))
        model = VisionTransformer(config.model)
        randomise(model)
        checkpoint.save_checkpoint(tmp_path / "ours", model, config, {})
        model = vit.load(tmp_path / "ours")
        theirs = vit.to_timm(model)
        x = model.preprocess(cifar[1][0][:8])
        torch.testing.assert_close(theirs(x), model(x))
        assert resolve_model_data_config(theirs)["mean"] == data.MEAN
        assert resolve_model_data_config(theirs)["input_size"] == (3, 32, 32)

    def loaded(self, tmp_path: Path, **settings: Any) -> VisionTransformer:
        config = Config(
            name="run", model=ViTConfig(**({"dim": 48, "depth": 2, "patch_size": 8, "heads": 3} | settings))
        )
        model = VisionTransformer(config.model)
        randomise(model)
        checkpoint.save_checkpoint(tmp_path / "ours", model, config, {})
        return vit.load(tmp_path / "ours")

    @pytest.mark.parametrize("size", [(500, 333), (40, 300), (32, 32), (20, 31)])
    def test_timms_preprocessing_is_ours(self, tmp_path: Path, size: tuple[int, int]) -> None:
        model = self.loaded(tmp_path)
        transform = create_transform(**resolve_model_data_config(vit.to_timm(model)), is_training=False)
        picture = Image.radial_gradient("L").resize(size).convert("RGB")
        picture.paste((200, 30, 90), (0, 0, size[0] // 3, size[1] // 4))
        theirs, ours = transform(picture), model.preprocess(picture)[0]
        step = 1 / 255 / min(data.STD)  # of one brightness
        torch.testing.assert_close(theirs, ours, rtol=0, atol=2.01 * step)  # Pillow and PyTorch round differently
        assert (theirs - ours).abs().mean() < 0.2 * step

    @pytest.mark.parametrize("pool", ["mean", "cls"])
    def test_saved_by_timm_it_is_the_same_model_for_timm_and_for_us(
        self, tmp_path: Path, pool: str, cifar: Cifar
    ) -> None:
        model = self.loaded(tmp_path, pool=pool, mlp_ratio=2.0)
        theirs = vit.to_timm(model)
        save_for_hf(theirs, str(tmp_path / "hf"), model_args=theirs.model_args)
        x = model.preprocess(cifar[1][0][:8])
        again = timm.create_model(f"local-dir:{tmp_path / 'hf'}", pretrained=True).eval()
        torch.testing.assert_close(again(x), model(x))
        config = resolve_model_data_config(again)
        assert (config["crop_mode"], config["crop_pct"], tuple(config["mean"])) == ("squash", 1.0, data.MEAN)
        back = VisionTransformer(model.config)
        back.load_state_dict(initial_weights(f"timm:{tmp_path / 'hf'}", model.config))
        torch.testing.assert_close(back.eval()(x), model(x))

    @pytest.mark.parametrize(
        ("settings", "key"),
        [
            ({"heads": [1, 2]}, "model.heads"),
            ({"head_dim": 16}, "model.head_dim"),
            ({"qk_norm": True}, "qk_norm"),
            ({"relative_bias": True}, "model.relative_bias"),
        ],
    )
    def test_what_timm_does_not_have_is_refused(self, settings: dict, key: str) -> None:
        model = VisionTransformer(ViTConfig(**({"dim": 48, "depth": 2, "heads": 4} | settings)))
        with pytest.raises(UsageError, match=key):
            vit.to_timm(model)


class TestFromTimm:
    """`theirs` sees pixels as (x - 0.5) / 0.5, ours by CIFAR-10's mean and deviation."""

    def pixels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        half = (0.5, 0.5, 0.5)
        return data.normalise(images), data.normalise(images, half, half)

    @pytest.mark.parametrize("pool", ["cls", "mean"])
    def test_a_folder_of_timm_gives_equal_logits_though_pixels_are_normalised_otherwise(
        self, pool: str, tmp_path: Path, cifar: Cifar
    ) -> None:
        settings = {"class_token": False, "global_pool": "avg", "fc_norm": False} if pool == "mean" else {}
        theirs = timm_vit(num_classes=10, **settings)
        save_for_hf(theirs, str(tmp_path / "hf"), model_args=settings | {"img_size": 32, "patch_size": 8, "depth": 2})
        mine, other = self.pixels(cifar[1][0][:8])
        assert theirs.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)
        torch.testing.assert_close(ours_from(tmp_path / "hf", pool=pool)(mine), theirs(other), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_file_does_not_say_how_so_pixels_are_taken_as_they_come(self, suffix: str, tmp_path: Path) -> None:
        theirs = timm_vit(num_classes=10)
        path = tmp_path / f"weights{suffix}"
        content = theirs.state_dict()
        save_file(content, path) if suffix == ".safetensors" else torch.save({"state_dict": content, "epoch": 3}, path)
        x = torch.randn(4, 3, 32, 32)
        torch.testing.assert_close(ours_from(path)(x), theirs(x))

    def test_other_classes_get_a_new_classifier_and_the_rest_is_theirs(self, tmp_path: Path) -> None:
        theirs = timm_vit(num_classes=1000)
        torch.save(theirs.state_dict(), tmp_path / "weights.pth")
        torch.manual_seed(5)
        ours = ours_from(tmp_path / "weights.pth")
        torch.manual_seed(5)
        fresh = VisionTransformer(ours.config)
        assert torch.equal(ours.head.weight, fresh.head.weight)
        assert ours.head.bias.abs().max() == 0
        x = torch.randn(4, 3, 32, 32)
        theirs.head, ours.head = torch.nn.Identity(), torch.nn.Identity()
        torch.testing.assert_close(ours(x), theirs(x))

    def test_without_a_class_token_the_patches_keep_their_positions(self, tmp_path: Path) -> None:
        theirs = timm_vit()
        torch.save(theirs.state_dict(), tmp_path / "weights.pth")
        assert torch.equal(ours_from(tmp_path / "weights.pth", pool="mean").pos_embed, theirs.pos_embed[:, 1:])

    def test_timm_models_without_a_position_of_the_class_token(self, tmp_path: Path) -> None:
        theirs = timm_vit(no_embed_class=True, num_classes=10)
        torch.save(theirs.state_dict(), tmp_path / "weights.pth")
        x = torch.randn(4, 3, 32, 32)
        torch.testing.assert_close(ours_from(tmp_path / "weights.pth")(x), theirs(x))

    def test_another_patch_and_image_size_is_resampled(self, tmp_path: Path) -> None:
        """Positions that grow from left to right still do; a patch made larger embeds as it did before."""
        theirs = timm_vit(img_size=224, patch_size=16)
        ramp = torch.linspace(-1, 1, 14).expand(14, 14).reshape(1, 196, 1).expand(1, 196, 192)
        with torch.no_grad():
            theirs.pos_embed[:, 1:] = ramp
        torch.save(theirs.state_dict(), tmp_path / "weights.pth")
        ours = ours_from(tmp_path / "weights.pth", patch_size=4)
        assert ours.pos_embed.shape == (1, 65, 192)
        assert torch.equal(ours.pos_embed[:, 0], theirs.pos_embed[:, 0])
        rows = ours.pos_embed[0, 1:, 0].view(8, 8)
        assert torch.allclose(rows[0], rows[5], atol=1e-5)
        assert (rows[0].diff() > 0).all()

        theirs = timm_vit(img_size=16, patch_size=4)
        torch.save(theirs.state_dict(), tmp_path / "weights.pth")
        ours = ours_from(tmp_path / "weights.pth")
        patches = torch.randn(5, 3, 4, 4)
        enlarged = F.interpolate(patches, (8, 8), mode="bicubic", antialias=True)
        embedded = F.conv2d(enlarged, ours.patch_embed.proj.weight, ours.patch_embed.proj.bias)
        torch.testing.assert_close(embedded, theirs.patch_embed.proj(patches), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"depth": 3}, r"blocks.2.norm1.weight is absent, this model asks for \(192,\)"),
            ({"depth": 1}, r"blocks.1.norm1.weight is \(192,\), this model asks for absent"),
            ({"dim": 96}, r"cls_token is \(1, 1, 192\), this model asks for \(1, 1, 96\)"),
            ({"mlp_ratio": 2.0}, r"blocks.0.mlp.fc1.weight is \(768, 192\), this model asks for \(384, 192\)"),
            ({"qk_norm": True}, r"blocks.0.attn.scale is absent"),
        ],
    )
    def test_the_first_parameter_that_does_not_fit_is_named(self, settings: dict, message: str, tmp_path: Path) -> None:
        torch.save(timm_vit().state_dict(), tmp_path / "weights.pth")
        with pytest.raises(UsageError, match=f"init: timm:.*weights.pth: {message}"):
            ours_from(tmp_path / "weights.pth", **settings)

    def test_what_is_no_vit_or_not_there_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for settings, name in (
            ({"init_values": 0.1}, "blocks.0.ls1.gamma"),
            ({"reg_tokens": 2}, "pos_embed|reg_token"),
            ({"class_token": False, "global_pool": "avg"}, "cls_token is absent"),
        ):
            torch.save(timm_vit(**settings).state_dict(), tmp_path / "weights.pth")
            with pytest.raises(UsageError, match=name):
                ours_from(tmp_path / "weights.pth")
        monkeypatch.chdir(tmp_path)
        for name in ("no_such_model", "nowhere/weights.pth"):
            with pytest.raises(UsageError, match=f"init: {name}: expected a name that timm has weights for"):
                ours_from(name)
        save_for_hf(timm.create_model("resnet10t"), str(tmp_path / "resnet"))
        with pytest.raises(UsageError, match="init: resnet: expected a VisionTransformer, got timm's ResNet"):
            ours_from("resnet")
        (tmp_path / "text.pth").write_text("no weights")
        with pytest.raises(UsageError, match=r"init: text.pth: expected"):
            ours_from("text.pth")
        broken = timm_vit()
        with torch.no_grad():
            broken.norm.weight[3] = float("nan")
        torch.save(broken.state_dict(), tmp_path / "nan.pth")
        with pytest.raises(UsageError, match=r"norm.weight holds NaN"):
            ours_from("nan.pth")

    def test_a_pickle_runs_nothing(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple:
                return os.mkdir, (str(tmp_path / "opened"),)

        torch.save({"a": Trap()}, tmp_path / "weights.pth")
        with pytest.raises(UsageError, match="init: "):
            ours_from(tmp_path / "weights.pth")
        assert not (tmp_path / "opened").exists()

    def test_another_number_of_heads_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        save_for_hf(timm_vit(), str(tmp_path / "hf"), model_args={"img_size": 32, "patch_size": 8, "depth": 2})
        ours_from(tmp_path / "hf", heads=1)
        assert "was trained with 3 heads; this model has 1" in capsys.readouterr().err


class TestTraining:
    def test_a_run_starts_from_the_weights_and_resumes_without_them(
        self, small: Callable[..., Config], tmp_path: Path
    ) -> None:
        weights = tmp_path / "weights.pth"
        torch.save(timm_vit(patch_size=16, img_size=64, depth=1).state_dict(), weights)
        groups = {
            "init": f"timm:{weights}",
            "model": ViTConfig(dim=192, depth=1, heads=3, patch_size=8),
            "optim": OptimConfig(name="adamw", lr=1e-7),
            "augment": AugmentConfig(),
            "data": DataConfig(root=small().data.root, train_images=40, val_images=50),
        }
        summary = train(small(train=TrainConfig(epochs=1, batch_size=20, test=False), **groups))
        trained = vit.load(summary["run"])
        start = VisionTransformer(trained.config)
        start.load_state_dict(initial_weights(groups["init"], trained.config), strict=False)
        for name, tensor in start.state_dict().items():
            if not name.startswith("head."):
                torch.testing.assert_close(trained.state_dict()[name], tensor, rtol=0, atol=1e-5)
        assert f"from the weights of timm:{weights}" in (Path(summary["run"]) / "best" / "README.md").read_text()
        # Killed before its summary: what it started from is not needed any more.
        (Path(summary["run"]) / "summary.json").unlink()
        weights.unlink()
        again = train(small(train=TrainConfig(epochs=1, batch_size=20, test=False), resume=True, **groups))
        assert again["best/val_acc"] == summary["best/val_acc"]

    def test_weights_that_do_not_fit_leave_no_run(self, small: Callable[..., Config], tmp_path: Path) -> None:
        torch.save(timm_vit().state_dict(), tmp_path / "weights.pth")
        with pytest.raises(UsageError, match=r"patch_embed.proj.weight|pos_embed"):
            train(small(init=f"timm:{tmp_path / 'weights.pth'}"))
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize("init", ["vit_tiny_patch16_224", "timm:", "hf-hub:a/b"])
    def test_init_says_whose_weights(self, init: str) -> None:
        with pytest.raises(UsageError, match="init: expected timm: and a name"):
            Config(init=init)

    def test_null_is_the_default_so_that_older_rows_and_runs_are_still_the_same(self) -> None:
        assert parse(Config, ["--init=null"]).init is None
        assert parse(Config, ["--init=timm:vit_tiny_patch16_224"]).init == "timm:vit_tiny_patch16_224"
        assert material(Config())["init"] is None

    def test_without_timm_one_line_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UsageError, match="the package timm is not installed: pip install timm"):
            initial_weights("timm:vit_tiny_patch16_224", ViTConfig())
