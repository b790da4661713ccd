"""What studies found, from their rows, in the words of their reports."""

import statistics
from pathlib import Path

from studies import findings, results
from tables import deviation, mean, paragraph, span, table
from trained import summary

from vit.report.findings import ACCURACY, Findings
from vit.report.wording import amount, between, effect, p_text, read_words, said

SECONDS = "compute/train_seconds"


def heads(root: Path) -> str:
    """The headline: four heads against one."""
    found = findings(root, "heads")
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
    reading = read_words(test, found.margin) + interim
    return f"{accuracy[test.b]} % and one head {accuracy[test.a]} %: {effect(test)}, {reading}"


def heads_table(root: Path) -> str:
    """Every comparison and interaction."""
    found = findings(root, "heads")
    lines = []
    for test in [*found.comparisons, *found.interactions]:
        if test.paired is not None:
            numbers = [amount(test, test.paired.mean, unit=False), between(test), str(test.paired.n), p_text(test)]
            lines.append([test.label, *numbers, said(test, found.margin)])
    return table(["comparison", "points of test accuracy", "95 % interval", "n (seeds)", "p (Holm)", "reading"], lines)


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
        cells = []
        for rate, accuracies in sorted(rates.items()):
            text = f"{rate:g}: {mean([float(each) for each in accuracies]) if all(accuracies) else 'diverged'}"
            cells.append(f"**{text}**" if rate == chosen[arm]["optim.lr"] else text)
        lines.append([arm, ", ".join(cells), str(len(accuracies))])
    return table(["arm", "learning rate: validation accuracy, %", "n (seeds)"], lines)


def fast_path(root: Path) -> str:
    """Whether what makes a training fast costs accuracy."""
    found = findings(root, "fast_path")
    test = found.tests["fast against plain", ACCURACY]
    plain, fast = (list(arm.values[ACCURACY].values()) for arm in found.arms_of(test.label))
    return paragraph(f"""
        **What makes it fast costs no accuracy that was seen.** Four epochs of the quickstart's model with two heads and
        neither whitening nor relative bias, as plain PyTorch would train it (float32, whole batches, not compiled),
        reach {mean(plain)} %, with everything that makes it fast {mean(fast)} %: {effect(test)},
        {read_words(test, found.margin)}. `python compare.py configs/studies/fast_path.yaml`, rows in
        [reports/fast_path/results.csv](reports/fast_path/results.csv).""")


def validation_spread(root: Path) -> str:
    """Of a short training's validation accuracy over seeds, in points, smallest to largest of the arms."""
    return span([deviation(accuracies) for accuracies in fast_path_accuracies(root, "best/val_acc")], ".2f")


def seed_spread(root: Path) -> str:
    """Of a short training's test accuracy over seeds, in points, smallest to largest of the arms, and its level."""
    arms = fast_path_accuracies(root, ACCURACY)
    points = span([deviation(accuracies) for accuracies in arms], ".2f")
    level = span([100 * statistics.mean(accuracies) for accuracies in arms], ".1f")
    return f"{points} points at {level} % (n = {span([len(accuracies) for accuracies in arms], 'd')} seeds an arm)"


def fast_path_accuracies(root: Path, column: str) -> list[list[float]]:
    """Of each arm."""
    rows = results(root, "fast_path").rows.values()
    return [[float(row[column]) for row in rows if row["arm"] == arm] for arm in ("plain", "fast")]


def ablation(root: Path) -> str:
    """Of the study of the recipe's pieces: each arm's settings, accuracy and distance to the recipe, worst first."""
    found = results(root, "ablation")
    rows = {arm: {row["seed"]: row for row in found.rows.values() if row["arm"] == arm} for arm in found.study.arms}
    recipe = rows.pop("recipe")

    def points(arm: str, column: str) -> list[float]:
        return [100 * (float(row[column]) - float(recipe[seed][column])) for seed, row in rows[arm].items()]

    known = summary(list(recipe.values()))
    lines = [["the recipe", "", known.accuracy, "", "", known.cost, str(len(recipe))]]
    for arm in sorted(rows, key=lambda arm: statistics.mean(points(arm, ACCURACY))):
        known = summary(list(rows[arm].values()))
        settings = " ".join(f"`{key}={str(value).lower()}`" for key, value in found.study.arms[arm].items())
        test, validation = points(arm, ACCURACY), points(arm, "best/val_acc")
        cells = [arm.replace("_", " "), settings, known.accuracy]
        spread = f"{statistics.mean(test):+.2f} ({min(test):+.2f} to {max(test):+.2f})"
        cells += [each.replace("-", "\N{MINUS SIGN}") for each in (spread, f"{statistics.mean(validation):+.2f}")]
        lines.append([*cells, known.cost, str(len(test))])
    columns = ["change", "settings that differ", "test accuracy, %", "points from the recipe (each seed)"]
    return table([*columns, "the same on validation", "cost of training", "n (seeds)"], lines)
