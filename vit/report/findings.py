"""What a study found: its comparisons tested, its claims judged, and the best arm for a budget."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from vit.report.arms import COSTS, Arm, Quantity, common_seeds, compares, costs_of, quantity, spread
from vit.statistics import LEVEL, McNemar, Paired, Verdict, holm, mcnemar, paired, verdict
from vit.statistics import Claim as Claimed
from vit.study import Claim, Study

ACCURACY = "test/acc"
RELATIVE_MARGIN = 0.05  # of a's mean, for what is no accuracy
NEAR = 1.02  # costs within 2 % are one budget: seconds are never quite equal

BUDGETS = ("compute/train_seconds", "compute/peak_memory_bytes", "inference/batch_1_seconds")

Reading = Literal["higher", "lower", "equivalent", "undecided"]


@dataclass(frozen=True)
class Difference:
    """A comparison b - a or an interaction (the second comparison less the first) of one quantity."""

    label: str
    quantity: Quantity
    a: str
    b: str
    differences: dict[int, float]  # by seed
    paired: Paired | None  # None without a common seed
    reference: float  # mean of a, of an interaction the a of its first comparison; nan without a common seed
    p: float  # adjusted by Holm over all tests of the study; nan where there is nothing to test

    def margin(self, points: float, relative: float = RELATIVE_MARGIN) -> float:
        """The largest difference that does not matter, in the quantity's own unit."""
        if self.quantity.accuracy:
            return points / 100
        return relative * abs(self.reference)

    def judge(self, margin: float, expects: Claimed) -> Verdict:
        return verdict(self.paired, self.p, margin, expects) if self.paired else "undecided"

    def read(self, margin: float) -> Reading:
        """What the test says where nothing was expected."""
        if self.judge(margin, "more") == "supported":
            return "higher"
        if self.judge(margin, "less") == "supported":
            return "lower"
        return "equivalent" if self.judge(margin, "same") == "supported" else "undecided"


@dataclass(frozen=True)
class Choice:
    """The best arm by validation that a budget buys, and the others whose test accuracy was not found lower."""

    of: str  # "training time", "sequence length"
    budget: str
    best: Arm
    ties: list[Arm]


class Findings:
    """All that a page says of a study's finished runs."""

    def __init__(self, study: Study, arms: Sequence[Arm]) -> None:
        self.study, self.arms = study, list(arms)
        self.by_name = {arm.name: arm for arm in arms}
        labels = [*study.comparisons, *study.interactions]
        wanted = [(label, ACCURACY) for label in labels]
        wanted += [(claim.comparison, claim.metric) for claim in study.claims]
        tests = [self.test(label, key) for label, key in dict.fromkeys(wanted)]
        adjusted = holm([p_value(test.paired) for test in tests])
        self.tests = {
            (test.label, test.quantity.key): replace(test, p=p) for test, p in zip(tests, adjusted, strict=True)
        }
        self.family = sum(not math.isnan(p) for p in adjusted)
        self.by_pair: dict[tuple[str, str], Paired | None] = {}

    @property
    def comparisons(self) -> list[Difference]:
        """Test accuracy of every comparison."""
        return [self.tests[label, ACCURACY] for label in self.study.comparisons]

    @property
    def interactions(self) -> list[Difference]:
        return [self.tests[label, ACCURACY] for label in self.study.interactions]

    @property
    def margin(self) -> float:
        """Of accuracies, as a fraction."""
        return self.study.margin / 100

    def claims(self) -> Iterator[tuple[Claim, Difference, Verdict, float]]:
        """Each claim with its test, the verdict and the margin in the quantity's unit."""
        for claim in self.study.claims:
            test = self.tests[claim.comparison, claim.metric]
            margin = test.margin(claim.margin or self.study.margin, claim.margin or RELATIVE_MARGIN)
            margin = margin if math.isfinite(margin) else 0.0
            yield claim, test, test.judge(margin, claim.expects), margin

    @cached_property
    def least_p(self) -> float:
        """The smallest adjusted p that a comparison with the most seeds could reach, in the worst case."""
        n = max((test.paired.n for test in self.comparisons if test.paired), default=1)
        return min(1.0, self.family * 2 / 2**n)

    def test(self, label: str, key: str) -> Difference:
        a, b = (self.study.comparisons | self.study.interactions)[label]
        both = [self.study.comparisons[each] for each in (a, b)] if label in self.study.interactions else [[a, b]]
        arms = [self.by_name.get(name, Arm(name)) for pair in both for name in pair]
        seeds = common_seeds(key, arms)
        first, second, *more = ([arm.values[key][seed] for seed in seeds] for arm in arms)
        reference = statistics.fmean(first) if seeds else math.nan
        if more:
            first, second = less(second, first), less(more[1], more[0])
        differences = dict(zip(seeds, less(second, first), strict=True))
        tested = paired(first, second) if seeds else None
        return Difference(label, quantity(key), a, b, differences, tested, reference, 1.0)

    def mcnemar(self, label: str) -> tuple[int, McNemar] | None:
        """Over how many seeds, and the test; None without predictions of a common seed."""
        a, b = (self.by_name[arm].correct if arm in self.by_name else {} for arm in self.study.comparisons[label])
        seeds = sorted(a.keys() & b.keys())
        if not seeds:
            return None
        return len(seeds), mcnemar(np.stack([a[seed] for seed in seeds]), np.stack([b[seed] for seed in seeds]))

    def ratio(self, label: str, key: str) -> float | None:
        """Mean of b over mean of a, at the seeds that compare."""
        arms = [self.by_name.get(name, Arm(name)) for name in self.study.comparisons[label]]
        seeds = common_seeds(key, arms)
        a, b = (sum(arm.values[key][seed] for seed in seeds) for arm in arms)
        return b / a if a and b else None

    def choices(self) -> list[Choice]:
        """The best arm for every budget that changes the answer, cost by cost, then for every sequence length."""
        found = []
        budgets = [main_cost(self.arms), *(cost for cost in COSTS if cost.key in BUDGETS)]
        for cost in dict.fromkeys(budgets):
            if cost not in costs_of(self.arms) or spread(self.arms, cost.key) < NEAR:
                continue
            if not compares(cost.key, self.arms):
                continue
            best = None
            for level, within in levels(self.arms, cost.key):
                if (better := max(within, key=validated)) is not best:
                    best = better
                    found.append(self.choice(cost.title, f"from {cost.show(level)}", best, within))
        lengths = sorted({arm.tokens for arm in self.arms if arm.tokens})
        for length in lengths if len(lengths) > 1 else []:
            same = [arm for arm in self.arms if arm.tokens == length]
            side = same[0].settings["model.patch_size"]
            best = max(same, key=validated)
            said = f"{length} tokens, patches of {side} x {side}"
            found.append(self.choice("sequence length", said, best, same))
        return found

    def choice(self, of: str, budget: str, best: Arm, within: Sequence[Arm]) -> Choice:
        others = [arm for arm in within if arm is not best]
        differences = [self.between(best, arm) for arm in others]
        adjusted = holm([p_value(difference) for difference in differences])
        ties = [
            arm
            for arm, difference, p in zip(others, differences, adjusted, strict=True)
            if difference is None or verdict(difference, p, self.margin, "less") != "supported"
        ]
        return Choice(of, budget, best, sorted(ties, key=lambda arm: -arm.accuracy))

    def between(self, one: Arm, other: Arm) -> Paired | None:
        """other - one in test accuracy, over the seeds of both."""
        key = one.name, other.name
        if key not in self.by_pair:
            a, b = one.values[ACCURACY], other.values[ACCURACY]
            seeds = sorted(a.keys() & b.keys())
            self.by_pair[key] = paired([a[seed] for seed in seeds], [b[seed] for seed in seeds]) if seeds else None
        return self.by_pair[key]


def less(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [this - that for this, that in zip(these, those, strict=True)]


def validated(arm: Arm) -> float:
    """What an arm is chosen by: mean validation accuracy, or that of the test split where there is no other."""
    mean = arm.mean("best/val_acc")
    return arm.accuracy if mean is None else mean


def p_value(difference: Paired | None) -> float:
    """For `holm`: nan where nothing was measured or, without spread, nothing is left to chance."""
    return math.nan if difference is None or (difference.std == 0 and difference.n > 2) else difference.p


def main_cost(arms: Sequence[Arm]) -> Quantity:
    """The first cost that compares and tells arms apart: training FLOPs, if any two arms differ in them."""
    measured = costs_of(arms)
    telling = (cost for cost in measured if compares(cost.key, arms) and spread(arms, cost.key) >= NEAR)
    return next(telling, measured[0] if measured else COSTS[0])


def levels(arms: Sequence[Arm], key: str) -> Iterator[tuple[float, list[Arm]]]:
    """Rising budgets, each with the arms that it pays for."""
    costs = {arm.name: arm.mean(key) or 0.0 for arm in arms}
    ordered = sorted(arms, key=lambda arm: costs[arm.name])
    start = costs[ordered[0].name]
    for index, arm in enumerate(ordered):
        following = costs[ordered[index + 1].name] if index + 1 < len(ordered) else math.inf
        if following > start * NEAR:
            yield costs[arm.name], ordered[: index + 1]
            start = following


def front(arms: Sequence[Arm], key: str) -> list[Arm]:
    """The Pareto front of the means: arms that no other beats at the same cost or less, by rising cost."""
    best: list[Arm] = []
    for arm in sorted(arms, key=lambda arm: (arm.mean(key) or 0.0, -arm.accuracy)):
        if not best or arm.accuracy > best[-1].accuracy:
            best.append(arm)
    return best


def sentence(findings: Findings) -> str:
    """The finding, as plain text: the study's headline, then how all that it compares stands."""
    headline = findings.study.headline
    return f"{read_out(findings, headline)} {counted(findings)}" if headline else counted(findings)


def read_out(findings: Findings, label: str) -> str:
    """One comparison or interaction with its reading."""
    test = findings.tests[label, ACCURACY]
    if test.paired is None:
        return f"{label}: not measured yet."
    reading = test.read(findings.margin)
    within = f" within ±{findings.study.margin:g} points"
    small = reading in ("higher", "lower") and test.judge(findings.margin, "same") == "supported"
    return f"{label}: {effect(test)}, {reading}{within * (reading == 'equivalent')}{', but' + within if small else ''}."


def counted(findings: Findings) -> str:
    """Of all comparisons and interactions, how many differ and which most."""
    tests = [test for test in [*findings.comparisons, *findings.interactions] if test.paired]
    margin = f"±{findings.study.margin:g} points"
    if not tests:
        return "Nothing can be compared yet: no two arms of a comparison have a finished seed in common."
    readings = [test.read(findings.margin) for test in tests]
    if len(tests) == 1:
        return single(tests[0], readings[0], findings.study.margin)
    largest = max(tests, key=lambda test: abs(test.paired.mean) if test.paired else 0.0)
    differ = [test for test, reading in zip(tests, readings, strict=True) if reading in ("higher", "lower")]
    same, open_ = readings.count("equivalent"), readings.count("undecided")
    rest = ", ".join(
        [f"{same} {'is' if same == 1 else 'are'} equivalent within {margin}"] * (same > 0)
        + [f"{open_} {'stays' if open_ == 1 else 'stay'} undecided"] * (open_ > 0)
    )
    if differ:
        largest = max(differ, key=lambda test: abs(test.paired.mean) if test.paired else 0.0)
        small = sum(test.judge(findings.margin, "same") == "supported" for test in differ)
        within = f" ({small} of them by less than the margin of {margin})" if small else ""
        text = f"Test accuracy differs in {len(differ)} of {len(tests)} comparisons{within}, most in “{largest.label}”"
        return f"{text}: {effect(largest)}{'; ' + rest if rest else ''}."
    if findings.least_p >= LEVEL:
        few = f"So few seeds cannot show a difference in {findings.family} tests at once"
        text = f"{few}: of {len(tests)} comparisons {rest}"
    elif same:
        text = f"No difference in test accuracy was found: of {len(tests)} comparisons {rest}"
    else:
        text = f"Undecided: in none of {len(tests)} comparisons can test accuracy be called different or equivalent"
    return f"{text}; the largest difference is that of “{largest.label}”, {effect(largest)}."


def single(test: Difference, reading: Reading, points: float) -> str:
    margin = f"±{points:g} points"
    if reading in ("higher", "lower"):
        small = f", within the margin of {margin}" if test.judge(points / 100, "same") == "supported" else ""
        return f"{test.b} has a {reading} test accuracy than {test.a}: {effect(test)}{small}."
    if reading == "equivalent":
        return f"{test.b} and {test.a} are equivalent in test accuracy within {margin}: {effect(test)}."
    return (
        f"Undecided: test accuracy of {test.b} against {test.a} can be called neither different nor equivalent within "
        f"{margin}: {effect(test)}."
    )


def effect(test: Difference) -> str:
    """A difference with its interval and n, e.g. `+0.21 points (95 % interval +0.10 to +0.32, n = 8)`."""
    if test.paired is None:
        return "not measured"
    interval = between(test)
    seeds = f"n = {test.paired.n} paired seed{'s' * (test.paired.n > 1)}"
    return f"{amount(test, test.paired.mean)} ({f'95 % interval {interval}, ' if interval else ''}{seeds})"


def amount(test: Difference, value: float, unit: bool = True) -> str:
    """A difference as people read it: points of an accuracy, otherwise percent of a's mean."""
    sign = "+" if value else ""
    if test.quantity.accuracy:
        text = f"{100 * value:{sign}.2f}" + " points" * unit
    elif test.reference:
        text = f"{100 * value / abs(test.reference):{sign}.1f}" + " %" * unit
    else:
        text = f"{value:{sign}.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def between(test: Difference) -> str:
    """The 95 % interval, "" where there is none or nothing varies."""
    if test.paired is None or math.isnan(test.paired.low) or test.paired.std == 0:
        return ""
    return f"{amount(test, test.paired.low, unit=False)} to {amount(test, test.paired.high, unit=False)}"
