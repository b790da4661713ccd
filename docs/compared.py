"""What the study of heads found, from its rows, in the words of its report."""

import contextlib
from pathlib import Path

from tables import mean, paragraph, read, table

from vit.report.arms import read_arms
from vit.report.findings import ACCURACY, Findings
from vit.report.wording import amount, between, effect, p_text, said
from vit.study import load_study

STUDY = "configs/studies/heads.yaml"


def findings(root: Path) -> Findings:
    with contextlib.chdir(root):  # the study names its base from there
        study = load_study(STUDY)
    return Findings(study, read_arms(study, read(root / f"reports/{study.name}/results.csv")))


def heads(root: Path) -> str:
    """The headline: four heads against one."""
    found = findings(root)
    label = "4 heads against 1"
    test = found.tests[label, ACCURACY]
    accuracy = {
        arm.name: mean([arm.values[ACCURACY][seed] for seed in test.differences]) for arm in found.arms_of(label)
    }
    planned = len(found.study.seeds)
    interim = (
        f" Of {planned} seeds planned, {test.paired.n} are done." if test.paired and test.paired.n < planned else ""
    )
    seconds = found.ratio(label, "compute/train_seconds")
    timed = set.intersection(*(arm.timed for arm in found.arms_of(label)))
    machine = sorted({arm.machines[seed].device for arm in found.arms for seed in arm.timed})
    return paragraph(f"""
        **At equal parameters and FLOPs, each tuned, four heads reach {accuracy[test.b]} % and one head
        {accuracy[test.a]} %: {effect(test)}, {said(test, found.margin).split(maxsplit=1)[1]};
        training takes {seconds:.2f} times as long ({machine[0]}, one training at a time, n = {len(timed)}).**
        {interim}""")


def heads_table(root: Path) -> str:
    """Every comparison and interaction."""
    found = findings(root)
    lines = []
    for test in [*found.comparisons, *found.interactions]:
        if test.paired is not None:
            numbers = [amount(test, test.paired.mean, unit=False), between(test), str(test.paired.n), p_text(test)]
            lines.append([test.label, *numbers, said(test, found.margin)])
    return table(["comparison", "points of test accuracy", "95 % interval", "n (seeds)", "p (Holm)", "reading"], lines)
