"""Write the report of a study anew:  python -m vit.report configs/studies/quickstart.yaml"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit.checks import UsageError, check_types
from vit.cli import door
from vit.report import write_report
from vit.results import Results
from vit.study import load_study


@dataclass
class ReportConfig:
    """Write the page of a study from its results.csv.

    Args:
        study: YAML file of the study.
        reports_dir: folder that holds results.csv, in a folder of the study's name.
    """

    study: str
    reports_dir: str = "reports"

    def __post_init__(self) -> None:
        check_types(self)


def main(config: ReportConfig) -> dict[str, Any]:
    """Write the page of a study.

    Returns:
        Its path, as "page".

    Raises:
        UsageError: the study or its results.csv cannot be read.
    """
    study = load_study(config.study)
    path = Path(config.reports_dir) / study.name / "results.csv"
    if not path.exists():
        raise UsageError(f"{path}: no such file; python compare.py {config.study} makes it")
    return {"page": str(write_report(study, list(Results(path, study).rows.values()), path.parent))}


if __name__ == "__main__":
    door(main, ReportConfig)
