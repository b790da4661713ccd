"""Small things that all generated parts need: csv in, Markdown out, spreads and ratios."""

import csv
import statistics
import textwrap
from pathlib import Path

from vit.checks import UsageError

Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """The rows of a csv file.

    Raises:
        UsageError: there is none.
    """
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None


def table(columns: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"

    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, rows)])


def paragraph(text: str) -> str:
    """Text of any layout as lines of at most 120 characters."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def mean(fractions: list[float]) -> str:
    """In percent, to two places, as compare.py shows it."""
    return f"{100 * statistics.mean(fractions):.2f}"


def deviation(fractions: list[float]) -> float:
    """Standard deviation of a sample of two or more, in percentage points."""
    return 100 * statistics.stdev(fractions)


def points(differences: list[float]) -> str:
    """Differences of fractions, one a seed, in percentage points: `+0.50 (+0.34 to +0.64)`, their mean and, if there
    are more than one, the extremes."""
    both = [100 * each for each in differences]
    extremes = f" ({min(both):+.2f} to {max(both):+.2f})" if len(both) > 1 else ""
    return f"{statistics.mean(both):+.2f}{extremes}".replace("-", "\N{MINUS SIGN}")


def span(values: list[float], form: str) -> str:
    """`1.2 to 1.3`, or one number where both ends look the same."""
    ends = [format(value, form) for value in (min(values), max(values))]
    return " to ".join(dict.fromkeys(ends))


def ahead(claim: str, ratio: float) -> float:
    """The ratio, if it still bears the claim that a sentence makes of it.

    Raises:
        UsageError: it is below 1.
    """
    if ratio < 1:
        raise UsageError(f"the measurements no longer bear the words {claim!r} (ratio {ratio:.3f}): write them anew")
    return ratio
