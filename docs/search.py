"""Trials of the recipe, from reports/recipe/trials.csv: one row a training, on validation alone."""

import statistics
from itertools import groupby
from pathlib import Path

from tables import read, table


def trials(root: Path, base: str) -> str:
    """All trials of one base, in the order of the file; runs of the same change that differ in seed are one line."""
    rows = [row for row in read(root / "reports/recipe/trials.csv") if row["base"] == base]
    lines = []
    for change, runs in groupby(rows, key=lambda row: row["change"]):
        same = list(runs)
        settings, comma, commit = same[0]["settings"].partition(", at commit ")
        cells = [change, f"`{settings}`{comma}{commit}" if "=" in settings else settings]
        cells.append(f"{float(same[0]['train_pflop']):.3g}")
        for column, digits in (("best/val_acc", 2), ("val/loss", 3), ("train/acc", 1)):
            values = [float(row[column]) * (100 if column.endswith("acc") else 1) for row in same if row[column]]
            cells.append(f"{statistics.mean(values):.{digits}f}" if values else "")
        lines.append([*cells, ", ".join(row["seed"] for row in same)])
    columns = ["change", "settings", "PFLOP", "validation accuracy, %", "its loss", "training accuracy at the end, %"]
    return table([*columns, "seeds"], lines)
