"""Write the report of a study anew:  python -m vit.report configs/studies/quickstart.yaml"""

from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vit.checks import UsageError
from vit.cli import door
from vit.commands import ReportConfig
from vit.report import write_report
from vit.results import Results
from vit.study_file import load_study


def main(config: ReportConfig) -> dict[str, Any]:
    """Write the page of a study.

    Returns:
        Its path, as "page".

    Raises:
        UsageError: the study or its results.csv cannot be read, or the rows are of other settings.
    """
    study = load_study(config.study)
    path = Path(config.reports_dir) / study.name / "results.csv"
    if not path.exists():
        raise UsageError(f"{path}: no such file; python compare.py {config.study} makes it")
    results = Results(path, study)
    results.check_rows()
    try:
        with FileLock(path.with_name(".lock"), timeout=0):
            page = write_report(study, list(results.rows.values()), path.parent)
    except Timeout:
        raise UsageError(f"study: {study.name} is being run by another process, which writes its page") from None
    return {"page": str(page)}


if __name__ == "__main__":
    door(main, ReportConfig)
