"""What a study found: its comparisons tested, its claims judged, and the best arm for a budget."""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from vit.report.arms import COSTS, Arm, Quantity, common_seeds, costs_of, quantity, spread
from vit.statistics import Expectation, McNemar, Paired, Verdict, holm, least_p, mcnemar, paired, verdict
from vit.study import Claim, Study

ACCURACY, VALIDATION = "test/acc", "best/val_acc"
RELATIVE_MARGIN = 0.05  # of a's mean, for what is no accuracy
NEAR = 1.02  # costs within 2 % are one budget: seconds are never quite equal

# Not latency: a pass of a small model takes as long as launching it, which varies more than the arms do. Nor memory: on
# a CPU most of it is the process's own.
BUDGETS = ("compute/train_seconds",)

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

    def judge(self, margin: float, expects: Expectation) -> Verdict:
        return verdict(self.paired, self.p, margin, expects) if self.paired else "undecided"

    def read(self, margin: float) -> Reading:
        """What the test says where nothing was expected."""
        if self.judge(margin, "more") == "supported":
            return "higher"
        if self.judge(margin, "less") == "supported":
            return "lower"
        return "equivalent" if self.judge(margin, "same") == "supported" else "undecided"

    def small(self, margin: float) -> bool:
        """Whether the difference was found and yet lies within the margin."""
        return self.read(margin) in ("higher", "lower") and self.judge(margin, "same") == "supported"


@dataclass(frozen=True)
class Choice:
    """The best arm by validation that a budget buys.

    It stays the best up to the next row's budget, and what more budget adds below it is among the others.
    """

    of: str  # "training time", "sequence length"
    budget: str
    best: Arm
    others: list[Arm]
    later: dict[str, str] = field(default_factory=dict)  # the budget of those others that cost more than the best
    ties: list[Arm] = field(default_factory=list)  # others whose test accuracy was not found lower


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

    @property
    def comparisons(self) -> list[Difference]:
        """Test accuracy of every comparison."""
        return [self.tests[label, ACCURACY] for label in self.study.comparisons]

    @property
    def all(self) -> list[Difference]:
        """The same of every interaction too."""
        return [*self.comparisons, *(self.tests[label, ACCURACY] for label in self.study.interactions)]

    def arms_of(self, label: str) -> list[Arm]:
        """The two arms of a comparison, the four of an interaction; without runs where they have not begun."""
        pair = (self.study.comparisons | self.study.interactions)[label]
        pairs = [self.study.comparisons[each] for each in pair] if label in self.study.interactions else [pair]
        return [self.by_name.get(name, Arm(name)) for names in pairs for name in names]

    def mixed(self, test: Difference, seed: int) -> bool:
        """Whether a seed's runs in a test come from several devices."""
        return len({arm.machines[seed].device for arm in self.arms_of(test.label)}) > 1

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
        return self.reachable(max((test.paired.n for test in self.comparisons if test.paired), default=1))

    def reachable(self, n: int) -> float:
        """The smallest adjusted p that a test of n seeds could reach, in the worst case."""
        return least_p(n, self.family)

    def test(self, label: str, key: str) -> Difference:
        a, b = (self.study.comparisons | self.study.interactions)[label]
        arms = self.arms_of(label)
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
        """The best arm for every budget that changes the answer, cost by cost, then for every sequence length.

        None where an arm has no validation split: the test split must not choose.
        """
        if any(arm.mean(VALIDATION) is None for arm in self.arms):
            return []
        choices = [*self.by_cost(), *self.by_length()]
        lower = self.found_lower([(choice.best.name, arm.name) for choice in choices for arm in choice.others])
        ties = [[arm for arm in each.others if (each.best.name, arm.name) not in lower] for each in choices]
        return [
            replace(choice, ties=sorted(same, key=lambda arm: -arm.accuracy))
            for choice, same in zip(choices, ties, strict=True)
        ]

    def by_cost(self) -> Iterator[Choice]:
        budgets = [main_cost(self.arms), *(cost for cost in COSTS if cost.key in BUDGETS)]
        for cost in dict.fromkeys(budgets):
            if cost not in costs_of(self.arms) or not tells_apart(cost, self.arms):
                continue
            shown = {arm.name: cost.show(arm.mean(cost.key) or 0.0) for arm in self.arms}
            rising = levels(self.arms, cost.key)
            for name, group in itertools.groupby(rising, key=lambda paid: max(paid, key=validated).name):
                paid, best = list(group), self.by_name[name]
                later = {arm.name: shown[arm.name] for arm in paid[-1] if arm not in paid[0]}
                others = [arm for arm in paid[-1] if arm is not best]
                yield Choice(cost.title, f"from {shown[name]}", best, others, later)

    def by_length(self) -> Iterator[Choice]:
        lengths = sorted({arm.patches for arm in self.arms if arm.patches})
        for length in lengths if len(lengths) > 1 else []:
            same = [arm for arm in self.arms if arm.patches == length]
            side = same[0].settings["model.patch_size"]
            best = max(same, key=validated)
            said = f"{length} patches of {side} x {side}"
            yield Choice("sequence length", said, best, [arm for arm in same if arm is not best])

    def found_lower(self, pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """The pairs whose second arm was found less accurate than the first.

        By the study's own test where it compares the two, so that no pair is told apart in one table and not in
        another; else by a test of its own, adjusted by Holm over all that are not the study's.
        """
        named = {frozenset(pair): self.tests[label, ACCURACY].p for label, pair in self.study.comparisons.items()}
        tested = {pair: self.between(*pair) for pair in pairs}
        more = [pair for pair in tested if frozenset(pair) not in named]
        adjusted = dict(zip(more, holm([p_value(tested[pair]) for pair in more]), strict=True))
        return {
            pair
            for pair, difference in tested.items()
            if difference
            and verdict(difference, adjusted.get(pair, named.get(frozenset(pair), math.nan)), self.margin, "less")
            == "supported"
        }

    def between(self, one: str, other: str) -> Paired | None:
        """other - one in test accuracy, over the seeds of both."""
        arms = self.by_name[one], self.by_name[other]
        seeds = common_seeds(ACCURACY, arms)
        a, b = ([arm.values[ACCURACY][seed] for seed in seeds] for arm in arms)
        return paired(a, b) if seeds else None


def less(these: Sequence[float], those: Sequence[float]) -> list[float]:
    return [this - that for this, that in zip(these, those, strict=True)]


def validated(arm: Arm) -> float:
    """What an arm is chosen by: mean validation accuracy."""
    return arm.mean(VALIDATION) or 0.0


def p_value(difference: Paired | None) -> float:
    """For `holm`: nan where nothing was measured or, without spread, nothing is left to chance."""
    return math.nan if difference is None or (difference.std == 0 and difference.n > 2) else difference.p


def main_cost(arms: Sequence[Arm]) -> Quantity:
    """The first cost that tells arms apart: training FLOPs, if any two arms differ in them."""
    measured = costs_of(arms)
    return next((cost for cost in measured if tells_apart(cost, arms)), measured[0] if measured else COSTS[0])


def tells_apart(cost: Quantity, arms: Sequence[Arm]) -> bool:
    return spread(arms, cost.key) >= NEAR


def levels(arms: Sequence[Arm], key: str) -> Iterator[list[Arm]]:
    """The arms that rising budgets pay for."""
    costs = {arm.name: arm.mean(key) or 0.0 for arm in arms}
    ordered = sorted(arms, key=lambda arm: costs[arm.name])
    start = costs[ordered[0].name]
    for paid in range(1, len(ordered) + 1):
        following = costs[ordered[paid].name] if paid < len(ordered) else math.inf
        if following > start * NEAR:
            yield ordered[:paid]
            start = following


def front(arms: Sequence[Arm], key: str) -> list[Arm]:
    """The Pareto front of the means: arms that no other beats at the same cost or less, by rising cost."""
    best: list[Arm] = []
    for arm in sorted(arms, key=lambda arm: (arm.mean(key) or 0.0, -arm.accuracy)):
        if not best or arm.accuracy > best[-1].accuracy:
            best.append(arm)
    return best
