"""Trials of the recipe, from reports/recipe/trials.csv: one row a training, chosen by validation.

A row's `control` names the change, of the same base or another, that it was meant to be compared with.
"""

import statistics
from pathlib import Path

from tables import Row, points, read, table

from vit.checks import UsageError

BASES = ("d64", "neighbours", "first_look", "whitenings", "both", "d128", "d128_long", "small_data", "h200")
Runs = dict[str, Row]  # of one change, by seed


def trials(root: Path, base: str) -> str:
    """All trials of one base, numbered in the order of the file; runs of the same change that differ in seed are one
    line.

    Raises:
        UsageError: runs of one change differ in more than the seed or share one, or there is no such control.
        KeyError: there is no such base, or a control lacks one of the seeds.
    """
    path = root / "reports/recipe/trials.csv"
    found: dict[str, dict[str, Runs]] = {}  # by base and change
    for row in read(path):
        runs = found.setdefault(row["base"], {}).setdefault(row["change"], {})
        if row["seed"] in runs:
            raise UsageError(f"{path}: {row['base']}, {row['change']!r}: seed {row['seed']} has two rows")
        runs[row["seed"]] = row
    lines = []
    for number, (change, runs) in enumerate(found[base].items(), start=1):
        shared = {(row["settings"], row["control"], row["train_pflop"]) for row in runs.values()}
        if len(shared) > 1:
            raise UsageError(f"{path}: {change!r} has runs of other settings, control or PFLOP")
        ((settings, control, pflop),) = shared
        settings, comma, commit = settings.partition(", at commit ")
        cells = [str(number), change, f"`{settings}`{comma}{commit}" if "=" in settings else settings]
        cells += [f"{float(pflop):.3g}", average(runs, "best/val_acc", 2), ""]
        if control in found[base]:
            cells[-1] = f"{difference(runs, found[base][control])} from {list(found[base]).index(control) + 1}"
        elif control:
            others = [changes[control] for changes in found.values() if control in changes]
            if len(others) != 1:
                raise UsageError(f"{path}: {change!r}: {len(others)} bases have its control, {control!r}")
            cells[-1] = f"{difference(runs, others[0])} from “{control}” above"
        lines.append([*cells, average(runs, "val/loss", 3), average(runs, "train/acc", 1), ", ".join(runs)])
    columns = ["", "change", "settings", "PFLOP", "validation accuracy, %", "points of it (same seeds)", "its loss"]
    return table([*columns, "training accuracy at the end, %", "seeds"], lines)


def difference(runs: Runs, control: Runs) -> str:
    """In validation accuracy, seed by seed."""
    return points([float(row["best/val_acc"]) - float(control[seed]["best/val_acc"]) for seed, row in runs.items()])


def average(runs: Runs, column: str, digits: int) -> str:
    """Accuracies in percent. Empty where a seed has no value, as the mean of the others would be of other runs."""
    if not all(row[column] for row in runs.values()):
        return ""
    factor = 100 if column.endswith("acc") else 1
    return f"{factor * statistics.mean(float(row[column]) for row in runs.values()):.{digits}f}"
