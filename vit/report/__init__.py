"""The report of a study: a page that needs no network, and its charts as files, all from the rows of results.csv.

    python -m vit.report configs/studies/quickstart.yaml

A page has the finding in a sentence (wording.py), the charts (figures.py), the claims, choices and tables
(sections.py) of what findings.py found.
"""

from collections.abc import Sequence
from pathlib import Path

from vit.files import atomic
from vit.results import Row
from vit.study import Study


def write_report(study: Study, rows: Sequence[Row], folder: Path) -> Path:
    """Write `index.html` and `figures/`; the same rows give the same bytes.

    Returns:
        The path of the page.

    Raises:
        UsageError: a row is damaged, or there is no finished run. Nothing is written then.
    """
    from vit.report import drawing, figures, page, sections  # with Altair, SciPy and PyTorch, which take seconds
    from vit.report.arms import differing, read_arms
    from vit.report.findings import Findings
    from vit.report.looks import looks
    from vit.report.wording import sentence

    arms = read_arms(study, rows)
    findings = Findings(study, arms)
    look = looks(study, arms, differing(arms))
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
