"""Trials of the recipe, from reports/recipe/trials.csv: one row a training, on validation alone."""

from itertools import groupby
from pathlib import Path

from tables import mean, read, table


def trials(root: Path, base: str) -> str:
    """All trials of one base, in the order of the file; runs of the same change that differ in seed are one line."""
    rows = [row for row in read(root / "reports/recipe/trials.csv") if row["base"] == base]
    lines = []
    for change, runs in groupby(rows, key=lambda row: row["change"]):
        same = list(runs)
        cells = [change, f"`{same[0]['settings']}`" if "=" in same[0]["settings"] else same[0]["settings"]]
        cells.append(f"{float(same[0]['train_pflop']):.3g}")
        for column in ("best/val_acc", "train/acc"):
            values = [float(row[column]) for row in same if row[column]]
            cells.append(mean(values) if values else "")
        lines.append([*cells, str(len(same))])
    return table(
        ["change", "settings", "PFLOP", "validation accuracy, %", "training accuracy at the end, %", "n"], lines
    )
