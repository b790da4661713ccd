"""Studies and the rows of their runs, refused if they were trained with other settings than the study has now."""

import contextlib
from functools import cache
from pathlib import Path

from vit.checks import UsageError
from vit.report.arms import read_arms
from vit.report.findings import Findings
from vit.results import Results
from vit.study_file import load_study


def results(root: Path, name: str) -> Results:
    """The rows in reports/<name>/results.csv. They are read once, so nobody may change them.

    Raises:
        UsageError: there are none, or they are not of the settings in configs/studies/<name>.yaml and its base.
    """
    return read_results(root, name, changed(root, name))


def findings(root: Path, name: str) -> Findings:
    """What a study's rows say.

    Raises:
        UsageError: as of `results`.
    """
    return find(root, name, changed(root, name))


def changed(root: Path, name: str) -> tuple[int, ...]:
    """When the files of a study, and any that may be its base, were last written."""
    paths = [root / f"reports/{name}/results.csv", root / f"configs/studies/{name}.yaml", *root.glob("configs/*.yaml")]
    return tuple(path.stat().st_mtime_ns for path in paths if path.exists())


@cache
def read_results(root: Path, name: str, changed: tuple[int, ...]) -> Results:
    with contextlib.chdir(root):  # the study names its base from there
        study = load_study(f"configs/studies/{name}.yaml")
    found = Results(root / f"reports/{name}/results.csv", study)
    if not found.rows:
        raise UsageError(f"{found.path}: has no rows")
    found.check_rows()
    return found


@cache
def find(root: Path, name: str, changed: tuple[int, ...]) -> Findings:
    found = read_results(root, name, changed)
    return Findings(found.study, read_arms(found.study, list(found.rows.values())))
