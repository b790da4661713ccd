"""What studies found, from their rows, in the words of their reports."""

import math
import statistics
from pathlib import Path

from studies import findings, results
from tables import Row, ahead, deviation, mean, paragraph, points, span, table
from trained import summary

from vit.checks import UsageError
from vit.report.findings import ACCURACY, Findings
from vit.report.wording import amount, between, effect, p_text, read_words, said
from vit.statistics import LEVEL
from vit.study import Study

SECONDS = "compute/train_seconds"
FLOPS = "compute/train_flops"
VALIDATION = "best/val_acc"
HEADLINE = "4 heads against 1"  # a comparison of the studies heads, whole_images and quickstart
CHOOSING = (0, 1, 2)  # seeds whose validation accuracy chose the recipe and its window


def heads(root: Path) -> str:
    """The headline: four heads against one, in a plain ViT and with what makes up the quickstart.

    Raises:
        UsageError: four heads are not found to be more accurate, or do not take longer, as the words beside it say.
    """
    studies = {
        "heads": "plain ViT",
        "whole_images": "with a relative position bias in every head, and whitened patches",
        "quickstart": "the same, ten epochs for six, most steps seeing a window of each image",
    }
    lines = []
    for study, title in studies.items():
        found = findings(root, study)
        if found.tests[HEADLINE, ACCURACY].read(found.margin) != "higher":
            raise UsageError(f"the rows of {study} no longer bear the words 'more accurate': write them anew")
        one, four = accuracies(found, HEADLINE)
        lines.append([title, f"{one} %", f"{four} %", difference(found, HEADLINE), taken(root, found.study)])
    return table(["", "one head", "four heads", "difference", "training time, four / one"], lines)


def taken(root: Path, study: Study) -> str:
    """How many times as long four heads train as one, on each machine."""
    rows, (a, b) = list(results(root, study.name).rows.values()), study.comparisons[HEADLINE]
    times = time_ratios(rows, a, b)
    return ", ".join(f"{ahead('as long', ratio):.2f} ({device}, n = {n})" for device, ratio, n in times)


def heads_in_words(root: Path, study: str) -> str:
    """The same of one study, for the middle of a sentence."""
    found = findings(root, study)
    one, four = accuracies(found, HEADLINE)
    return f"{four} % and one head {one} %: {difference(found, HEADLINE)}"


def window_gain(root: Path, but: tuple[int, ...] = ()) -> str:
    """What a window of each image gives four heads and one, at equal FLOPs and all seeds but those, for the middle of
    a sentence."""
    with_window, without = (final_accuracies(root, study, ACCURACY) for study in ("quickstart", "whole_images"))
    gains = [
        points([seen[seed] - whole[seed] for seed in (seen.keys() & whole.keys()).difference(but)])
        for seen, whole in zip(with_window, without, strict=True)
    ]
    return "four heads gain {} points and one head {}".format(*gains)


def heads_unseen(root: Path) -> str:
    """Four heads minus one at the seeds that chose nothing, for the middle of a sentence."""
    gains = []
    for study in ("whole_images", "quickstart"):
        four, one = final_accuracies(root, study, ACCURACY)
        gains.append(points([four[seed] - one[seed] for seed in (four.keys() & one.keys()).difference(CHOOSING)]))
    return "{} points in the second row and {} in the third".format(*gains)


def accuracies(found: Findings, label: str) -> tuple[str, str]:
    """Of both arms of a comparison, at the seeds that both have, in percent."""
    test = found.tests[label, ACCURACY]
    known = {arm.name: mean([arm.values[ACCURACY][seed] for seed in test.differences]) for arm in found.arms_of(label)}
    return known[test.a], known[test.b]


def difference(found: Findings, label: str) -> str:
    """A comparison's difference, adjusted p and reading; of a study that is under way also how far it is."""
    test = found.tests[label, ACCURACY]
    lost = {seed for arm in found.arms_of(label) for seed in arm.diverged}
    done, planned = len(test.differences.keys() | lost), len(found.study.seeds)
    interim = f"; {done} of {planned} seeds planned are done" if done < planned else ""
    return f"{effect(test)}, p = {p_text(test)}, {read_words(test, found.margin)}{interim}"


def heads_table(root: Path) -> str:
    """Every comparison and interaction."""
    found, rows = findings(root, "heads"), list(results(root, "heads").rows.values())
    lines = []
    counts: dict[str, list[float]] = {}
    for test in found.all:
        if test.paired is not None:
            numbers = [amount(test, test.paired.mean, unit=False), between(test), str(test.paired.n), p_text(test)]
            flops, ratios = "", {}
            if test in found.comparisons:
                flops = f"x {found.ratio(test.label, FLOPS):.2f}"
                for device, ratio, n in time_ratios(rows, test.a, test.b):
                    counts.setdefault(device, []).append(n)
                    ratios[device] = f"x {ratio:.2f}"
            cells = [test.label, *numbers, said(test, found.margin), flops]
            lines.append((cells, ratios))
    columns = ["comparison", "points of test accuracy", "95 % interval", "n (seeds)", "p (Holm)", "reading", "FLOPs"]
    timed = [f"time, {device} (n = {span(each, 'd')})" for device, each in counts.items()]
    return table([*columns, *timed], [[*cells, *(ratios.get(each, "") for each in counts)] for cells, ratios in lines])


def time_ratios(rows: list[Row], a: str, b: str) -> list[tuple[str, float, int]]:
    """For each device that trained two arms: its name, b's mean seconds over a's at the seeds of both, and how many.

    The most seeds come first.
    """
    seconds: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row["phase"] == "final" and row["arm"] in (a, b) and row[ACCURACY]:  # it did not diverge
            seconds.setdefault(row["device"], {a: {}, b: {}})[row["arm"]][row["seed"]] = float(row[SECONDS])
    found = []
    for device, arms in seconds.items():
        if seeds := arms[a].keys() & arms[b].keys():
            ratio = sum(arms[b][seed] for seed in seeds) / sum(arms[a][seed] for seed in seeds)
            found.append((device, ratio, len(seeds)))
    return sorted(found, key=lambda each: -each[2])


def learning_rates(root: Path, study: str) -> str:
    """Every rate tried for each arm of a study, the chosen one in bold."""
    found = results(root, study)
    chosen = found.chosen()
    tried: dict[str, dict[float, list[str]]] = {}
    for run in found.study.tuning_runs():
        rates = tried.setdefault(run.arm, {})
        rates.setdefault(run.choice["optim.lr"], []).append(found.rows[run.key]["best/val_acc"])
    lines = []
    for arm, rates in sorted(tried.items()):
        seeds = span([len(accuracies) for accuracies in rates.values()], "d")
        cells = []
        for rate, accuracies in sorted(rates.items()):
            text = f"{rate:g}: {mean([float(each) for each in accuracies]) if all(accuracies) else 'diverged'}"
            cells.append(f"**{text}**" if rate == chosen[arm]["optim.lr"] else text)
        lines.append([arm, ", ".join(cells), seeds])
    return table(["arm", "learning rate: validation accuracy, %", "n (seeds)"], lines)


def fast_path(root: Path) -> str:
    """Whether what makes a training fast costs accuracy.

    Raises:
        UsageError: it does, or its seeds are enough to say more than that no loss was seen.
    """
    found = findings(root, "fast_path")
    test = found.tests["fast against plain", ACCURACY]
    if test.read(found.margin) != "undecided" or found.least_p < LEVEL:
        raise UsageError("the rows of fast_path no longer bear the words 'too few': write them anew")
    plain, fast = (list(arm.values[ACCURACY].values()) for arm in found.arms_of(test.label))
    return paragraph(f"""
        **What makes it fast costs no accuracy that was seen**, though {len(plain)} seeds are too few to find a loss or
        to rule one out. Four epochs of the plain model of configs/multi_head.yaml with two heads, as plain PyTorch
        would train it (float32, whole batches, not compiled), reach {mean(plain)} %, with everything that makes it fast
        {mean(fast)} %: {effect(test)}, {read_words(test, found.margin)}. `python compare.py
        configs/studies/fast_path.yaml`, rows in
        `reports/fast_path/results.csv`.""")


def seed_spread(root: Path) -> str:
    """Of the quickstart's accuracy over seeds, in points, smallest to largest of the arms, and its level."""
    arms = [list(arm.values()) for arm in final_accuracies(root, "quickstart", ACCURACY)]
    level = span([100 * statistics.mean(accuracies) for accuracies in arms], ".1f")
    return (
        f"{spread(arms)} points at {level} % (n = {span([len(accuracies) for accuracies in arms], 'd')} seeds an arm)"
    )


def validation_spread(root: Path) -> str:
    """The same of validation, and of four heads minus one: at the same seed, and of runs that share nothing."""
    four, one = final_accuracies(root, "quickstart", VALIDATION)
    paired = [four[seed] - one[seed] for seed in four.keys() & one.keys()]
    arms = [list(four.values()), list(one.values())]
    apart = math.hypot(*map(deviation, arms))
    difference = f"{deviation(paired):.2f} at the same seed, where independent runs would have {apart:.2f}"
    return f"{spread(arms)} points, and that of four heads minus one {difference}"


def spread(arms: list[list[float]]) -> str:
    return span([deviation(accuracies) for accuracies in arms], ".2f")


def final_accuracies(root: Path, study: str, column: str) -> list[dict[int, float]]:
    """Of the final runs of a rung's both arms, many heads and one, by seed."""
    rows = [row for row in results(root, study).rows.values() if row["phase"] == "final" and row[ACCURACY]]
    arms = ("multi_head", "one_head")
    return [{int(row["seed"]): float(row[column]) for row in rows if row["arm"] == arm} for arm in arms]


def changes(root: Path, study: str) -> str:
    """Of a study whose first arm is the recipe, what each other arm changes, its accuracy and distance to the recipe,
    worst first by validation."""
    found = results(root, study)
    rows: dict[str, dict[str, Row]] = {arm: {} for arm in found.study.arms}
    for row in found.rows.values():
        if row[ACCURACY]:  # it did not diverge
            rows[row["arm"]][row["seed"]] = row
    recipe = rows.pop(next(iter(rows)))

    def differences(arm: str, column: str) -> list[float]:
        return [float(row[column]) - float(recipe[seed][column]) for seed, row in rows[arm].items()]

    known = summary(list(recipe.values()))
    lines = [["the recipe", "", "", "", known.accuracy, known.cost, str(len(recipe))]]
    for arm in sorted(rows, key=lambda arm: statistics.mean(differences(arm, VALIDATION))):
        known = summary(list(rows[arm].values()))
        settings = " ".join(f"`{key}={str(value).lower()}`" for key, value in found.study.arms[arm].items())
        cells = [arm.replace("_", " "), settings, *(points(differences(arm, each)) for each in (VALIDATION, ACCURACY))]
        lines.append([*cells, known.accuracy, known.cost, str(len(rows[arm]))])
    columns = ["change", "settings that differ", "points of validation accuracy (smallest to largest of the seeds)"]
    return table([*columns, "of test accuracy", "test accuracy, %", "cost of training", "n (seeds)"], lines)
