"""Settings arrive as they were written, from a command line or from a W&B agent."""

import errno
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import vit
from vit import terminal
from vit.checks import UsageError
from vit.cli import door, parse
from vit.commands import EvalConfig, PredictConfig, ReportConfig
from vit.config import Config
from vit.yaml_file import read_yaml, to_yaml

ROOT = Path(__file__).parents[1]


def test_dashes_in_the_name_of_an_option_are_underscores() -> None:
    config = parse(PredictConfig, ["run", "a-b.png", "--batch-size=8", "--device", "cpu"])
    assert (config.images, config.batch_size) == (["a-b.png"], 8)
    assert parse(Config, ["--train.batch-size", "10", "--train.compile", "--name=a-b"]).name == "a-b"


def test_a_setting_wins_over_the_file_wherever_it_stands() -> None:
    file, setting = f"--config={ROOT / 'configs/multi_head.yaml'}", "--model.heads=2"
    for given in ([file, setting], [setting, file], [setting, *file.split("=")]):
        config = parse(Config, given)
        assert (config.model.heads, config.model.dim) == (2, 64)


def test_a_runs_own_config_means_the_run_it_lies_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever its folder was moved since, or what it is called now; a name that is given wins."""
    folder = tmp_path / "moved" / "renamed"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{name: run, runs_dir: runs, seed: 3}")
    monkeypatch.chdir(tmp_path)
    config = parse(Config, ["--config=moved/renamed/config.yaml"])
    assert (config.name, config.runs_dir) == ("run", "runs")  # a file of settings like any other
    (folder / "state.pt").touch()
    for given in ("moved/renamed/config.yaml", str(folder / "config.yaml")):
        config = parse(Config, ["--resume", "--config", given])
        assert (config.name, config.runs_dir, config.seed) == ("renamed", "moved", 3)
    assert parse(Config, ["--name=other", "--config=moved/renamed/config.yaml"]).name == "other"
    monkeypatch.chdir(folder)
    config = parse(Config, ["--config=config.yaml"])
    assert (config.name, config.runs_dir) == ("renamed", "..")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n#  dim: 64\nseed: 1", ".*a.yaml: model: expected settings below it, or no such line, got None"),
        ("optim: fast", ".*a.yaml: optim: expected settings below it, or no such line, got 'fast'"),
        ("base: a.yaml\narms: {a: {}}", r"--config: expected settings, not a study \(compare.py\), got '.*a.yaml'"),
        ("config: b.yaml", ".*a.yaml: config: expected no such line: a file does not name another, got '.*a.yaml'"),
        ("patience: 3", ".*a.yaml: patience: no such setting"),
        ("model: {hedas: 2}", r".*a.yaml: model.hedas: no such setting; did you mean model.heads\?$"),
        ("seed: [", ".*a.yaml: line 1: expected the node content"),
        ("", ".*a.yaml: expected settings, keys and values, got None"),
        ("fast", ".*a.yaml: expected settings, keys and values, got 'fast'"),
        ("- seed: 1", r".*a.yaml: expected settings, keys and values, got \[{'seed': 1}\]"),
        ("model: {dim: 64}\nmodel: {heads: 1}", ".*a.yaml: line 2: model is given twice"),
        ("model:\n  dim: 64\n  dim: 32", ".*a.yaml: line 3: dim is given twice"),
        (3000 * "[", ".*a.yaml: not valid YAML \\(maximum recursion depth exceeded"),
    ],
)
def test_a_file_that_is_not_one_of_settings(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=f"^{message}") as refused:
        parse(Config, [f"--config={tmp_path / 'a.yaml'}"])
    assert "<function" not in str(refused.value)


@pytest.mark.parametrize("name", ["1e-3", "1e5", "-2E+3", "1.5e3", "12", "0.1", "on", "2026-01-01", "run"])
def test_a_name_is_read_from_yaml_as_it_was_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.yaml").write_text(to_yaml({"name": name, "seed": 3}))
    assert read_yaml(tmp_path / "a.yaml") == {"name": name, "seed": 3}
    assert parse(Config, [f"--config={tmp_path / 'a.yaml'}"]).name == name


def test_help_says_what_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(EvalConfig, ["--help"])
    assert re.search(r"\n  checkpoint +run folder \(its best weights\), checkpoint folder", capsys.readouterr().out)


@pytest.mark.parametrize("key", ["optim.lr", "optim.weight_decay", "optim.clip_norm", "augment.mixup"])
def test_infinity_is_no_setting(key: str) -> None:
    with pytest.raises(UsageError, match=f"^{key}: expected .*, got inf$"):
        parse(Config, [f"--{key}=.inf"])


@pytest.mark.parametrize(("name", "why"), [("missing.yaml", "No such file or directory"), (".", "Is a directory")])
def test_a_config_that_is_no_file_is_named(tmp_path: Path, name: str, why: str) -> None:
    path = str(tmp_path / name)
    with pytest.raises(UsageError, match=f"^{re.escape(path)}: cannot be read \\({why}\\)$"):
        parse(Config, ["--config", path])
    with pytest.raises(UsageError, match=r"^--config: expected a file of settings, got ''$"):
        parse(Config, ["--config="])


def test_what_follows_two_dashes_is_a_name(tmp_path: Path) -> None:
    config = parse(PredictConfig, ["--batch-size=3", "checkpoint", "--", "--a-picture.png", "--batch-size=4"])
    assert (config.batch_size, config.images) == (3, ["--a-picture.png", "--batch-size=4"])


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        (Config, ["--model.heads=many"], "model.heads: expected int or list[int], got many"),
        (Config, ["--model.head_dim=x"], "model.head_dim: expected int or null, got x"),
        (Config, ["--model.dim=1000000000000"], "model.dim: expected at most 100000, got 1000000000000"),
        (Config, ["--augment.crop=1000000"], "augment.crop: expected a number from 0 to 64, got 1000000"),
        (Config, ["--augment.mixup=0.001"], "augment.mixup: expected 0 or a number from 0.01 to 1000, got 0.001"),
        (Config, ["--resume"], "name: expected the run to resume, got None"),
        (EvalConfig, ["x", "--precision=fp64"], "precision: expected auto or fp32 or bf16 or null, got fp64"),
        (EvalConfig, ["x", "--wandb.project=a/b"], "wandb.project: expected a name without any of / "),
    ],
)
def test_a_setting_that_cannot_be_is_named(settings: type, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        parse(settings, arguments)


class TestDoor:
    def stop(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, main: Any) -> tuple[Any, str]:
        """Exit code and what is said of it."""
        monkeypatch.setattr(sys, "argv", ["door.py", "study.yaml"])
        with pytest.raises(SystemExit) as stopped:
            door(main, ReportConfig)
        shown = capsys.readouterr()
        assert shown.out == ""
        return stopped.value.code, shown.err

    @pytest.mark.parametrize(
        "number", [errno.EACCES, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP]
    )
    def test_a_file_that_cannot_be_had_is_one_line(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, number: int
    ) -> None:
        def main(_: ReportConfig) -> None:
            raise OSError(number, os.strerror(number), "some/file")

        line = f"door.py: no access to some/file ({os.strerror(number)})\n"
        assert self.stop(monkeypatch, capsys, main) == (2, line)

    def test_json_has_no_nan(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        code, line = self.stop(monkeypatch, capsys, lambda _: {"test/loss": float("nan")})
        assert (code, line) == (2, "door.py: a result is NaN or infinite ({'test/loss': nan})\n")
        door_prints = {"a": 1}
        monkeypatch.setattr(sys, "argv", ["door.py", "study.yaml"])
        door(lambda _: door_prints, ReportConfig)
        assert json.loads(capsys.readouterr().out) == door_prints


def test_a_signal_that_comes_once_more_at_once_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a whole group of processes is told to end, and its head tells the others again."""
    usual: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: usual.append(number))
    try:
        with terminal.stop_signals() as received:
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
            assert (received, usual) == ([signal.SIGTERM], [])
            monkeypatch.setattr(terminal, "ECHO", 0)
            signal.raise_signal(signal.SIGTERM)  # of one who is impatient
            assert (received, usual) == ([signal.SIGTERM], [signal.SIGTERM])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_package_lists_its_public_names() -> None:
    assert dir(vit) == sorted(vit.__all__)
    assert all(hasattr(vit, name) for name in dir(vit))
