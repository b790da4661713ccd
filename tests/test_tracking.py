"""W&B and metrics.jsonl hold the same rows, whatever happens to the network, the server or the process."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wandb_server import WandbServer

from eval import main as evaluate_door
from vit import tracking
from vit.commands import EvalConfig, EvalDataConfig
from vit.config import Config, WandbConfig
from vit.runs import train
from vit.tracking import Tracker


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "INIT_TIMEOUT", 3)
    monkeypatch.setattr(tracking, "FINISH_TIMEOUT", 3)


def row(i: int) -> dict[str, Any]:
    return {"compute/train_flops": i * 10**12, "compute/images_seen": i * 100, "train/loss": 1 / i}


def rows_of_file(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_own(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what W&B adds (_step, _timestamp, _runtime)."""
    return {key: value for key, value in row.items() if not key.startswith("_")}


def wandb_command(*arguments: str) -> str:
    command = [sys.executable, "-m", "wandb", *arguments]
    cwd = Path(arguments[-1]).parent  # it leaves logs where it is started
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True, timeout=60).stdout


def offline_rows(folder: Path) -> list[list[dict[str, Any]]]:
    """The rows of every offline run below `folder`, oldest first, as W&B's own reader gives them."""
    runs = []
    for path in sorted((folder / "wandb").glob("offline-run-*")):
        records = [json.loads(line) for line in wandb_command("leet", "inspect", "--json", str(path)).splitlines()]
        runs.append([without_own(record["history"]["item"]) for record in records if record["type"] == "history"])
    return runs


class TestOnline:
    def test_rows_config_axes_and_job_type(self, tmp_path: Path, server: WandbServer) -> None:
        tracker = Tracker(tmp_path, Config(name="a run"))
        for i in range(1, 4):
            tracker.log(row(i))
        tracker.finish()
        run = server.runs[tracker.wandb.id]
        assert [without_own(each) for each in run.rows] == rows_of_file(tmp_path) == [row(1), row(2), row(3)]
        assert run.config["model.heads"] == {"value": 4}
        assert run.job_type == "train"
        assert run.finished
        # The run's metric definitions: the default x-axis of train/* is the compute spent.
        definitions = run.config["_wandb"]["value"]["m"]
        names = {definition.get("1") or definition.get("2"): definition for definition in definitions}
        assert set(tracking.AXES) <= names.keys()
        assert definitions[names["train/*"]["5"] - 1]["1"] == "compute/train_flops"

    def test_checkpoint_becomes_an_artifact_with_aliases(self, tmp_path: Path, server: WandbServer) -> None:
        tracker = Tracker(tmp_path, Config(name="run"))
        (tmp_path / "best").mkdir()
        (tmp_path / "best" / "model.safetensors").write_bytes(b"weights")
        tracker.wandb.upload(tmp_path / "best", "run", ["best"], {"val/acc": 0.5})
        tracker.finish()
        (artifact,) = server.artifacts
        assert artifact["artifactTypeName"] == "model"
        assert {alias["alias"] for alias in artifact["aliases"]} == {"best", "latest"}
        assert "CommitArtifact" in server.operations

    @pytest.mark.parametrize("saved_after", [0, 1, 3])
    def test_resumed_run_keeps_its_id_and_has_every_row_once(
        self, tmp_path: Path, server: WandbServer, saved_after: int
    ) -> None:
        """Killed after 3 rows of which only some were covered by the saved state; the rest is trained again."""
        tracker = Tracker(tmp_path, Config(name="run"))
        state = tracker.state()
        for i in range(1, 4):
            tracker.log(row(i))
            if i == saved_after:
                state = tracker.state()
        tracker.finish(1)
        resumed = Tracker(tmp_path, Config(name="run"), state)
        assert resumed.wandb.id == tracker.wandb.id
        for i in range(saved_after + 1, 6):
            resumed.log(row(i))
        resumed.finish()
        expected = [row(i) for i in range(1, 6)]
        assert rows_of_file(tmp_path) == expected
        assert list(server.runs) == [tracker.wandb.id]
        assert [without_own(each) for each in server.runs[tracker.wandb.id].rows] == expected
        assert [each["_step"] for each in server.runs[tracker.wandb.id].rows] == [0, 1, 2, 3, 4]

    def test_server_that_dies_is_survived_and_sync_recovers_every_row(
        self, tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        monkeypatch.setattr(tracking, "FINISH_TIMEOUT", 3)
        tracker = Tracker(tmp_path, Config(name="run"))
        tracker.log(row(1))
        server.drop_everything = True
        tracker.log(row(2))
        tracker.finish()
        assert rows_of_file(tmp_path) == [row(1), row(2)]
        message = capsys.readouterr().err
        assert "not everything was sent" in message
        server.drop_everything = False
        (folder,) = (tmp_path / "wandb").glob("run-*")
        assert f"sync --include-online {tracking.os.path.relpath(folder)}" in message
        wandb_command("sync", "--include-online", str(folder))
        assert [without_own(each) for each in server.runs[tracker.wandb.id].rows] == [row(1), row(2)]

    def test_no_server_at_the_start_goes_on_offline(
        self, tmp_path: Path, short_timeouts: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        tracker = Tracker(tmp_path, Config(name="run"))
        tracker.log(row(1))
        tracker.finish()
        assert offline_rows(tmp_path) == [[row(1)]]
        assert not list((tmp_path / "wandb").glob("run-*"))  # the failed attempt left nothing
        said = capsys.readouterr().err
        assert "W&B: online failed" in said
        assert "sync" in said
        assert "leet" in said

    def test_a_start_that_fails_leaves_other_runs_of_the_process_alone(
        self, tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
        first = Tracker(tmp_path / "first", Config(name="first"))
        first.log(row(1))
        monkeypatch.setattr(server, "do_RunResumeStatus", None)
        second = Tracker(tmp_path / "second", Config(name="second"))
        for tracker in (first, second):
            tracker.log(row(2))
            tracker.finish()
        assert list(server.runs) == [first.wandb.id]
        assert [without_own(each) for each in server.runs[first.wandb.id].rows] == [row(1), row(2)]
        assert offline_rows(tmp_path / "second") == [[row(2)]]

    def test_a_whole_training_and_evaluation(
        self, small: Callable[..., Config], server: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Same rows on both sides; at the end pictures, a confusion matrix and the checkpoint; evaluation as a job."""
        summary = train(small(wandb=WandbConfig(project="heads")))
        (run,) = server.runs.values()
        assert summary["wandb"] == f"{server.url}/tester/heads/runs/{run.name}"
        *rows, last = [without_own(each) for each in run.rows]
        *expected_rows, expected_last = rows_of_file(Path(summary["run"]))
        assert rows == expected_rows
        assert {key: last[key] for key in expected_last} == expected_last
        extra = last.keys() - expected_last.keys()
        assert last["test/predictions"]["count"] == 24
        assert last["test/attention"]["count"] == 4
        assert "frog" in "".join(last["test/predictions"]["captions"])
        assert any("confusion_matrix" in key for key in extra)
        (model,) = [artifact for artifact in server.artifacts if artifact["artifactTypeName"] == "model"]
        assert {alias["alias"] for alias in model["aliases"]} == {"best", "latest"}
        sys.modules["wandb"].teardown()

        result = evaluate_door(EvalConfig(summary["run"], device="cpu", data=EvalDataConfig(small().data.root)))
        evaluation = next(each for each in server.runs.values() if each.job_type == "eval")
        assert evaluation.rows[0]["test/acc"] == result["test/acc"] == summary["test/acc"]
        assert evaluation.config["model.heads"] == {"value": 2}


class TestOffline:
    def test_without_a_key_rows_can_be_read_back(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        tracker = Tracker(tmp_path, Config(name="run"))
        for i in range(1, 30):
            tracker.log(row(i))
        tracker.finish()
        assert offline_rows(tmp_path) == [rows_of_file(tmp_path)] == [[row(i) for i in range(1, 30)]]
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert "offline" in said[0]

    @pytest.mark.parametrize("first_is_synced", [False, True])
    def test_a_resumed_run_syncs_as_one(self, tmp_path: Path, server: WandbServer, first_is_synced: bool) -> None:
        """Whether or not the first folder was synced before the run went on, in the end W&B has every row once."""
        config = Config(name="run", wandb=WandbConfig(mode="offline"))
        tracker = Tracker(tmp_path, config)
        for i in range(1, 4):
            tracker.log(row(i))
        state = tracker.state()
        tracker.log(row(4))
        tracker.finish(1)
        if first_is_synced:
            wandb_command("sync", *map(str, (tmp_path / "wandb").glob("offline-run-*")))
        resumed = Tracker(tmp_path, config, state)
        for i in range(4, 7):
            resumed.log(row(i))
        resumed.finish()
        expected = [row(i) for i in range(1, 7)]
        assert rows_of_file(tmp_path) == expected
        assert [each for rows in offline_rows(tmp_path) for each in rows] == expected
        wandb_command("sync", *map(str, sorted((tmp_path / "wandb").glob("offline-run-*"))))
        assert list(server.runs) == [tracker.wandb.id]
        assert [without_own(each) for each in server.runs[tracker.wandb.id].rows] == expected


class TestNeverInTheWay:
    @pytest.mark.parametrize(
        ("variable", "value", "mode"),
        [
            ("WANDB_API_KEY", "nonsense", "auto"),
            ("WANDB_MODE", "nonsense", "auto"),
            ("WANDB_MODE", "nonsense", "offline"),
            ("WANDB_MODE", "", "offline"),
            ("WANDB_MODE", "", "auto"),
            ("WANDB_MODE", "disabled", "offline"),
        ],
    )
    def test_nonsense_in_the_environment_means_offline(
        self, tmp_path: Path, variable: str, value: str, mode: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(variable, value)
        tracker = Tracker(tmp_path, Config(name="run", wandb=WandbConfig(mode=mode)))
        tracker.log(row(1))
        tracker.finish()
        assert offline_rows(tmp_path) == [[row(1)]]

    def test_a_failed_upload_loses_no_rows_and_does_not_leak_into_the_next_run(
        self, tmp_path: Path, server: WandbServer, capsys: pytest.CaptureFixture
    ) -> None:
        first = Tracker(tmp_path, Config(name="lr=0.1 run"))
        first.log(row(1))
        first.wandb.upload(tmp_path / "nowhere", "lr=0.1 run", ["best"], {})
        first.log(row(2))
        first.finish()
        assert "was not uploaded" in capsys.readouterr().err
        (tmp_path / "second").mkdir()
        second = Tracker(tmp_path / "second", Config(name="second"))
        second.log(row(3))
        second.finish()
        assert [without_own(each) for each in server.runs[first.wandb.id].rows] == [row(1), row(2)]
        assert [without_own(each) for each in server.runs[second.wandb.id].rows] == [row(3)]

    def test_an_empty_variable_does_not_keep_a_key_from_its_use(
        self, tmp_path: Path, server: WandbServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_MODE", "")
        tracker = Tracker(tmp_path, Config(name="run"))
        tracker.log(row(1))
        tracker.finish()
        assert [without_own(each) for each in server.runs[tracker.wandb.id].rows] == [row(1)]

    def test_pictures_that_fail_cost_neither_the_row_nor_the_run(
        self, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        tracker = Tracker(tmp_path, Config(name="run"))
        tracker.log(row(1), lambda: {"confusion": 1 / 0})
        tracker.log(row(2))
        tracker.finish()
        assert offline_rows(tmp_path) == [[row(1), row(2)]]
        assert "the pictures of the evaluation failed (ZeroDivisionError: division by zero)" in capsys.readouterr().err

    def test_tables_of_runs_side_by_side_wait_in_the_folder_of_their_own(self, tmp_path: Path) -> None:
        import wandb

        trackers = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            trackers.append(Tracker(tmp_path / name, Config(name=name)))
        trackers[0].log(row(1), lambda: {"table": wandb.Table(columns=["a"], data=[[1]])})
        for tracker in trackers:
            tracker.finish()
        waiting = {path.relative_to(tmp_path).parts[0] for path in tmp_path.glob("*/wandb/data/**/*") if path.is_file()}
        assert waiting == {"first"}

    def test_disabled_does_not_import_wandb(self, small: Callable[..., Config]) -> None:
        code = (
            "import sys, pathlib; from vit.config import Config, WandbConfig; from vit.tracking import Tracker\n"
            "t = Tracker(pathlib.Path(sys.argv[1]), Config(name='x', wandb=WandbConfig(mode='disabled')))\n"
            "t.log({'a': 1}); t.finish(); assert 'wandb' not in sys.modules"
        )
        folder = Path(small().runs_dir)
        folder.mkdir()
        subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
        assert rows_of_file(folder) == [{"a": 1}]

    def test_without_the_package_training_is_logged_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
    ) -> None:
        monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
        tracker = Tracker(tmp_path, Config(name="run"))
        tracker.log(row(1))
        tracker.finish()
        assert rows_of_file(tmp_path) == [row(1)]
        assert "not installed" in capsys.readouterr().err

    def test_an_error_in_wandb_is_said_once_and_training_goes_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        tracker = Tracker(tmp_path, Config(name="run"))
        tracker.wandb.run.log = lambda row: 1 / 0
        tracker.log(row(1))
        tracker.log(row(2))
        tracker.finish()
        assert rows_of_file(tmp_path) == [row(1), row(2)]
        assert capsys.readouterr().err.count("going on without it (division by zero)") == 1
