"""The words and tables of a study's page, in its order."""

import math
import statistics
from collections.abc import Iterator, Sequence

from vit.report import figures, page
from vit.report.arms import Arm, costs_of, differing, short
from vit.report.findings import ACCURACY, Difference, Findings
from vit.report.looks import Look
from vit.report.methods import machines, methods, setting
from vit.report.page import Cell
from vit.report.wording import amount, between, effect, p_text, plural, said
from vit.statistics import LEVEL, mean_interval, pairs_needed
from vit.study import WITHOUT_SPREAD

SECONDS = "compute/train_seconds"
VERDICTS = {"supported": "✓ supported", "refuted": "✗ refuted", "undecided": "? undecided"}


def body(title: str, finding: str, findings: Findings, look: dict[str, Look], charts: Sequence[figures.Chart]) -> str:
    """All that stands in the page, as HTML."""
    marks = [page.symbol(look[arm.name]) for arm in findings.arms]
    parts = [
        f"<header>\n<h1>{page.escape(title)}</h1>",
        page.paragraph(finding, "finding"),
        page.paragraph(scope(findings), "note"),
        "</header>",
        *pictures(findings, look, charts),
        *claims(findings),
        *choices(findings),
        arms_table(findings, marks),
        *comparisons_table(findings),
        methods(findings),
    ]
    return "\n".join(parts)


def scope(findings: Findings) -> str:
    runs = sum(arm.n for arm in findings.arms)
    counts = {arm.n for arm in findings.arms}
    seeds = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else str(min(counts))
    text = f"CIFAR-10, {plural(len(findings.arms), 'arm')}, {seeds} seed{'s' * (seeds != '1')} each, {runs} trainings"
    text += "".join(
        f", {title} {' or '.join(str(value) for value in values)}"
        for key, title in (("model.dim", "width"), ("model.depth", "blocks"), ("train.epochs", "epochs"))
        if (values := sorted({arm.settings[key] for arm in findings.arms if key in arm.settings}))
    )
    text += "."
    lost = sum(len(arm.diverged) for arm in findings.arms)
    text += f" {plural(lost, 'training')} more diverged." * (lost > 0)
    if max(arm.n + len(arm.diverged) for arm in findings.arms) < len(findings.study.seeds):
        text += f" Interim: {len(findings.study.seeds)} seeds are planned."
    missing = [name for name in findings.study.arms if name not in findings.by_name]
    return text + (f" Without a finished run: {', '.join(missing)}." if missing else "")


def pictures(findings: Findings, look: dict[str, Look], charts: Sequence[figures.Chart]) -> Iterator[str]:
    names = {chart.name: chart for chart in charts}
    against = {chart.name: chart.title for chart in charts if chart.name.startswith("accuracy_")}
    if against:
        [first] = [chart.name for chart in charts if chart.file == "accuracy"]
        caption = (
            "Large symbols are means over seeds with the 95 % interval of the mean, small ones single seeds. The "
            "dashed line is the Pareto front of the means, whose arms are named where there is room: nothing cheaper "
            "was more accurate. "
            "Arms of equal cost, to 2 %, are drawn side by side. Point at or touch a symbol for its values."
        )
        chosen = page.picker(against, first)
        yield page.section(
            "Accuracy against compute",
            chosen,
            page.legend(look),
            page.figure("accuracy", caption, first),
            machines(findings),
        )
    if "differences" in names:
        caption = (
            "Of every comparison, the second arm minus the first at the same seed: a dot for each seed, the mean and "
            f"its 95 % interval (BCa bootstrap). The band is the margin of ±{findings.study.margin:g} points within "
            "which a difference does not matter: ▲ higher, ▼ lower, = equivalent, ? undecided."
        )
        yield page.section("Differences, paired by seed", page.figure("differences", caption))
    if "curves" in names:
        caption = "Validation accuracy while training: the mean of each arm's seeds, its 95 % interval as a band."
        yield page.section("Learning curves", page.legend(look, lines=True), page.figure("curves", caption))
    costs = {chart.name: chart.title for chart in charts if chart.name.startswith("cost_")}
    if costs:
        caption = (
            "Each arm over the arm that differs from it in having one head only, paired by seed: geometric mean and "
            "95 % interval. Lines join arms that are alike but for their heads. The latency of a small model is mostly "
            "that of starting its computations."
        )
        yield page.section("What heads cost", page.panels(costs, caption))


def claims(findings: Findings) -> Iterator[str]:
    rows: list[list[Cell]] = []
    for claim, test, outcome, margin in findings.claims():
        measured = effect(test)
        if test.paired and margin and test.paired.std:
            measured += f", margin ±{amount(test, margin).lstrip('+')}"
        verdict = VERDICTS[outcome]
        if outcome == "supported" and test.small(margin):
            verdict += ", within the margin"
        if test.paired and not math.isnan(test.p) and outcome == "undecided":
            few = findings.reachable(test.paired.n) >= LEVEL
            verdict += f"; {plural(test.paired.n, 'seed')} may be too few" * few
        if test.paired and claim.metric in WITHOUT_SPREAD and outcome != "undecided":
            verdict += ", by construction"
        claimed = f"{claim.claim}\nTest: {claim.test}"
        cells: list[Cell] = [claim.aspect, (claimed, "claim"), (verdict, outcome), (measured, "words")]
        rows.append([*cells, (p_text(test), "number")])
    if rows:
        columns: list[Cell] = [
            "aspect",
            "claim and operational test",
            "verdict of the test",
            "measured",
            ("p (Holm)", "number"),
        ]
        caption = (
            "What is claimed, a consequence of it that was put to the test, and what was measured: the difference, in "
            "percent of the first arm's mean where it is not points of accuracy, and its 95 % interval."
        )
        yield page.section("Claims", page.table(caption, columns, rows))


def choices(findings: Findings) -> Iterator[str]:
    rows: list[list[Cell]] = []
    for choice in findings.choices():
        accuracy = f"{100 * choice.best.accuracy:.2f}"
        named = [
            f"{arm.name} (from {later})" if (later := choice.later.get(arm.name)) else arm.name for arm in choice.ties
        ]
        ties = ", ".join(named) or ("none" if choice.others else "nothing else to choose from")
        rows.append([choice.of, choice.budget, choice.best.name, (accuracy, "number"), (ties, "words")])
    if rows:
        columns: list[Cell] = [
            "budget",
            "how much",
            "choose",
            ("test accuracy, %", "number"),
            "not known to be worse",
        ]
        caption = (
            "The arm with the best mean validation accuracy, for each budget that changes the answer; costs within 2 % "
            "are one budget. Beside it those arms, up to the next row's budget, whose test accuracy was not found "
            "lower: by the study's comparison of the two, if there is one, else by a paired test adjusted by Holm over "
            f"this table. It takes at least {pairs_needed()} common seeds to tell two arms apart."
        )
        yield page.section("Which should I choose?", page.table(caption, columns, rows))


def arms_table(findings: Findings, marks: Sequence[str]) -> str:
    arms, keys = findings.arms, differing(findings.arms)
    costs = costs_of(arms)
    tuned = any(arm.choice for arm in arms)
    columns: list[Cell] = ["arm", ("n", "number"), ("test accuracy, %", "number"), ("95 % interval", "number")]
    columns += [*keys, *(["tuned"] if tuned else []), ("best validation, %", "number")]
    columns += [(cost.axis, "number") for cost in costs]
    rows: list[list[Cell]] = []
    for arm in arms:
        n = str(arm.n) if arm.n == len(findings.study.seeds) else f"{arm.n} of {len(findings.study.seeds)}"
        n += f", {len(arm.diverged)} diverged" if arm.diverged else ""
        low, high = mean_interval(arm.of(ACCURACY))
        interval = "" if math.isnan(low) else f"{100 * low:.2f} to {100 * high:.2f}"
        cells: list[Cell] = [arm.name, (n, "number"), (mean_and_sd(arm, ACCURACY), "number"), (interval, "number")]
        cells += [setting(arm.settings.get(key)) for key in keys]
        if tuned:
            cells.append((", ".join(f"{key} {setting(value)}" for key, value in arm.choice.items()), "line"))
        cells.append((mean_and_sd(arm, "best/val_acc"), "number"))
        cells += [(short((arm.mean(cost.key) or 0.0) * cost.scale), "number") for cost in costs]
        rows.append(cells)
    caption = "Accuracy as mean ± standard deviation over n seeds, the settings that differ, costs as means."
    return page.section("Arms", page.table(caption, columns, rows, marks))


def comparisons_table(findings: Findings) -> Iterator[str]:
    rows: list[list[Cell]] = []
    several = len({arm.machines[seed].device for arm in findings.arms for seed in arm.values[ACCURACY]}) > 1
    for test in findings.all:
        reading, plain = said(test, findings.margin), test.label in findings.study.comparisons
        ratio = findings.ratio(test.label, SECONDS) if plain else None
        cells: list[Cell] = [
            test.label,
            f"{test.b} minus {test.a}",
            (str(test.paired.n if test.paired else 0), "number"),
        ]
        cells.append((amount(test, test.paired.mean, unit=False) if test.paired else "", "number"))
        cells += [(between(test), "number"), (p_text(test), "number"), (reading, test.read(findings.margin))]
        cells.append((f"{ratio:.2f} times" if ratio else "", "number"))
        cells.append((mcnemar_text(findings, test) if plain else "", "line"))
        if several:
            cells.append((by_machine(findings, test), "words"))
        rows.append(cells)
    if not rows:
        return
    columns: list[Cell] = ["comparison", "difference of", ("n", "number"), ("points", "number")]
    columns += [("95 % interval", "number"), ("p (Holm)", "number"), "reading", ("training time", "number"), "McNemar"]
    columns += ["points by machine"] * several
    caption = (
        f"Test accuracy, paired by seed. Equivalent: the 90 % interval lies within ±{findings.study.margin:g} points. "
        "McNemar counts the predictions of all seeds that only one of the two has right; its p takes those of an image "
        "as one cluster, speaks of these trained models, not of other seeds, and decides nothing here."
    )
    parts = [page.table(caption, columns, rows)]
    if findings.least_p >= LEVEL:
        parts.insert(0, page.paragraph(weak(findings), "note warning"))
    yield page.section("Comparisons", *parts)


def by_machine(findings: Findings, test: Difference) -> str:
    """The mean difference on each machine alone, without pairs of two machines."""
    alone: dict[str, list[float]] = {}
    for seed, difference in test.differences.items():
        if not findings.mixed(test, seed):
            alone.setdefault(findings.arms_of(test.label)[0].machines[seed].device, []).append(difference)
    return "; ".join(
        f"{device} {amount(test, statistics.fmean(some), unit=False)} (n = {len(some)})"
        for device, some in alone.items()
    )


def weak(findings: Findings) -> str:
    return (
        f"So few seeds cannot show a difference in {plural(findings.family, 'test')}: the smallest adjusted p "
        f"in reach may be {findings.least_p:.2g}. Read “undecided” accordingly; equivalence can still be shown."
    )


def mcnemar_text(findings: Findings, test: Difference) -> str:
    counted = findings.mcnemar(test.label)
    if counted is None:
        return "not measured"
    seeds, result = counted
    p = f"p = {result.p:.2g}" if result.p >= 0.001 else "p < 0.001"
    return f"{result.only_b:,} against {result.only_a:,} in {plural(seeds, 'seed')}, {p}"


def mean_and_sd(arm: Arm, key: str) -> str:
    values = arm.of(key)
    if not values:
        return ""
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.2f}{deviation}"
