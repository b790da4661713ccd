"""Findings in words: sentences, and the numbers in them as people read them."""

import math
from collections.abc import Sequence

from vit.report.findings import ACCURACY, Difference, Findings
from vit.statistics import LEVEL
from vit.study import WITHOUT_SPREAD

SIGNS = {"higher": "▲", "lower": "▼", "equivalent": "=", "undecided": "?"}


def sentence(findings: Findings) -> str:
    """The finding, as plain text: the study's headline, then how all that it compares stands."""
    headline = findings.study.headline
    if headline and len(findings.all) == 1:  # which says it all
        return read_out(findings, headline)
    return f"{read_out(findings, headline)} {counted(findings)}" if headline else counted(findings)


def read_out(findings: Findings, label: str) -> str:
    """One comparison or interaction with its reading."""
    test = findings.tests[label, ACCURACY]
    if test.paired is None:
        return f"{label}: not measured yet."
    reading, within = test.read(findings.margin), f" within ±{findings.study.margin:g} points"
    but = f", but{within}" * test.small(findings.margin)
    means = ""
    if label in findings.study.comparisons:
        means = f"{100 * (test.reference + test.paired.mean):.2f} % against {100 * test.reference:.2f} %, "
    return f"{label}: {means}{effect(test)}, {reading}{within * (reading == 'equivalent')}{but}."


def counted(findings: Findings) -> str:
    """Of all comparisons and interactions, how many differ; without a headline also which most."""
    tests = [test for test in findings.all if test.paired]
    margin = f"±{findings.study.margin:g} points"
    if not tests:
        return "Nothing can be compared yet: no two arms of a comparison have a finished seed in common."
    if len(tests) == 1:
        return single(tests[0], findings.margin)
    several = f"{len(tests)} comparisons{' and interactions' if findings.study.interactions else ''}"
    readings = [test.read(findings.margin) for test in tests]
    differ = [test for test, reading in zip(tests, readings, strict=True) if reading in ("higher", "lower")]
    same, open_ = readings.count("equivalent"), readings.count("undecided")
    rest = ", ".join(
        [f"{same} {'is' if same == 1 else 'are'} equivalent within {margin}"] * (same > 0)
        + [f"{open_} {'stays' if open_ == 1 else 'stay'} undecided"] * (open_ > 0)
    )
    largest = max(differ or tests, key=lambda test: abs(test.paired.mean) if test.paired else 0.0)
    if differ:
        small = sum(test.small(findings.margin) for test in differ)
        within = f" ({small} of them by less than the margin of {margin})" if small else ""
        most = "" if findings.study.headline else f", most in “{largest.label}”: {effect(largest)}"
        return f"Test accuracy differs in {len(differ)} of {several}{within}{most}{'; ' + rest if rest else ''}."
    if findings.least_p >= LEVEL:
        few = f"So few seeds cannot show a difference in {findings.family} tests at once"
        text = f"{few}: of {several} {rest}"
    elif same:
        text = f"No difference in test accuracy was found: of {several} {rest}"
    else:
        text = f"Undecided: in none of {several} can test accuracy be called different or equivalent"
    return f"{text}; the largest difference is that of “{largest.label}”, {effect(largest)}."


def single(test: Difference, margin: float) -> str:
    """The finding of a study that compares two arms; the margin is a fraction."""
    reading, points = test.read(margin), f"±{100 * margin:g} points"
    if reading in ("higher", "lower"):
        small = f", within the margin of {points}" * test.small(margin)
        return f"{test.b} has a {reading} test accuracy than {test.a}: {effect(test)}{small}."
    if reading == "equivalent":
        return f"{test.b} and {test.a} are equivalent in test accuracy within {points}: {effect(test)}."
    return (
        f"Undecided: test accuracy of {test.b} against {test.a} can be called neither different nor equivalent within "
        f"{points}: {effect(test)}."
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


def said(test: Difference, margin: float) -> str:
    """A reading with its sign, e.g. `▲ higher, within the margin`."""
    return f"{SIGNS[test.read(margin)]} {read_words(test, margin)}"


def read_words(test: Difference, margin: float) -> str:
    """A reading, e.g. `higher, within the margin`."""
    return f"{test.read(margin)}{', within the margin' * test.small(margin)}"


def p_text(test: Difference) -> str:
    """The adjusted p, or why there is none."""
    if test.paired is None or math.isnan(test.p):
        if test.paired and test.quantity.key in WITHOUT_SPREAD:
            return "by construction"
        return "none: no spread" if test.paired and test.paired.std == 0 and test.paired.n > 1 else "not measured"
    return f"{test.p:.3f}" if test.p >= 0.001 else "< 0.001"


def listed(numbers: Sequence[int]) -> str:
    """`0 to 7` for a run of numbers, else all of them."""
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return " and ".join(filter(None, [", ".join(str(each) for each in numbers[:-1]), str(numbers[-1])]))


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"
