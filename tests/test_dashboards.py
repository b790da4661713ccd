"""A study's workspace and report show what its runs log, and are saved as shown."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_study import compare, write  # noqa: F401 - the second is a fixture
from wandb_server import WandbServer

from compare import main
from vit.checks import UsageError
from vit.commands import CompareConfig
from vit.compare import job_of
from vit.results import Results
from vit.study_file import load_study


def leaves(spec: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The key and value of all that is no container, and of the keys above lists."""
    if isinstance(spec, dict):
        for name, value in spec.items():
            yield from leaves(value, name)
    elif isinstance(spec, list):
        for value in spec:
            yield from leaves(value, key)
    else:
        yield key, spec


def test_it_shows_the_runs_of_the_study_by_what_they_log(
    write: Any,  # noqa: F811
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arms = {"one": {"model.heads": 1}, "four": {"model.heads": 4, "optim.ema": 0.9}}
    path = write(seeds=[0], arms=arms, settings={"wandb.mode": "online", "wandb.entity": "tester"})
    stdout, stderr = compare(path, "--workers=2").communicate(timeout=100)
    assert stdout, stderr
    runs = list(server.runs.values())
    assert {run.group for run in runs} == {"tiny"}
    logged = {key for run in runs for row in run.rows for key in row}
    settings = {key for run in runs for key in run.config}

    monkeypatch.delenv("WANDB_API_KEY")
    server.close()  # a dry run needs neither account nor network
    spec = main(CompareConfig(path, wandb_report=True, dry_run=True))
    for view in (spec["workspace"], spec["report"]):
        found = list(leaves(view["spec"]))
        axes = {value for key, value in found if key in ("xAxis", "yAxis", "metrics", "mediaKeys")} - {"_step"}
        assert {axis.removeprefix("summary:") for axis in axes} == {
            *("compute/train_flops", "compute/train_seconds", "model/params", "val/acc", "best/val_acc"),
            "test/predictions",
            "test/attention",
        }
        assert {axis.removeprefix("summary:") for axis in axes} <= logged
        columns = [value for key, value in found if key == "accessor"]
        assert columns == ["config:model.heads.value", "config:optim.ema.value", "summary:best/val_acc"]
        grouped = {value.removesuffix(".value") for key, value in found if key == "groupBy"}
        assert grouped == {"model.heads"}
        assert {re.sub(r"^config:|\.value$", "", column) for column in columns[:-1]} | grouped <= settings
        assert ("groupAgg", "mean") in found
        assert ("groupArea", "stddev") in found
        assert ("xLogScale", True) in found
        text = json.dumps(view)
        assert '"key": {"section": "run", "name": "group"}, "op": "=", "value": "tiny"' in text


def test_both_are_saved_in_the_project_of_the_runs(write: Any, server: WandbServer) -> None:  # noqa: F811
    path = write(title="One or four?", settings={"wandb.project": "heads"})
    saved = main(CompareConfig(path, wandb_report=True))
    workspace, report = server.views
    assert (workspace["type"], workspace["displayName"]) == ("project-view", "tiny")
    assert (report["type"], report["displayName"]) == ("runs", "One or four?")
    for view in (workspace, report):
        assert (view["entityName"], view["projectName"]) == ("tester", "heads")
        assert "compute/train_flops" in view["spec"]
    assert saved["workspace"].startswith(f"{server.url}/tester/heads?nw=")
    assert saved["report"].startswith(f"{server.url}/tester/heads/reports/One-or-four")


def test_what_it_lacks_is_said_in_one_line(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    path = write()
    process = compare(path, "--wandb-report")
    assert process.communicate(timeout=60)[1].startswith("compare.py: wandb_report: not logged in to W&B: wandb login")
    assert process.returncode == 2
    with pytest.raises(UsageError, match=r"^dry_run: expected false without wandb_report"):
        CompareConfig(path, dry_run=True)
    monkeypatch.delitem(sys.modules, "vit.dashboards", raising=False)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UsageError, match=r"^wandb_report: .* pip install -e '\.\[dashboards\]'$"):
        main(CompareConfig(path, wandb_report=True))


def test_runs_that_only_tune_are_a_group_of_their_own(write: Any, tmp_path: Path) -> None:  # noqa: F811
    path = write(tuning={"grid": {"optim.lr": [0.01, 0.02]}, "seeds": [7]})
    study = load_study(path)
    runs = [study.tuning_runs()[0], study.final_runs({arm: {"optim.lr": 0.01} for arm in study.arms})[0]]
    jobs = [job_of(run, Results(tmp_path / "results.csv", study), CompareConfig(path)) for run in runs]
    assert [job.environment["WANDB_RUN_GROUP"] for job in jobs] == ["tiny tuning", "tiny"]
