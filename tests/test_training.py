"""Training is reproducible to the bit, resumes as if nothing had happened, and logs every row once."""

import dataclasses
import functools
import json
import math
import os
import re
import signal
import statistics
import threading
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OF_THE_MACHINE
from safetensors.torch import load_file, save_file

import vit
from vit import checkpoint, compute, data, progress, run_folder, training
from vit.checks import Diverged, UsageError
from vit.config import AugmentConfig, Config, DataConfig, OptimConfig, TrainConfig, ViTConfig
from vit.data import Splits
from vit.description import read_description
from vit.device import micro_batches_of
from vit.model import VisionTransformer
from vit.runs import train
from vit.stepper import Stepper, seed_of
from vit.terminal import Interrupted
from vit.tracking import Tracker
from vit.training import Training

Make = Callable[..., Config]


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Final weights and logged rows of a run, without timings."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{key: value for key, value in row.items() if key not in OF_THE_MACHINE} for row in rows]
    return load_file(folder / "last" / "model.safetensors"), rows


def assert_same(first: Path, second: Path) -> None:
    (weights, rows), (other_weights, other_rows) = outcome(first), outcome(second)
    assert rows == other_rows
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def do_at_step(monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[], None]) -> None:
    """Have `action` happen in the middle of the given step, counted from 1."""
    original = Stepper.train_step

    def train_step(self: Stepper) -> None:
        if self.step == step - 1:
            action()
        original(self)

    monkeypatch.setattr(Stepper, "train_step", train_step)


@pytest.fixture
def uninterrupted(small: Make) -> Path:
    return Path(train(small(name="uninterrupted"))["run"])


class TestReproducible:
    def test_same_seed_same_run(self, small: Make, uninterrupted: Path) -> None:
        assert_same(uninterrupted, Path(train(small(name="again"))["run"]))

    def test_other_seed_other_run(self, small: Make, uninterrupted: Path) -> None:
        weights, _ = outcome(Path(train(small(name="other", seed=1))["run"]))
        assert not torch.equal(weights["head.weight"], outcome(uninterrupted)[0]["head.weight"])

    def test_arms_that_differ_in_heads_start_alike_and_see_the_same_batches(
        self, small: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[int, list[torch.Tensor]] = {}
        weights: dict[int, dict[str, torch.Tensor]] = {}
        for heads in (1, 4):
            config = small(name=f"heads{heads}", model=ViTConfig(dim=16, depth=2, heads=heads, drop_path=0.2))
            original = vit.VisionTransformer.forward

            def forward(
                self: Any, x: torch.Tensor, *rest: Any, original: Any = original, heads: int = heads, **options: Any
            ) -> Any:
                if self.training:
                    seen.setdefault(heads, []).append(x.clone())
                    weights.setdefault(heads, {name: each.clone() for name, each in self.state_dict().items()})
                return original(self, x, *rest, **options)

            with monkeypatch.context() as patch:
                patch.setattr(vit.VisionTransformer, "forward", forward)
                train(config)
        assert len(seen[1]) == 12
        assert all(torch.equal(a, b) for a, b in zip(seen[1], seen[4], strict=True))
        assert weights[1].keys() == weights[4].keys()
        assert all(torch.equal(weights[1][name], weights[4][name]) for name in weights[1])


class TestResume:
    def test_interrupted_before_the_first_step(
        self, small: Make, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        original = Training.costs

        def costs(self: Training) -> dict[str, Any]:
            os.kill(os.getpid(), signal.SIGTERM)
            return original(self)

        with monkeypatch.context() as patch:
            patch.setattr(Training, "costs", costs)
            with pytest.raises(Interrupted, match="stopped after step 0 of 12"):
                train(small())
        assert_same(Path(train(small(resume=True))["run"]), uninterrupted)

    @pytest.mark.parametrize("step", [1, 5, 6, 11])
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_interrupted_run_ends_as_if_it_had_not_been(
        self, small: Make, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, step: int, number: int
    ) -> None:
        with monkeypatch.context() as patch:
            do_at_step(patch, step, lambda: os.kill(os.getpid(), number))
            with pytest.raises(Interrupted, match=f"stopped after step {step} of 12, .* --resume") as stop:
                train(small())
        assert stop.value.code == 128 + number
        assert_same(Path(train(small(resume=True))["run"]), uninterrupted)

    def test_interrupted_again_and_again(
        self, small: Make, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for step in range(1, 12):
            with monkeypatch.context() as patch:
                do_at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
                with pytest.raises(Interrupted):
                    train(small(resume=True))
        assert_same(Path(train(small(resume=True))["run"]), uninterrupted)

    @pytest.mark.parametrize("step", [3, 6, 10])
    def test_killed_without_warning(
        self, small: Make, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        """An exception in mid-step stands for a kill: nothing is saved since the last epoch's end, if any."""

        def die() -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            do_at_step(patch, step, die)
            with pytest.raises(MemoryError):
                train(small())
        assert_same(Path(train(small(resume=True))["run"]), uninterrupted)

    def test_killed_before_its_settings_were_written(self, small: Make, tmp_path: Path) -> None:
        """The name is free again, also where somebody has looked whether the run is being trained."""
        folder = tmp_path / "runs" / "run"
        folder.mkdir(parents=True)
        for name in (".lock", ".config.yaml.part"):
            (folder / name).write_text("")
        assert Path(train(small(resume=True))["run"]).samefile(folder)

    def test_finished_run_is_reported_not_repeated(self, small: Make, uninterrupted: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.name != ".lock"}
        summary = train(small(name="uninterrupted", resume=True))
        assert summary == json.loads((uninterrupted / "summary.json").read_text())
        assert {path: path.stat().st_mtime_ns for path in before} == before

    def test_a_finished_run_is_found_where_it_was_moved(self, small: Make, uninterrupted: Path) -> None:
        moved = uninterrupted.rename(uninterrupted.with_name("moved"))
        summary = train(small(name="moved", resume=True))
        assert (summary["run"], summary["checkpoint"]) == (str(moved), str(moved / "best"))
        assert summary["wandb"] is None or Path(summary["wandb"]).is_dir()

    def test_a_run_goes_on_with_its_own_settings_however_they_are_written(
        self, small: Make, uninterrupted: Path
    ) -> None:
        path = uninterrupted / "config.yaml"
        text = path.read_text()
        path.write_text(text.replace("lr: 0.02", "lr: 2e-2"))  # which YAML 1.1 takes for a text
        assert path.read_text() != text
        train(small(name="uninterrupted", resume=True))

    @pytest.mark.parametrize("content", ["{}", "[]", "{"])
    def test_a_damaged_summary_is_refused(self, small: Make, uninterrupted: Path, content: str) -> None:
        (uninterrupted / "summary.json").write_text(content)
        with pytest.raises(UsageError, match=r"summary.json: damaged \(.*without it --resume evaluates the run again"):
            train(small(name="uninterrupted", resume=True))

    def test_name_in_use_is_refused_and_untouched(self, small: Make, uninterrupted: Path) -> None:
        before = (uninterrupted / "metrics.jsonl").read_bytes()
        with pytest.raises(
            UsageError,
            match=r"name: .*uninterrupted exists already; go on with it by --config .*config.yaml --resume, or",
        ):
            train(small(name="uninterrupted"))
        assert (uninterrupted / "metrics.jsonl").read_bytes() == before

    def test_a_name_that_there_is_nothing_of_is_said_to_be_new(
        self, small: Make, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It may have been mistyped."""
        with run_folder.open_run(small(name="runn", resume=True)) as (folder, new):
            assert new
            assert f"{folder}: nothing to resume, so a new run" in capsys.readouterr().err

    def test_checkpoints_without_a_state_are_not_overwritten(self, small: Make, uninterrupted: Path) -> None:
        for name in ("state.pt", "summary.json"):
            (uninterrupted / name).unlink()
        before = (uninterrupted / "best" / "model.safetensors").read_bytes()
        with pytest.raises(UsageError, match=r"has no state.pt to go on from"):
            train(small(name="uninterrupted", resume=True))
        assert (uninterrupted / "best" / "model.safetensors").read_bytes() == before

    def test_state_of_another_model_is_refused(self, small: Make, uninterrupted: Path) -> None:
        other = Path(train(small(name="other", model=ViTConfig(dim=32, depth=2, heads=2, patch_size=8)))["run"])
        (uninterrupted / "summary.json").unlink()
        (other / "state.pt").replace(uninterrupted / "state.pt")
        with pytest.raises(UsageError, match=r"state.pt: not the state of this run"):
            train(small(name="uninterrupted", resume=True))

    @pytest.mark.parametrize("damage", ["a list", "no origin", "no seconds", "no weights"])
    def test_a_state_of_another_form_is_refused(self, small: Make, uninterrupted: Path, damage: str) -> None:
        path = uninterrupted / "state.pt"
        state = torch.load(path, weights_only=True)
        (uninterrupted / "summary.json").unlink()
        if damage == "no origin":
            del state["origin"]
        if damage == "no seconds":
            state["seconds"] = "some"
        state["stepper"]["model"] = None if damage == "no weights" else state["stepper"]["model"]
        torch.save([1, 2] if damage == "a list" else state, path)
        with pytest.raises(UsageError, match=r"state.pt: not the state of this run"):
            train(small(name="uninterrupted", resume=True))

    @pytest.mark.parametrize("damage", ["none", "cut", "nonsense"])
    def test_damaged_rows_are_refused(self, small: Make, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
        """In one line, again and again, and nothing is made of them."""
        do_at_step(monkeypatch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(small())
        path = Path(small().runs_dir) / "run" / "metrics.jsonl"
        content = path.read_bytes()
        path.unlink() if damage == "none" else path.write_bytes(content[:-9] + b"}" * 9 * (damage == "nonsense"))
        for _ in range(2):
            with pytest.raises(UsageError, match=r"metrics.jsonl: (shorter than|damaged)"):
                train(small(resume=True))
        assert path.exists() == (damage != "none")
        path.write_bytes(content)
        train(small(resume=True))

    def test_other_settings_are_refused(self, small: Make, uninterrupted: Path) -> None:
        with pytest.raises(UsageError, match=r"optim.lr: .* was started with 0.02, not 0.5; --config"):
            train(small(name="uninterrupted", resume=True, optim=OptimConfig(ema=0.9, lr=0.5)))

    def test_of_two_that_start_with_one_name_the_second_is_refused(
        self, small: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also while the first has its folder and has not written its settings yet."""
        made, go_on = threading.Event(), threading.Event()
        to_yaml = run_folder.to_yaml

        def slow_to_yaml(content: dict[str, Any]) -> str:
            made.set()
            go_on.wait(10)
            return to_yaml(content)

        def start() -> str:
            with run_folder.open_run(small()) as (folder, _):
                return (folder / "config.yaml").read_text()

        monkeypatch.setattr(run_folder, "to_yaml", slow_to_yaml)
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(start)
            made.wait(10)
            second = pool.submit(start)
            time.sleep(0.2)
            go_on.set()
            assert "name: run" in first.result()
            with pytest.raises(UsageError, match="exists already"):
                second.result()
        assert (Path(small().runs_dir) / "run" / "config.yaml").exists()

    def test_it_is_told_what_a_run_was_trained_on_before(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        for commit, step in (("aaa", 4), ("bbb", 8), ("bbb", 10)):
            with monkeypatch.context() as patch:
                patch.setattr(training, "source_commit", lambda commit=commit: commit)
                do_at_step(patch, step, lambda: os.kill(os.getpid(), signal.SIGTERM))
                with pytest.raises(Interrupted):
                    train(small(resume=True))
        monkeypatch.setattr(training, "source_commit", lambda: "bbb")
        monkeypatch.setattr(training.compute, "device_name", lambda *_: "another CPU, threads: 1")
        summary = train(small(resume=True))
        assert summary["commit"] == "aaa, then bbb"
        assert summary["device"].endswith(", then another CPU, threads: 1")
        # Its seconds are of no one device, so that its card tells no core-minutes.
        card = (Path(summary["run"]) / "last" / "README.md").read_text()
        assert " PFLOP |" in card
        assert "core-minutes" not in card
        assert summary["torch"] == torch.__version__

    def test_what_nothing_was_trained_on_is_not_told(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run killed in its first epoch and gone on with elsewhere is all of there."""

        def die() -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(training, "source_commit", lambda: "aaa")
            do_at_step(patch, 2, die)
            with pytest.raises(MemoryError):
                train(small())
        monkeypatch.setattr(training, "source_commit", lambda: "bbb")
        assert train(small(resume=True))["commit"] == "bbb"

    def test_energy_of_a_part_is_not_told(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begun on a GPU, gone on with on this CPU, which has no meter."""
        with monkeypatch.context() as patch:
            patch.setattr(training.compute, "device_name", lambda *_: "some GPU")
            patch.setattr("vit.meters.compute.energy_joules", lambda _: time.perf_counter())
            do_at_step(patch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Interrupted):
                train(small())
        summary = train(small(resume=True))
        rows = [json.loads(line) for line in (Path(summary["run"]) / "metrics.jsonl").read_text().splitlines()]
        assert "compute/energy_joules" in rows[1]
        assert "compute/energy_joules" not in rows[-1]
        assert "compute/energy_joules" not in summary

    def test_one_process_at_a_time(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        def second_process() -> None:
            with pytest.raises(UsageError, match="is being trained by another process"):
                train(small(resume=True))

        do_at_step(monkeypatch, 2, second_process)
        train(small())


class TestLoop:
    def test_rows_carry_the_contract_names(self, small: Make, uninterrupted: Path) -> None:
        rows = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
        axes = {"compute/train_flops", "compute/images_seen", "compute/train_seconds", "compute/epoch"}
        kinds = [set(row) - axes for row in rows]
        start = {"model/params", "model/forward_flops", "model/forward_macs", "attention/backend"}
        steps = {"train/loss", "train/acc", "train/lr", "train/grad_norm", "train/images_per_second"}
        val = {"val/loss", "val/acc"}
        end = {"test/loss", "test/acc", "test/ece", "best/val_acc", "compute/peak_memory_bytes", "compute/mfu"}
        end |= {"inference/batch_1_seconds", "inference/batch_256_seconds"}
        assert kinds == [start, steps, val, steps, steps, val, end]
        assert all(axes <= set(row) for row in rows)
        # 12 steps of 20 images, each costing what the closed form says; 5 of them see a window.
        config = small().model
        assert rows[-1]["compute/images_seen"] == 240
        part = dataclasses.replace(config, image_size=16)
        assert rows[-1]["compute/train_flops"] == 140 * compute.train_flops(config) + 100 * compute.train_flops(part)
        assert rows[-1]["best/val_acc"] == max(row["val/acc"] for row in rows if "val/acc" in row)
        summary = json.loads((uninterrupted / "summary.json").read_text())
        assert set().union(*kinds) <= summary.keys()
        for key in ("test/acc", "model/params"):
            assert summary[key] == next(row[key] for row in rows if key in row)

    def test_it_is_the_plain_loop(self, small: Make, cifar: tuple[data.Split, data.Split]) -> None:
        """Written out with PyTorch alone, the same steps end in the same weights: order and flips of the images, label
        smoothing, clipping, decay of the learning rate, AdamW."""
        config = small(
            model=ViTConfig(dim=16, depth=2, heads=2, patch_size=8),
            augment=AugmentConfig(crop=0),
            optim=OptimConfig(name="adamw", lr=0.01, weight_decay=0.5, clip_norm=0.5, warmup=0.25, schedule="cosine"),
            train=TrainConfig(epochs=2, batch_size=20, label_smoothing=0.2, log_every=4),
        )
        folder = Path(train(config)["run"])

        (images, labels), _ = cifar
        chosen, _ = data.split_indices(labels, config.data)
        torch.manual_seed(seed_of(0, "weights"))
        model = vit.VisionTransformer(config.model)
        decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and name != "pos_embed"]
        free = [p for name, p in model.named_parameters() if p.ndim == 1 or name == "pos_embed"]
        optimizer = torch.optim.AdamW([{"params": decayed}, {"params": free, "weight_decay": 0.0}], weight_decay=0.5)
        norms = []
        for step in range(12):
            if step % 6 == 0:
                generator = torch.Generator().manual_seed(seed_of(0, "order", step // 6))
                order = chosen[torch.randperm(120, generator=generator)]
            batch = order[step % 6 * 20 : step % 6 * 20 + 20]
            torch.manual_seed(seed_of(0, "step", step))
            torch.randint(0, 1, (20, 1))  # the vertical shift, 0 here, is drawn first
            flip = torch.rand(20, 1) < 0.5
            pixels = torch.where(flip[:, :, None, None], images[batch].flip(-1), images[batch])
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.MEAN, data.STD))
            logits = model((pixels / 255 - mean) / std)
            log_probabilities = logits.log_softmax(dim=1)
            target = 0.8 * torch.nn.functional.one_hot(labels[batch], 10) + 0.02
            optimizer.zero_grad()
            (-(target * log_probabilities).sum(dim=1).mean()).backward()
            norms.append(torch.sqrt(sum((p.grad**2).sum() for p in model.parameters())).item())
            for param in model.parameters():
                param.grad *= min(1, 0.5 / (norms[-1] + 1e-6))
            rate = (step + 1) / 4 if step < 3 else (1 + math.cos(math.pi * (step - 3) / 9)) / 2
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * rate
            optimizer.step()
        weights, rows = outcome(folder)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-5)
        assert max(norms) > 0.5  # so clipping did something
        logged = [row["train/grad_norm"] for row in rows if "train/grad_norm" in row]
        assert logged == pytest.approx([sum(norms[i : i + 4]) / 4 for i in (0, 4, 8)], rel=1e-3)

    def test_it_learns(self, small: Make) -> None:
        """A thousand images in ten epochs: far above chance on images never seen."""
        config = small(
            model=ViTConfig(dim=32, depth=2, heads=2, patch_size=8),
            data=DataConfig(root=small().data.root, train_images=1000, val_images=500),
            augment=AugmentConfig(),
            optim=OptimConfig(),
            train=TrainConfig(epochs=10, batch_size=50, eval_every=5),
        )
        assert train(config)["test/acc"] > 0.27

    def test_best_weights_are_those_of_the_best_validation(self, small: Make) -> None:
        summary = train(small(train=TrainConfig(epochs=4, batch_size=20)))
        folder = Path(summary["run"])
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        best = max((row for row in rows if "val/acc" in row), key=lambda row: row["val/acc"])
        saved = read_description(folder / "best")["results"]
        assert saved["val/acc"] == best["val/acc"] == summary["best/val_acc"]
        assert saved["compute/epoch"] == best["compute/epoch"]

    def test_the_best_checkpoint_and_its_card_tell_what_was_measured(
        self, small: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also if the run is killed as it ends, before and after the checkpoint is told."""
        weights_written = []

        def look(folder: Path) -> tuple[dict[str, Any], str]:
            return read_description(folder / "best")["results"], (folder / "best" / "README.md").read_text()

        original = training.checkpoint.add_results

        def add_results(folder: Path, results: dict[str, Any]) -> None:
            weights_written.append((folder / "model.safetensors").stat().st_mtime_ns)
            if len(weights_written) == 1:
                raise MemoryError
            original(folder, results)

        def die(*_: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(training.checkpoint, "add_results", add_results)
        with pytest.raises(MemoryError):
            train(small())
        folder = Path(small().runs_dir) / "run"
        before, card = look(folder)
        assert not [key for key in before if key.startswith("test/")]
        assert "| test accuracy |" not in card
        assert {"device", "precision", "torch", "compute/train_seconds", "val/acc"} <= before.keys()
        with monkeypatch.context() as patch:
            patch.setattr(training, "write_summary", die)
            with pytest.raises(MemoryError):
                train(small(resume=True))
        told, _ = look(folder)
        summary = train(small(resume=True))
        after, card = look(folder)
        assert after == told == before | {key: summary[key] for key in ("test/acc", "test/loss", "test/ece")}
        assert after["device"] == summary["device"]
        assert f"| test accuracy | {summary['test/acc']:.2%} |" in card
        assert f"| trained on | {summary['device']}, float32, PyTorch {torch.__version__} |" in card
        assert re.search(r"\| training cost up to these weights, of epoch [12] \| \S+ PFLOP, .*-minutes \|", card)
        assert len(weights_written) == 3
        assert {(folder / "best" / "model.safetensors").stat().st_mtime_ns} == set(weights_written)
        assert vit.load(folder).labels

    def test_a_resumed_run_remembers_its_best_and_its_time(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Validation is best after epoch 1 of 3; the run is interrupted in epoch 2; epoch 1 is what is tested."""
        accuracies = iter([0.9, 0.5, 0.6])
        tested = []
        original = training.evaluate

        def evaluate(model: Any, images: torch.Tensor, *rest: Any) -> Any:
            result = original(model, images, *rest)
            if len(images) == 50:
                return dataclasses.replace(result, acc=next(accuracies))
            tested.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return result

        monkeypatch.setattr(training, "evaluate", evaluate)
        settings = TrainConfig(epochs=3, batch_size=20, log_every=4)
        with monkeypatch.context() as patch:
            do_at_step(patch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(Interrupted):
                train(small(train=settings))
        first_epoch = load_file(Path(small().runs_dir) / "run" / "best" / "model.safetensors")
        summary = train(small(train=settings, resume=True))
        assert summary["best/val_acc"] == 0.9
        assert len(tested) == 1
        assert all(torch.equal(tested[0][name], first_epoch[name]) for name in first_epoch)
        rows = [json.loads(line) for line in (Path(summary["run"]) / "metrics.jsonl").read_text().splitlines()]
        seconds = [row["compute/train_seconds"] for row in rows]
        assert seconds == sorted(seconds)

    @pytest.mark.parametrize("between", ["weights and their words", "weights and state"])
    def test_best_accuracy_and_best_weights_are_of_one_epoch_whenever_the_run_is_killed(
        self, small: Make, monkeypatch: pytest.MonkeyPatch, between: str
    ) -> None:
        """Killed in epoch 2 after the best weights were written and before all else was; then epoch 2 is worse."""
        accuracies = iter([0.3, 0.9, 0.2])
        original, save_state, write_words = training.evaluate, Training.save_state, checkpoint.write_words

        def evaluate(model: Any, images: torch.Tensor, *rest: Any) -> Any:
            result = original(model, images, *rest)
            return dataclasses.replace(result, acc=next(accuracies)) if len(images) == 50 else result

        def die(self: Training) -> None:
            if self.best_val_acc == 0.9:
                raise MemoryError
            save_state(self)

        def die_earlier(folder: Path, description: dict[str, Any], text: str) -> None:
            if description["results"]["val/acc"] == 0.9:
                raise MemoryError
            write_words(folder, description, text)

        monkeypatch.setattr(training, "evaluate", evaluate)
        with monkeypatch.context() as patch:
            if between == "weights and state":
                patch.setattr(Training, "save_state", die)
            else:
                patch.setattr(checkpoint, "write_words", die_earlier)
            with pytest.raises(MemoryError):
                train(small())
        summary = train(small(resume=True))
        assert summary["best/val_acc"] == 0.9
        results = read_description(Path(summary["checkpoint"]))["results"]
        assert (results["val/acc"], results["compute/epoch"]) == (0.9, 2)

    def test_best_weights_of_unknown_accuracy_are_refused(self, small: Make, uninterrupted: Path) -> None:
        (uninterrupted / "summary.json").unlink()
        weights = uninterrupted / "best" / "model.safetensors"
        save_file(load_file(weights), weights)  # as another program writes them, without what is known of them
        path = uninterrupted / "best" / "config.json"
        path.write_text(re.sub(r'"val/acc": [\d.]+', '"val/acc": null', path.read_text()))
        with pytest.raises(UsageError, match=r"config.json: results: val/acc: expected a fraction, got None"):
            train(small(name="uninterrupted", resume=True))

    def test_time_left_is_of_the_compute_left(
        self, small: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Each epoch of six steps takes as long as its FLOPs, an hour the second; the first has a window, for less."""
        config = small(train=TrainConfig(epochs=2, batch_size=20, window=16, window_share=0.5, log_every=6))
        flops, share = compute.train_flops, dataclasses.replace(config.model, image_size=16)
        hours = flops(share) / flops(config.model)
        clock = iter([0.0, 3600 * hours, 3600 * (hours + 1)])
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
        train(config)
        assert ", 1:00:00 left\n" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("window", "share", "expected"),
        [(None, 0.5, "32"), (16, 0.5, "16, then 32"), (16, 1.0, "16"), (16, 0.01, "32")],
    )
    def test_attention_paths_are_named_of_sizes_that_steps_see(
        self, small: Make, monkeypatch: pytest.MonkeyPatch, window: int | None, share: float, expected: str
    ) -> None:
        monkeypatch.setattr(compute, "attention_backend", lambda config, *_: str(config.image_size))
        summary = train(small(train=TrainConfig(epochs=1, batch_size=20, window=window, window_share=share)))
        assert summary["attention/backend"] == expected

    def test_precision_and_accumulation_reach_the_model(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        original = vit.VisionTransformer.forward

        def forward(self: Any, x: torch.Tensor, *rest: Any, **options: Any) -> Any:
            logits = original(self, x, *rest, **options)
            if self.training:
                seen.append((len(x), logits.dtype))
            return logits

        monkeypatch.setattr(vit.VisionTransformer, "forward", forward)
        train(small(train=TrainConfig(epochs=1, batch_size=20, accumulate=4, precision="bf16")))
        assert seen == [(5, torch.bfloat16)] * 24

    def test_the_test_split_can_be_left_unread(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        splits = Splits.load(small().data, torch.device("cpu"))
        unreadable = dataclasses.replace(splits, test=None)
        monkeypatch.setattr("vit.runs.Splits.load", lambda *_: unreadable)
        summary = train(small(train=TrainConfig(epochs=1, batch_size=20, test=False)))
        assert not [key for key in summary if key.startswith("test/")]
        assert summary["best/val_acc"] == summary["val/acc"]

    def test_without_validation_the_last_weights_count(self, small: Make) -> None:
        data_config = DataConfig(root=small().data.root, train_images=120, val_images=0)
        summary = train(small(data=data_config))
        best, last = (load_file(Path(summary["run"]) / name / "model.safetensors") for name in ("best", "last"))
        assert all(torch.equal(best[name], last[name]) for name in last)
        assert "best/val_acc" not in summary
        assert "val/acc" not in summary

    @pytest.mark.parametrize(("batch_size", "parts"), [(250, 5), (251, 1), (20, 1), (512, 8)])
    def test_parts_of_a_batch_fit_the_cache_of_a_cpu(self, batch_size: int, parts: int) -> None:
        assert micro_batches_of(batch_size, torch.device("cpu"), tokens=64) == parts
        assert micro_batches_of(batch_size, torch.device("cpu"), tokens=32) <= max(parts // 2, 1)
        assert micro_batches_of(batch_size, torch.device("cuda"), tokens=64) == 1

    def test_several_seeds_side_by_side_are_the_runs_they_would_be_alone(self, small: Make) -> None:
        alone = [train(small(name=f"alone{seed}", seed=seed)) for seed in (3, 5)]
        together = train(small(name="both", seeds=[3, 5]))
        for one, other in zip(alone, together["runs"], strict=True):
            assert_same(Path(one["run"]), Path(other["run"]))
            assert one["test/acc"] == other["test/acc"]
        assert [Path(run["run"]).name for run in together["runs"]] == ["both-seed3", "both-seed5"]
        accuracies = [run["test/acc"] for run in alone]
        assert together["test/acc/mean"] == pytest.approx(statistics.mean(accuracies))
        assert together["test/acc/std"] == pytest.approx(statistics.stdev(accuracies))

    def test_side_by_side_each_run_has_a_clock_of_its_own(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        step = Stepper.train_step

        def timed_step(self: Stepper) -> None:
            nonlocal now
            step(self)
            now += 100 if self.config.seed else 1  # seconds

        monkeypatch.setattr(Stepper, "train_step", timed_step)
        monkeypatch.setattr("vit.meters.time", types.SimpleNamespace(perf_counter=lambda: now))
        runs = train(small(seeds=[0, 1]))["runs"]
        assert [summary["compute/train_seconds"] for summary in runs] == [12, 1200]  # 12 steps each

    def test_logging_is_not_on_the_clock(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 0.0
        step, log = Stepper.train_step, Tracker.log

        def timed(seconds: float, method: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: Any) -> None:
                nonlocal now
                method(*arguments)
                now += seconds

            return call

        monkeypatch.setattr(Stepper, "train_step", timed(1, step))
        monkeypatch.setattr(Tracker, "log", timed(100, log))
        monkeypatch.setattr("vit.meters.time", types.SimpleNamespace(perf_counter=lambda: now))
        assert train(small())["compute/train_seconds"] == 12

    def test_several_seeds_are_saved_and_resumed_together(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = train(small(name="whole", seeds=[0, 1]))
        with monkeypatch.context() as patch:
            do_at_step(patch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM) if not signalled.exists() else None)
            signalled = Path(small().runs_dir) / "signalled"
            patch.setattr("vit.terminal.say", lambda line: signalled.touch() if "SIGTERM" in line else None)
            with pytest.raises(Interrupted, match="go on with the same command, --name=run and --resume"):
                train(small(seeds=[0, 1]))
        states = [Path(small().runs_dir) / f"run-seed{seed}" / "state.pt" for seed in (0, 1)]
        # The first was in its 8th step when the signal came, the second between its 7th and 8th.
        assert [torch.load(state, weights_only=True)["stepper"]["step"] for state in states] == [8, 7]
        resumed = train(small(seeds=[0, 1], resume=True))
        for one, other in zip(whole["runs"], resumed["runs"], strict=True):
            assert_same(Path(one["run"]), Path(other["run"]))

    @pytest.mark.parametrize("stopped", [False, True])
    def test_a_seed_that_diverges_leaves_the_others(
        self, small: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stopped: bool
    ) -> None:
        """They are trained and reported, or, if stopped, saved, and how to go on is said."""
        log = Training.log

        def diverge(self: Training, row: dict[str, Any], media: Any = None) -> None:
            log(self, row | ({"train/loss": math.nan} if self.config.seed == 0 and "train/loss" in row else {}), media)

        monkeypatch.setattr(Training, "log", diverge)
        if stopped:
            do_at_step(monkeypatch, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
        end = (Interrupted, "go on with the same command") if stopped else (UsageError, "the training diverged")
        with pytest.raises(end[0], match=end[1]):
            train(small(seeds=[0, 1]))
        said = capsys.readouterr().err
        assert "run-seed0: optim.lr: the training diverged (train/loss is nan)" in said
        assert ("run-seed1/best" in said) is not stopped
        assert (Path(small().runs_dir) / "run-seed1" / ("state.pt" if stopped else "summary.json")).exists()

    def test_accumulation_is_the_same_step(self, small: Make) -> None:
        plain = {
            "model": ViTConfig(dim=16, depth=2, heads=2, patch_size=8),
            "optim": OptimConfig(name="adamw", lr=1e-3),
        }
        whole = train(small(name="whole", **plain, train=TrainConfig(epochs=1, batch_size=20, window=16)))
        parts = train(small(name="parts", **plain, train=TrainConfig(epochs=1, batch_size=20, window=16, accumulate=4)))
        a, b = (load_file(Path(run["run"]) / "last" / "model.safetensors") for run in (whole, parts))
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)

    def test_ema_weights_are_the_ones_saved(self, small: Make) -> None:
        """The same training with and without averaging: the raw weights in state.pt agree, the saved ones differ."""
        runs = {}
        for decay in (0.0, 0.9):
            folder = Path(train(small(name=f"ema{decay}", optim=OptimConfig(ema=decay)))["run"])
            runs[decay] = torch.load(folder / "state.pt", weights_only=True)["stepper"], outcome(folder)[0]
        (plain_state, plain), (state, averaged) = runs[0.0], runs[0.9]
        assert torch.equal(state["model"]["head.weight"], plain_state["model"]["head.weight"])
        assert torch.equal(plain["head.weight"], plain_state["model"]["head.weight"])
        assert torch.equal(averaged["head.weight"], state["ema"]["head.weight"])
        assert not torch.equal(averaged["head.weight"], state["model"]["head.weight"])
        torch.manual_seed(seed_of(0, "weights"))
        initial = vit.VisionTransformer(small().model).head.weight
        assert not torch.equal(averaged["head.weight"], initial)

    @pytest.mark.parametrize("ema", [0.0, 0.9])
    def test_compiled_training_saves_ordinary_names(
        self, small: Make, monkeypatch: pytest.MonkeyPatch, ema: float
    ) -> None:
        # Dynamo's own backend needs no C++ compiler and minutes; the wrapping is the same.
        eager = functools.partialmethod(torch.nn.Module.compile, backend="eager")
        monkeypatch.setattr(torch.nn.Module, "compile", eager)
        config = TrainConfig(epochs=1, batch_size=20, window=16, compile=True)
        summary = train(small(train=config, optim=OptimConfig(ema=ema)))
        names = load_file(Path(summary["checkpoint"]) / "model.safetensors").keys()
        assert names == vit.VisionTransformer(small().model).state_dict().keys()

    def test_weights_that_diverged_replace_nothing(self, small: Make) -> None:
        """Also where neither a row nor a validation is due."""
        config = small(
            data=DataConfig(root=small().data.root, train_images=120, val_images=0),
            optim=OptimConfig(lr=1e30),
            train=TrainConfig(epochs=4, batch_size=20, log_every=100),
        )
        with pytest.raises(Diverged, match=r"optim.lr: the training diverged"):
            train(config)
        folder = Path(config.runs_dir) / "run"
        assert not (folder / "best").exists()
        assert training.checkpoint.load_state(folder / "state.pt")["stepper"]["step"] == 0

    def test_a_run_that_cannot_begin_leaves_its_name_free(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        def compile_nothing(_: Stepper) -> None:
            raise UsageError("train.compile: the model cannot be compiled here")

        with monkeypatch.context() as patch:
            patch.setattr(Stepper, "compile", compile_nothing)
            with pytest.raises(UsageError, match="cannot be compiled"):
                train(small(train=TrainConfig(epochs=1, batch_size=20, compile=True)))
        assert not (Path(small().runs_dir) / "run").exists()
        train(small())

    def test_seeds_of_which_one_is_refused_leave_all_names_free(
        self, small: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken = Path(train(small(name="run-seed1"))["run"])
        with pytest.raises(UsageError, match="run-seed1 exists already"):
            train(small(seeds=[0, 1]))
        assert [path.name for path in taken.parent.iterdir() if path.is_dir()] == ["run-seed1"]

        def too_large(config: Config, *rest: Any) -> Any:
            raise UsageError("model: expected one that fits into memory here")

        opened = training.open_stepper
        with monkeypatch.context() as patch:
            patch.setattr(
                "vit.runs.open_stepper", lambda config, *rest: (opened, too_large)[config.seed](config, *rest)
            )
            with pytest.raises(UsageError, match="fits into memory"):
                train(small(name="other", seeds=[0, 1]))
        assert [path.name for path in taken.parent.iterdir() if path.is_dir()] == ["run-seed1"]

    def test_the_callers_settings_stay_as_they_are(self, small: Make) -> None:
        config = dataclasses.replace(small(), name=None)
        before = dataclasses.asdict(config)
        names = {train(config)["name"] for _ in range(2)}
        assert len(names) == 2
        assert dataclasses.asdict(config) == before

    def test_a_run_that_cannot_go_on_is_kept(self, small: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if it was killed before its first evaluation: its rows and its W&B id are there."""

        def die() -> None:
            raise MemoryError

        def compile_nothing(_: Stepper) -> None:
            raise UsageError("train.compile: the model cannot be compiled here")

        config = small(train=TrainConfig(epochs=1, batch_size=20, log_every=1, compile=True))
        with monkeypatch.context() as patch:
            patch.setattr(Stepper, "compile", lambda _: None)
            patch.setattr(VisionTransformer, "compile", lambda _: None)
            do_at_step(patch, 5, die)
            with pytest.raises(MemoryError):
                train(config)
        rows = Path(config.runs_dir) / "run" / "metrics.jsonl"
        before = rows.read_text()
        assert len(before.splitlines()) == 5  # of what the model costs, and of four steps
        with monkeypatch.context() as patch:
            patch.setattr(Stepper, "compile", compile_nothing)
            with pytest.raises(UsageError, match="cannot be compiled"):
                train(dataclasses.replace(config, resume=True))
        assert rows.read_text() == before.splitlines(keepends=True)[0]  # what was saved before the first step

    def test_a_model_beyond_memory_is_refused(self, small: Make) -> None:
        with pytest.raises(UsageError, match=r"^model: expected one that fits into memory here \("):
            train(small(model=ViTConfig(dim=100_000, head_dim=100_000, depth=1000, heads=1000, patch_size=8)))
        assert not (Path(small().runs_dir) / "run").exists()

    def test_divergence_is_named(self, small: Make) -> None:
        with pytest.raises(UsageError, match=r"optim.lr: the training diverged"):
            train(small(optim=OptimConfig(name="adamw", lr=1e30, clip_norm=0), train=TrainConfig(batch_size=20)))

    def test_unknown_device_is_refused_before_anything_is_written(self, small: Make) -> None:
        with pytest.raises(UsageError, match="device: 'toaster' is not available here"):
            train(small(device="toaster"))
        assert not Path(small().runs_dir).exists()
