"""Where the rows of a page come from, and how its numbers were made: what a sceptic asks."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from vit.report import page
from vit.report.arms import COSTS, OF_THE_MACHINE, Arm, Machine
from vit.report.findings import ACCURACY, Findings
from vit.report.wording import listed, plural
from vit.results import TEXTS
from vit.statistics import LEVEL

# Settings that change no step.
LATER = ("train.log_every", "train.eval_", "train.test")

CLAIMS = (
    "Claims: “more” or “less” is supported by a difference that way, refuted by one the other way or by equivalence; "
    "“the same” is supported by equivalence, refuted by a difference without it. “Not more” is supported if the 90 % "
    "interval ends below the margin, refuted by a difference upwards that may exceed it."
)


def machines(findings: Findings) -> str:
    """What may make runs unlike each other that no arm means to."""
    found = []
    where = [(arm, seed) for arm in findings.arms for seed in arm.values[ACCURACY]]
    names = Counter(machine_name(arm.machines[seed]) for arm, seed in where)
    if len(names) > 1:
        all_of_them = "; ".join(f"{name} ({plural(count, 'run')})" for name, count in names.items())
        found.append(f"These runs come from different machines: {all_of_them}. {of_one_machine(findings.arms)}")
        mixed = {test.label: [seed for seed in test.differences if findings.mixed(test, seed)] for test in findings.all}
        found += [
            f"Pairs of two machines: “{label}”, seed{'s' * (len(seeds) > 1)} {listed(seeds)}."
            for label, seeds in mixed.items()
            if seeds
        ]
    commits = sorted({text for arm in findings.arms for text in arm.texts.get("commit", [])})
    if len(commits) > 1 or any(commit.endswith("+") for commit in commits):
        found.append(f"They were trained by different versions of the code: {'; '.join(commits)}.")
    return page.paragraph(" ".join(found), "note warning") if found else ""


def of_one_machine(arms: Sequence[Arm]) -> str:
    """Which machine each mean that depends on it is of."""
    of: dict[str, dict[str, None]] = {}  # machine -> titles
    for cost in COSTS:
        for arm in arms if cost.key in OF_THE_MACHINE else []:
            for seed in arm.values.get(cost.key, {}):
                of.setdefault(machine_name(arm.machines[seed]), {})[cost.title] = None
    told = "; ".join(f"{', '.join(titles)} of {name} alone" for name, titles in of.items())
    return f"What depends on the machine is of one in every mean and picture: {told}." if told else ""


def machine_name(run: Machine) -> str:
    return ", ".join(filter(None, (run.device, run.precision))) or "not noted"


def methods(findings: Findings) -> str:
    study, arms = findings.study, findings.arms
    validation = sorted({int(arm.settings.get("data.val_images", 0)) for arm in arms})
    if validation == [0]:
        chooses = "so that the last weights of every run count"
    else:
        where = "where there were any" if 0 in validation else "of every run"
        chooses = f"the same for every seed, chose the weights {where}"
    noted = {
        key: "; ".join(sorted({text for arm in arms for text in arm.texts.get(key, [])})) or "not noted"
        for key in TEXTS
    }
    items = [
        f"Seeds {listed(study.seeds)}. Arms alike in data and batch size see the same images in the same order. A seed "
        "counts in a comparison only if both arms have finished it.",
        f"Splits: {listed(validation)} validation images, {chooses}. The 10000 test images "
        "were read once, at the end of each run.",
        shared(findings),
        tuning(findings),
        "Differences: mean over seeds of b minus a, its 95 % BCa bootstrap interval (at so few seeds it is somewhat "
        "short: at 6 it covers some 86 %, at 12 some 91 %), and a two-sided sign-flip test, whose p is adjusted by "
        f"Holm over the {plural(findings.family, 'test')} of comparisons and claims. A difference is found "
        f"if the interval excludes 0 and p is below {LEVEL:g}, equivalence if the 90 % interval lies within the margin "
        "(two one-sided tests). Equivalence is judged for each comparison alone, without adjustment, so that among "
        "many one may be called so by chance. Otherwise the matter is undecided. What does not vary over seeds, such "
        "as FLOPs, needs no test.",
        *([CLAIMS] if study.claims else []),
        "Intervals of one arm's mean are Student's. FLOPs are those of matrix products, forward and backward, in "
        "closed form, 2 per multiply-accumulate. Peak memory is what a GPU's allocator held, on a CPU that "
        "of the whole process.",
        f"Machine: {noted['device']}. Precision: {noted['precision']}. Attention: {noted['attention/backend']}.",
        f"PyTorch {noted['torch']}. Commit {noted['commit']}.",
        f"This page is made of reports/{study.name}/results.csv, the study file and its base, by python -m vit.report.",
    ]
    return page.section("Methods", page.bullets(items))


def shared(findings: Findings) -> str:
    """The settings that all arms have."""
    first = findings.arms[0].settings
    keys = [key for key in first if not key.startswith(LATER) and key not in findings.arms[0].choice]
    same = [key for key in keys if len({json.dumps(arm.settings.get(key)) for arm in findings.arms}) == 1]
    return f"Settings of all arms: {', '.join(f'{key} {setting(first[key])}' for key in same) or 'none'}."


def tuning(findings: Findings) -> str:
    tuning = findings.study.tuning
    if tuning is None:
        return "Nothing was tuned for single arms."
    text = (
        f"Tuned for each arm by mean validation accuracy on seed{'s' * (len(tuning.seeds) > 1)} "
        f"{listed(tuning.seeds)}, which no final run has; the test split played no part. "
        f"The grid: {gridded(tuning.grid)}"
    )
    for arm, grid in tuning.arms.items():
        text += f"; of {arm}: {gridded(grid)}"
    grids = [(arm, *item) for arm in findings.arms for item in tuning.arms.get(arm.name, tuning.grid).items()]
    ends = [(arm, key, min(values), max(values)) for arm, key, values in grids if has_ends(values)]
    edges = [
        f"{arm.name} ({key} {setting(arm.choice[key])})" for arm, key, *both in ends if arm.choice.get(key) in both
    ]
    if edges:
        return f"{text}. At the end of its grid, so that beyond it may be better: {', '.join(edges)}."
    return f"{text}. No choice lies at the end of its grid." if ends else f"{text}."


def has_ends(values: Sequence[Any]) -> bool:
    """Whether there may be something beyond a grid's values: of several numbers, not of names or switches."""
    return len(values) > 1 and all(type(value) in (int, float) for value in values)


def gridded(grid: dict[str, list[Any]]) -> str:
    return "; ".join(f"{key} {', '.join(map(setting, values))}" for key, values in grid.items())


def setting(value: object) -> str:
    """A value as a config file has it."""
    return value if isinstance(value, str) else json.dumps(value)
