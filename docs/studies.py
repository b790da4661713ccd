"""Studies and the rows of their runs, refused if they were trained with other settings than the study has now."""

import contextlib
from pathlib import Path

from vit.checks import UsageError
from vit.report.arms import read_arms
from vit.report.findings import Findings
from vit.results import Results
from vit.study_file import load_study


def results(root: Path, name: str) -> Results:
    """The rows in reports/<name>/results.csv.

    Raises:
        UsageError: there are none, or they are not of the settings in configs/studies/<name>.yaml and its base.
    """
    with contextlib.chdir(root):  # the study names its base from there
        study = load_study(f"configs/studies/{name}.yaml")
    found = Results(root / f"reports/{name}/results.csv", study)
    if not found.rows:
        raise UsageError(f"{found.path}: has no rows")
    found.check_rows()
    return found


def findings(root: Path, name: str) -> Findings:
    """What a study's rows say.

    Raises:
        UsageError: as of `results`.
    """
    found = results(root, name)
    return Findings(found.study, read_arms(found.study, list(found.rows.values())))
