"""A checkpoint is whole, loads as what was saved, and anything else is refused by name."""

import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import vit
from vit import checkpoint, data
from vit.checks import UsageError
from vit.config import Config, ViTConfig
from vit.description import read_description
from vit.files import atomic
from vit.model import VisionTransformer


class Trap:
    """Its unpickling makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, VisionTransformer]:
    config = Config(
        name="run",
        model=ViTConfig(dim=16, depth=2, heads=[1, 2], pool="cls", qk_norm=True, relative_bias=True, head_dim=6),
    )
    model = VisionTransformer(config.model)
    folder = tmp_path / "run" / "best"
    folder.parent.mkdir()
    checkpoint.save_checkpoint(folder, model, config, {"val/acc": 0.75, "compute/epoch": 3.0})
    return folder, model


class TestLoading:
    def test_gives_the_saved_model_in_eval_mode_with_labels_and_preprocessing(self, saved: tuple) -> None:
        folder, model = saved
        image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
        for source in (folder, str(folder), folder.parent):  # a run folder means its best weights
            loaded = vit.load(source)
            assert not loaded.training
            assert loaded.labels == data.LABELS
            assert loaded.config == model.config
            x = loaded.preprocess(image)
            assert torch.equal(x, data.normalise(image[None]))
            assert torch.equal(loaded(x), model.eval()(x))

    def test_folder_holds_three_files_and_the_card_states_the_results(self, saved: tuple) -> None:
        folder, _ = saved
        assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nlicense: mit\n")
        assert "| validation accuracy | 75.00% |" in card
        assert "these are of epoch 3 of 10" in card
        assert read_description(folder)["results"] == {"val/acc": 0.75, "compute/epoch": 3.0}

    def test_whole_numbers_and_any_form_of_a_device_will_do(self, saved: tuple) -> None:
        path = saved[0] / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mean": [0, 0, 0], "std": [1, 1, 1]}))
        picture = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
        assert torch.equal(vit.load(saved[0]).preprocess(picture), picture[None] / 255)
        here = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        assert next(vit.load(saved[0], "auto").parameters()).device.type == here.type
        assert next(vit.load(saved[0], torch.device("cpu")).parameters()).device.type == "cpu"

    def test_half_precision_weights_load_too(self, saved: tuple) -> None:
        folder, model = saved
        save_file(
            {k: v.half() for k, v in load_file(folder / "model.safetensors").items()}, folder / "model.safetensors"
        )
        weights = vit.load(folder).state_dict()
        assert all(torch.equal(weights[k], v.half().float()) for k, v in model.state_dict().items())


class TestRefusals:
    def damage(self, folder: Path, kind: str) -> None:
        weights, config = folder / "model.safetensors", folder / "config.json"
        tensors, description = load_file(weights), json.loads(config.read_text())
        match kind:
            case "no weights":
                weights.unlink()
            case "truncated weights":
                weights.write_bytes(weights.read_bytes()[:-100])
            case "empty weights":
                weights.write_bytes(b"")
            case "pickle as weights":
                weights.write_bytes(pickle.dumps({"a": 1}) * 100)
            case "missing tensor":
                del tensors["blocks.1.attn.scale"]
                save_file(tensors, weights)
            case "extra tensor":
                save_file(tensors | {"blocks.2.norm1.weight": torch.zeros(16)}, weights)
            case "whole numbers":
                save_file(tensors | {"head.bias": torch.zeros(10, dtype=torch.int64)}, weights)
            case "one channel":
                config.write_text(json.dumps(description | {"model": description["model"] | {"channels": 1}}))
            case "other shape":
                config.write_text(json.dumps(description | {"model": description["model"] | {"dim": 32}}))
            case "other format":
                config.write_text(json.dumps(description | {"format": 99}))
            case "foreign config":
                config.write_text(json.dumps({"architecture": "vit_base_patch16_224", "num_classes": 1000}))
            case "truncated config":
                config.write_text(config.read_text()[:50])
            case "unknown setting":
                config.write_text(json.dumps(description | {"model": description["model"] | {"depht": 2}}))
            case "impossible setting":
                config.write_text(json.dumps(description | {"model": description["model"] | {"patch_size": 5}}))
            case "wrong type":
                config.write_text(json.dumps(description | {"model": description["model"] | {"dim": "big"}}))
            case "no such split":
                training = description["training"] | {"data.val_images": 7}
                config.write_text(json.dumps(description | {"training": training}))
            case "unknown choice":
                config.write_text(json.dumps(description | {"model": description["model"] | {"pool": "token"}}))
            case "NaN weights" | "infinite weights":
                tensors["head.weight"][3, 5] = math.nan if kind == "NaN weights" else math.inf
                save_file(tensors, weights)
            case "numbers beyond float32":
                tensors["head.bias"] = torch.full((10,), 1e300, dtype=torch.double)
                save_file(tensors, weights)
            case "NaN in 8 bits":
                tensors["head.bias"] = torch.full((10,), math.nan).to(torch.float8_e4m3fn)
                save_file(tensors, weights)
            case "NaN deviation":
                config.write_text(json.dumps(description | {"std": [0.2, math.nan, 0.2]}))
            case "deviation of 0":
                config.write_text(json.dumps(description | {"std": [0.2, 0.0, 0.2]}))
            case "one mean":
                config.write_text(json.dumps(description | {"mean": [0.5]}))
            case "a billion blocks":
                model = description["model"] | {"depth": 10**9, "heads": 2}
                config.write_text(json.dumps(description | {"model": model}))
            case "sizes beyond 64 bits":
                model = description["model"] | {"image_size": 4 * 10**12}
                config.write_text(json.dumps(description | {"model": model}))
            case "nested deeply":
                config.write_text("[" * 100_000)
            case "no labels":
                del description["labels"]
                config.write_text(json.dumps(description))

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("no weights", "not a checkpoint or run folder .*model.safetensors is missing"),
            ("truncated weights", "model.safetensors: damaged"),
            ("empty weights", "model.safetensors: damaged"),
            ("pickle as weights", "model.safetensors: damaged or not a safetensors file"),
            ("missing tensor", r"blocks.1.attn.scale is absent, config.json asks for \(\)"),
            ("extra tensor", r"blocks.2.norm1.weight is \(16,\), config.json asks for absent"),
            ("whole numbers", "head.bias: expected floating-point numbers, got torch.int64"),
            ("one channel", "config.json: model.channels: expected 3, of RGB, got 1"),
            ("other shape", r"blocks.0.attn.proj.bias is \(16,\), config.json asks for \(32,\)"),
            ("NaN weights", "model.safetensors: head.weight holds NaN or infinity"),
            ("infinite weights", "model.safetensors: head.weight holds NaN or infinity"),
            ("numbers beyond float32", "model.safetensors: head.bias holds NaN or infinity"),
            ("NaN in 8 bits", "model.safetensors: head.bias holds NaN or infinity"),
            ("NaN deviation", "config.json: std: expected three numbers from 0.0001 to 10000"),
            ("deviation of 0", "config.json: std: expected three numbers from 0.0001 to 10000"),
            ("one mean", "config.json: mean: expected three numbers"),
            ("a billion blocks", "config.json: model.depth: expected at most 1000"),
            ("sizes beyond 64 bits", "config.json: model: expected sizes that a tensor can have"),
            ("no such split", "config.json: data.val_images: expected a multiple of 10 from 0 to 49990, got 7"),
            ("nested deeply", "config.json: not JSON"),
            ("other format", "config.json: expected format 1, got 99; update the code"),
            ("foreign config", "config.json: not a checkpoint of this project"),
            ("truncated config", "config.json: not JSON"),
            ("unknown setting", "config.json: model.depht: no such setting"),
            ("impossible setting", "config.json: model.patch_size: expected a divisor"),
            ("wrong type", r"config.json: model.dim: expected int, got 'big'"),
            ("unknown choice", r"config.json: model.pool: expected mean or cls, got 'token'"),
            ("no labels", "config.json: labels: expected a list"),
        ],
    )
    def test_damage_is_named(self, saved: tuple, kind: str, message: str) -> None:
        folder, _ = saved
        self.damage(folder, kind)
        with pytest.raises(UsageError, match=message):
            vit.load(folder)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("format", 1.0, "expected format 1, got 1.0"),
            ("format", True, "expected format 1, got True"),
            ("labels", [*"abcdefghi", "\x1b[31m"], "labels: expected a list of printable names"),
            ("labels", [*"abcdefghi", "j" * 101], "labels: expected a list of printable names of at most 100 signs"),
            ("labels", [*"abcdefghi", ""], "labels: expected a list of printable names"),
            ("labels", [*"abcdefghi", "a"], "labels: expected a list of different names"),
            ("labels", ["a"] * 10**6, r"labels: expected a list of different names, got .{200}\.\.\.$"),
            ("labels", "a" * 10**6, r"labels: expected a list, got .{200}\.\.\.$"),
            ("mean", [0.1] * 10**6, r"mean: expected three numbers from -10000 to 10000, got .{200}\.\.\.$"),
            ("mean", [0.1, 0.1, True], "mean: expected three numbers"),
            ("mean", [0.1, 0.1, 1e5], "mean: expected three numbers"),
            ("mean", [0.1, 0.1, 10**400], "mean: expected three numbers"),
            ("std", [0.1, 0.1, 1e-30], "std: expected three numbers from 0.0001 to 10000"),
            ("results", {"val/acc": math.inf}, "expected finite numbers, but one is NaN or infinite"),
            ("model", {"heads": [2] * 10**6}, r"model.heads: .*got .{200}\.\.\.$"),
            (
                "training",
                {"train.eval_batch_size": 10**12},
                "train.eval_batch_size: expected a number from 1 to 100000",
            ),
        ],
    )
    def test_a_strange_value_is_named(self, saved: tuple, key: str, value: Any, message: str) -> None:
        path = saved[0] / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
        with pytest.raises(UsageError, match=f"config.json: {message}"):
            vit.load(saved[0])

    def test_an_integer_of_thousands_of_digits(self, saved: tuple) -> None:
        path = saved[0] / "config.json"
        path.write_text(path.read_text().replace('"format": 1', f'"format": {"1" * 5000}'))
        with pytest.raises(UsageError, match=r"config.json: not JSON"):
            vit.load(saved[0])

    def test_names_that_no_folder_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("x" * 300, "a\0b"):
            with pytest.raises(UsageError, match="not a checkpoint or run folder"):
                vit.load(name)

    def test_a_device_that_is_not_there_is_refused_before_files_are_read(self) -> None:
        for device in ("cuda:99", "nonsense", torch.device("meta")):
            with pytest.raises(UsageError, match="device: "):
                vit.load("nowhere", device)

    @pytest.mark.parametrize("zipped", [False, True])
    def test_pickles_run_nothing(self, saved: tuple, tmp_path: Path, zipped: bool) -> None:
        """One that makes a file when unpickled: the test first sees that it would."""
        state, weights = tmp_path / "state.pt", saved[0] / "model.safetensors"
        trap = Trap(str(tmp_path / "opened"))
        torch.save({"a": trap}, state) if zipped else state.write_bytes(pickle.dumps({"a": trap}, 2))
        weights.write_bytes(state.read_bytes())
        with pytest.raises(UsageError, match=r"state.pt: damaged, cannot resume"):
            checkpoint.load_state(state)
        with pytest.raises(UsageError, match=r"model.safetensors: damaged or not a safetensors file"):
            vit.load(saved[0])
        assert not (tmp_path / "opened").exists()
        torch.load(state, weights_only=False) if zipped else pickle.loads(state.read_bytes())
        assert (tmp_path / "opened").exists()

    def test_truncated_state_file(self, tmp_path: Path) -> None:
        path = tmp_path / "state.pt"
        checkpoint.save_state(path, {"step": 3, "model": {"weight": torch.ones(100)}})
        assert checkpoint.load_state(path)["step"] == 3
        content = path.read_bytes()
        for part in (content[:-200], content[:2], b"\x80\x02", b""):
            path.write_bytes(part)
            with pytest.raises(UsageError, match=r"state.pt: damaged, cannot resume"):
                checkpoint.load_state(path)


class TestSaving:
    def test_weights_that_changed_after_loading_have_no_results(self, saved: tuple, tmp_path: Path) -> None:
        model = vit.load(saved[0])
        model.save_pretrained(tmp_path / "same")
        assert read_description(tmp_path / "same") == read_description(saved[0])
        with torch.no_grad():
            model.head.bias[3] += 1e-3
        model.save_pretrained(tmp_path / "changed")
        description, card = (
            read_description(tmp_path / "changed"),
            (tmp_path / "changed" / "README.md").read_text(),
        )
        assert description["results"] == {"weights": "changed after loading, not measured"}
        assert "| weights | changed after loading, not measured |" in card
        assert "This is of the weights before they were changed." in card
        assert "75.00%" not in card
        # What was loaded is still known, and stays so for whom loads it again.
        assert model.description is not None
        assert model.description["results"]["val/acc"] == 0.75
        vit.load(tmp_path / "changed").save_pretrained(tmp_path / "again")
        assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "changed" / "config.json").read_bytes()

    def test_a_name_that_cannot_be_is_refused(self, saved: tuple, tmp_path: Path) -> None:
        model = vit.load(saved[0])
        (tmp_path / "file").touch()
        for name in ("x" * 300, "a\0b", tmp_path / "file", tmp_path / "file" / "below", "/proc/nothing"):
            with pytest.raises(UsageError, match="expected a folder to write to"):
                model.save_pretrained(name)

    def test_results_are_added_and_the_weights_stay(self, saved: tuple) -> None:
        folder, _ = saved
        before = (folder / "model.safetensors").stat().st_mtime_ns
        checkpoint.add_results(folder, {"test/acc": 0.7})
        expected = {"val/acc": 0.75, "compute/epoch": 3.0, "test/acc": 0.7}
        assert read_description(folder)["results"] == expected
        assert "| test accuracy | 70.00% |" in (folder / "README.md").read_text()
        assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with atomic(path) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_where_a_write_begins_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("old")
    (tmp_path / ".file.part").symlink_to(tmp_path / "precious")
    with atomic(tmp_path / "file") as part:
        part.write_text("new")
    assert (tmp_path / "precious").read_text() == "old"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()
