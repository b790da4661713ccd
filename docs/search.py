"""Trials of the recipe, from reports/recipe/trials.csv: one row a training, chosen by validation.

A row's `control` names the change, of the same base or another, that it was meant to be compared with. pieces.csv,
beside it, is what came of them: a line names a trial, or an arm of a study beside its arm `recipe`, or neither.
"""

import statistics
from pathlib import Path

from studies import results
from tables import Row, points, read, table

from vit.checks import UsageError

BASES = ("d64", "neighbours", "first_look", "whitenings", "both", "d128", "d128_long", "small_data", "h200")
STUDIES = ("ablation", "shapes")
VALIDATION = "best/val_acc"
Runs = dict[str, Row]  # of one change, by seed
Trials = dict[str, dict[str, Runs]]  # by base and change


def read_trials(root: Path) -> Trials:
    """All trials, in the order of the file; runs that differ in their seed alone are one change.

    Raises:
        UsageError: runs of one change differ in more than the seed, or share one.
    """
    path = root / "reports/recipe/trials.csv"
    found: Trials = {}
    for row in read(path):
        runs = found.setdefault(row["base"], {}).setdefault(row["change"], {})
        if row["seed"] in runs:
            raise UsageError(f"{path}: {row['base']}, {row['change']!r}: seed {row['seed']} has two rows")
        runs[row["seed"]] = row
    for changes in found.values():
        for change, runs in changes.items():
            if len({(row["settings"], row["control"], row["train_pflop"]) for row in runs.values()}) > 1:
                raise UsageError(f"{path}: {change!r} has runs of other settings, control or PFLOP")
    return found


def control_of(found: Trials, base: str, change: str) -> tuple[str, Runs] | None:
    """The name and runs of what a change is compared with: of its base, or else of the only other that has it.

    Raises:
        UsageError: it names a control, and none or several bases have it.
    """
    name = next(iter(found[base][change].values()))["control"]
    if not name:
        return None
    if name in found[base]:
        return name, found[base][name]
    others = [changes[name] for changes in found.values() if name in changes]
    if len(others) != 1:
        raise UsageError(f"reports/recipe/trials.csv: {change!r}: {len(others)} bases have its control, {name!r}")
    return name, others[0]


def trials(root: Path, base: str) -> str:
    """All trials of one base, numbered.

    Raises:
        UsageError: as of `read_trials` and `control_of`.
        KeyError: there is no such base, or a control lacks one of the seeds.
    """
    found = read_trials(root)
    lines = []
    for number, (change, runs) in enumerate(found[base].items(), start=1):
        settings, comma, commit = next(iter(runs.values()))["settings"].partition(", at commit ")
        cells = [str(number), change, f"`{settings}`{comma}{commit}" if "=" in settings else settings]
        cells += [f"{flops(runs):.3g}", average(runs, VALIDATION, 2), ""]
        if control := control_of(found, base, change):
            name, others = control
            here = name in found[base]
            where = str(list(found[base]).index(name) + 1) if here else f"“{name}” above"
            cells[-1] = f"{difference(runs, others)} from {where}"
        lines.append([*cells, average(runs, "val/loss", 3), average(runs, "train/acc", 1), ", ".join(runs)])
    columns = ["", "change", "settings", "PFLOP", "validation accuracy, %", "points of it (same seeds)", "its loss"]
    return table([*columns, "training accuracy at the end, %", "seeds"], lines)


def pieces(root: Path) -> str:
    """What each piece that was tried gave, and what became of it.

    Raises:
        UsageError: as of `read_trials`, `control_of` and `studies.results`, or a trial has no control.
        KeyError: there is no such trial or arm.
    """
    found = read_trials(root)
    arms: Trials = {study: {} for study in STUDIES}
    for study, changes in arms.items():
        for row in results(root, study).rows.values():
            if row[VALIDATION]:  # it did not diverge
                changes.setdefault(row["arm"], {})[row["seed"]] = row
    lines, last = [], ""
    for row in read(root / "reports/recipe/pieces.csv"):
        base, change = row["base"], row["change"]
        cells = ["", "", ""]
        if base:
            runs = (arms | found)[base][change]
            control = ("recipe", arms[base]["recipe"]) if base in arms else control_of(found, base, change)
            if control is None:
                raise UsageError(f"reports/recipe/pieces.csv: {change!r} has no control")
            cells = [difference(runs, control[1]), str(len(runs)), f"x {flops(runs) / flops(control[1]):.2f}"]
        lines.append([row["piece"] if row["piece"] != last else "", row["tried"], *cells, row["outcome"]])
        last = row["piece"]
    columns = ["piece", "tried instead", "points of validation accuracy (smallest to largest)", "n (seeds)", "FLOPs"]
    return table([*columns, "outcome"], lines)


def flops(runs: Runs) -> float:
    """PFLOP of a training."""
    row = next(iter(runs.values()))
    return float(row["train_pflop"]) if "train_pflop" in row else float(row["compute/train_flops"]) / 1e15


def difference(runs: Runs, control: Runs) -> str:
    """In validation accuracy, seed by seed."""
    return points([float(row[VALIDATION]) - float(control[seed][VALIDATION]) for seed, row in runs.items()])


def average(runs: Runs, column: str, digits: int) -> str:
    """Accuracies in percent. Empty where a seed has no value, as the mean of the others would be of other runs."""
    if not all(row[column] for row in runs.values()):
        return ""
    factor = 100 if column.endswith("acc") else 1
    return f"{factor * statistics.mean(float(row[column]) for row in runs.values()):.{digits}f}"
