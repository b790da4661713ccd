"""What studies found, from their rows, in the words of their reports."""

import contextlib
import itertools
import json
import statistics
from pathlib import Path

from tables import mean, paragraph, read, table

from vit.report.arms import read_arms
from vit.report.findings import ACCURACY, Findings
from vit.report.wording import amount, between, effect, p_text, said
from vit.study_file import load_study

SECONDS = "compute/train_seconds"


def findings(root: Path, name: str = "heads") -> Findings:
    with contextlib.chdir(root):  # the study names its base from there
        study = load_study(f"configs/studies/{name}.yaml")
    return Findings(study, read_arms(study, read(root / f"reports/{name}/results.csv")))


def heads(root: Path) -> str:
    """The headline: four heads against one."""
    found = findings(root)
    label = "4 heads against 1"
    seconds = found.ratio(label, SECONDS)
    timed = found.tests[label, SECONDS]
    machines = {arm.machines[seed].device for arm in found.arms_of(label) for seed in arm.values[SECONDS]}
    found_or_not = {"higher": "found", "lower": "found", "equivalent": "equivalent", "undecided": "undecided"}
    return paragraph(f"""
        **At equal parameters and FLOPs, each tuned, four heads reach {reached(found, label)};
        training takes {seconds:.2f} times as long ({found_or_not[timed.read(timed.margin(found.study.margin))]} with
        n = {len(timed.differences)} on {" or ".join(machines)}).**""")


def heads_with_positions(root: Path) -> str:
    """The same of the quickstart, for the middle of a sentence."""
    return reached(findings(root, "quickstart"), "4 heads against 1")


def reached(found: Findings, label: str) -> str:
    """Accuracy of the seeds that both arms have, e.g. `76.87 % and one head 76.08 %: +0.79 points (...), higher`."""
    test = found.tests[label, ACCURACY]
    accuracy = {
        arm.name: mean([arm.values[ACCURACY][seed] for seed in test.differences]) for arm in found.arms_of(label)
    }
    done, planned = len(test.differences), len(found.study.seeds)
    interim = f"; {done} of {planned} seeds planned are done" if done < planned else ""
    reading = said(test, found.margin).split(maxsplit=1)[1]
    return f"{accuracy[test.b]} % and one head {accuracy[test.a]} %: {effect(test)}, {reading}{interim}"


def heads_table(root: Path) -> str:
    """Every comparison and interaction."""
    found = findings(root)
    lines = []
    for test in [*found.comparisons, *found.interactions]:
        if test.paired is not None:
            numbers = [amount(test, test.paired.mean, unit=False), between(test), str(test.paired.n), p_text(test)]
            lines.append([test.label, *numbers, said(test, found.margin)])
    return table(["comparison", "points of test accuracy", "95 % interval", "n (seeds)", "p (Holm)", "reading"], lines)


def learning_rates(root: Path, study: str) -> str:
    """Every rate tried for each arm of a study, the chosen one in bold."""
    rows = [row for row in read(root / f"reports/{study}/results.csv") if row["phase"] == "tuning"]
    lines = []
    for arm, of_arm in itertools.groupby(sorted(rows, key=lambda row: row["arm"]), key=lambda row: row["arm"]):
        accuracies: dict[float, list[float]] = {}
        for row in of_arm:
            accuracies.setdefault(json.loads(row["choice"])["optim.lr"], []).append(float(row["best/val_acc"]))
        best = max(accuracies, key=lambda lr: statistics.mean(accuracies[lr]))
        tried = [f"{lr:g}: {mean(accuracies[lr])}" for lr in sorted(accuracies)]
        marked = [f"**{each}**" if each.startswith(f"{best:g}:") else each for each in tried]
        lines.append([arm, ", ".join(marked), str(len(accuracies[best]))])
    return table(["arm", "learning rate: validation accuracy, %", "n (seeds)"], lines)
