"""An exported file takes any number of images and gives the model's logits, or is not written."""

import io
import json
import math
from pathlib import Path

import numpy
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

import vit
from vit import checkpoint, data, export
from vit.checks import UsageError
from vit.cli import parse
from vit.commands import EvalDataConfig, ExportConfig
from vit.config import Config, ViTConfig
from vit.model import VisionTransformer

Cifar = tuple[data.Split, data.Split]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a class token, heads and a relative bias of each block, and weights that all matter."""
    torch.manual_seed(0)
    shape = ViTConfig(dim=16, depth=2, heads=[1, 2], patch_size=8, pool="cls", relative_bias=True)
    config = Config(name="a model", model=shape)
    model = VisionTransformer(config.model)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn_like(param) * 0.3)
    path = tmp_path_factory.mktemp("checkpoint") / "best"
    checkpoint.save_checkpoint(path, model, config, {})
    return path


def settings(folder: Path, data_root: Path, **others: object) -> ExportConfig:
    return ExportConfig(str(folder), data=EvalDataConfig(str(data_root)), **others)  # type: ignore[arg-type]


class TestOnnx:
    def test_uint8_pixels_in_and_the_models_logits_out(
        self, folder: Path, data_root: Path, cifar: Cifar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        printed = export.main(settings(folder, data_root))
        assert printed["file"] == "a-model.onnx"
        assert printed["largest_difference"] <= 1e-4
        session = onnxruntime.InferenceSession(tmp_path / "a-model.onnx", providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        assert json.loads(metadata["labels"]) == list(data.LABELS)
        model = vit.load(folder)
        for count in (1, 7):
            images = cifar[1][0][:count]
            [logits] = session.run(None, {"images": images.numpy()})
            expected = model(model.preprocess(images)).detach().numpy()
            numpy.testing.assert_allclose(logits, expected, atol=1e-4)
        # Twice the same command: the first file stays.
        before = (tmp_path / "a-model.onnx").read_bytes()
        with pytest.raises(UsageError, match=r"output: a-model.onnx exists already"):
            export.main(settings(folder, data_root))
        assert (tmp_path / "a-model.onnx").read_bytes() == before


class TestTorch:
    def test_the_program_loads_with_its_labels(
        self, folder: Path, data_root: Path, cifar: Cifar, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.pt2"
        printed = export.main(settings(folder, data_root, format="torch", output=str(path)))
        assert printed["largest_difference"] <= 1e-4
        known = {"labels": ""}
        program = torch.export.load(path, extra_files=known).module()
        assert json.loads(known["labels"]) == list(data.LABELS)
        model = vit.load(folder)
        for count in (1, 7):
            images = cifar[1][0][:count]
            torch.testing.assert_close(program(images), model(model.preprocess(images)), atol=1e-4, rtol=0)

    def test_a_model_of_another_size_is_compared_on_images_of_that_size(self, data_root: Path, tmp_path: Path) -> None:
        config = Config(name="small", model=ViTConfig(dim=16, depth=1, heads=1, patch_size=8))
        shape = ViTConfig(dim=16, depth=1, heads=1, patch_size=8, image_size=16)
        checkpoint.save_checkpoint(tmp_path / "best", VisionTransformer(config.model), config, {})
        save_file(VisionTransformer(shape).state_dict(), tmp_path / "best" / "model.safetensors")
        description = json.loads((tmp_path / "best" / "config.json").read_text())
        description["model"]["image_size"] = 16
        (tmp_path / "best" / "config.json").write_text(json.dumps(description))
        file = str(tmp_path / "small.pt2")
        assert export.main(settings(tmp_path / "best", data_root, format="torch", output=file))["bytes"] > 0

    def test_without_preprocessing_it_takes_normalised_images(
        self, folder: Path, data_root: Path, cifar: Cifar, tmp_path: Path
    ) -> None:
        path = tmp_path / "plain.pt2"
        printed = export.main(settings(folder, data_root, format="torch", output=str(path), preprocess=False))
        assert printed["largest_difference"] <= 1e-4
        program, model = torch.export.load(path).module(), vit.load(folder)
        x = model.preprocess(cifar[1][0][:3])
        torch.testing.assert_close(program(x), model(x), atol=1e-4, rtol=0)


class TestRefusals:
    def test_a_file_that_computes_something_else_is_not_written(
        self, folder: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def other(model: VisionTransformer, preprocess: bool) -> bytes:
            with torch.no_grad():
                model.head.bias[3] += 2e-4
            content = export.export_torch(model, preprocess)
            with torch.no_grad():
                model.head.bias[3] -= 2e-4
            return content

        monkeypatch.setitem(export.EXPORT, "torch", other)
        with pytest.raises(UsageError, match=r"not written: logits differ by 2.0e-04, more than 0.0001"):
            export.main(settings(folder, data_root, format="torch", output=str(tmp_path / "model.pt2")))
        assert not list(tmp_path.iterdir())

    def test_a_file_that_computes_no_numbers_is_not_written(
        self, folder: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(export.RUN, "torch", lambda content: lambda images: torch.full((len(images), 10), math.nan))
        with pytest.raises(UsageError, match="not written: logits differ by inf"):
            export.main(settings(folder, data_root, format="torch", output=str(tmp_path / "model.pt2")))
        assert not list(tmp_path.iterdir())

    def test_nothing_is_begun_without_a_place_or_a_package(
        self, folder: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for output, message in (("link", "exists already"), ("no/where.onnx", "is not a folder")):
            with pytest.raises(UsageError, match=f"output: .*{message}"):
                export.main(settings(folder, data_root, output=str(tmp_path / output)))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else io)
        with pytest.raises(UsageError, match="onnxscript is not installed: pip install onnx onnxscript onnxruntime"):
            export.main(settings(folder, data_root))

    def test_settings(self) -> None:
        config = parse(ExportConfig, ["runs/multi_head", "--format=torch", "--preprocess=false"])
        assert config == ExportConfig("runs/multi_head", "torch", preprocess=False)
        with pytest.raises(UsageError, match="format: expected onnx or torch"):
            parse(ExportConfig, ["runs/multi_head", "--format=tflite"])
