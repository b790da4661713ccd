"""The report of a study: a page that needs no network, and its charts as files, all from the rows of results.csv.

    python -m vit.report configs/studies/quickstart.yaml

A page has the finding, the charts (figures.py), the claims, choices and tables (sections.py) of what findings.py found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit.checks import UsageError, check_types
from vit.cli import door
from vit.files import atomic
from vit.results import Results, Row
from vit.study import Study, load_study


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


def write_report(study: Study, rows: Sequence[Row], folder: Path) -> Path:
    """Write `index.html` and `figures/`; the same rows give the same bytes.

    Returns:
        The path of the page.

    Raises:
        UsageError: a row is damaged, or there is no finished run. Nothing is written then.
    """
    from vit import drawing, figures, page, sections  # with Altair and SciPy, which take a second
    from vit.arms import differing, read_arms
    from vit.findings import Findings, sentence
    from vit.looks import looks

    arms = read_arms(study, rows)
    findings = Findings(study, arms)
    look = looks(study, arms, differing(study, arms))
    title, finding = study.title or f"Study {study.name}", sentence(findings)
    charts = figures.charts(findings, look)
    specs = {chart.name: drawing.for_page(chart) for chart in charts}
    body = sections.body(title, finding, findings, look, charts)
    whole = page.whole(title, body, drawing.script_json(specs), drawing.bundle())

    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name in dict.fromkeys(chart.file for chart in charts if chart.file):
        same = [chart for chart in charts if chart.file == name]
        drawing.save(same, folder / "figures" / name, title, finding, look)
    with atomic(folder / "index.html") as part:
        part.write_text(whole, encoding="utf-8")
    return folder / "index.html"


if __name__ == "__main__":
    door(main, ReportConfig)
