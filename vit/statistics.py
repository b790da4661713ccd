"""What a study may claim: differences paired by seed, their intervals and tests, and a verdict on a claim.

A difference is found only where two methods agree, a bootstrap interval and a permutation test. "No difference" is a
finding of its own and needs evidence too: an interval inside a margin. Every function is deterministic.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from typing import Literal, get_args

import numpy as np
import scipy  # loads scipy.stats, which takes a second, when it is first used
from numpy.typing import ArrayLike, NDArray

Verdict = Literal["supported", "refuted", "undecided"]
Expectation = Literal["more", "less", "same", "not more"]

LEVEL = 0.05
# Of the bootstrap, and of the sign flips once there are more than this many: up to 13 pairs their test is exact.
RESAMPLES = 9999
# Below three pairs no interval is worth its name, and two equal differences may be chance.
FEWEST_PAIRS = 3
# Significant digits of the inputs that count. 0.7617 - 0.7596 and 0.7621 - 0.7600 differ in the last bit, which would
# break ties of the sign-flip test and give a constant difference a spread.
DIGITS = 12


@dataclass(frozen=True)
class Paired:
    """A paired difference b - a over seeds, in the unit of a and b. Without spread the intervals are one point."""

    n: int
    mean: float
    std: float  # of the differences, with n - 1; nan at n = 1
    low: float  # the 95 % BCa interval of the mean; nan at n < 3
    high: float
    p: float  # of the two-sided sign-flip test; nan at n = 1
    low90: float  # the 90 % Student's t interval of the mean, for equivalence; nan at n < 3
    high90: float


@dataclass(frozen=True)
class McNemar:
    """Predictions that only one of two arms has right, and how likely so uneven a split is by chance."""

    only_a: int
    only_b: int
    p: float


def paired(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compare two arms over the same seeds.

    The 95 % interval is the bias-corrected and accelerated bootstrap of the mean difference (BCa; Efron 1987, "Better
    Bootstrap Confidence Intervals"). It is too narrow for few seeds (with normal differences it covers about 88 % at
    n = 8), which is why `verdict` asks for the test too.

    The test flips the signs of the differences, which are as likely as not if the arms do not differ (Fisher 1935, "The
    Design of Experiments"): in all 2^n ways up to 13 pairs, in 9999 random ways above. It is exact where the
    differences are symmetric about 0, as they are if nothing differs.

    The 90 % interval is Student's, whose bounds are two one-sided tests at 5 % (Schuirmann 1987, "A Comparison of the
    Two One-Sided Tests Procedure and the Power Approach"). The bootstrap's would claim equivalence too often.

    Args:
        a, b: one value per seed, in the same order of seeds, (n,) each; 12 significant digits of them count.

    Raises:
        ValueError: the lengths differ, there is no value, or one is not finite.
    """
    first, second = numbers("a", a), numbers("b", b)
    if len(first) != len(second):
        raise ValueError(f"a and b: expected one value per seed in both, got {len(first)} and {len(second)}")
    n, difference = len(first), second - first
    largest = max(np.abs(first).max(), np.abs(second).max())
    decimals = DIGITS - int(np.ceil(np.log10(largest))) if largest > 0 else 0
    difference = np.round(difference, decimals)
    if n == 1:
        return Paired(1, float(difference[0]), nan, nan, nan, nan, nan, nan)
    p = sign_flip(difference, decimals)
    same = np.ptp(difference) == 0  # their mean and deviation would carry rounding errors
    mean, std = (float(difference[0]), 0.0) if same else (float(difference.mean()), float(difference.std(ddof=1)))
    if n < FEWEST_PAIRS:
        bounds = bounds90 = (nan, nan)
    elif same:  # a bootstrap is not defined
        bounds = bounds90 = (mean, mean)
    else:
        bounds, bounds90 = bca(difference), student(mean, std, n, 1 - 2 * LEVEL)
    return Paired(n, mean, std, *bounds, p, *bounds90)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family of tests, so that a false claim anywhere in it stays as rare as in one test.

    Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure": the smallest of m times m, the next times
    m - 1, and so on, never falling. A nan stays nan and does not count: nothing was tested.

    Raises:
        ValueError: a value is neither a probability nor nan.
    """
    for p in p_values:
        check_probability("p_values", p)
    tested = sorted((index for index, p in enumerate(p_values) if not isnan(p)), key=lambda index: p_values[index])
    adjusted, largest = [nan] * len(p_values), 0.0
    for rank, index in enumerate(tested):
        largest = max(largest, min((len(tested) - rank) * p_values[index], 1.0))
        adjusted[index] = largest
    return adjusted


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> McNemar:
    """Compare which test images two arms have right, over all seeds.

    McNemar 1947, "Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages", for
    predictions that come in clusters, the seeds' of one image (Durkalski et al. 2003, "Analysis of Clustered
    Matched-Pair Data"): squared, the sum over images of how many more seeds have it right in b, by the sum of their
    squares, is chi-squared if the arms do not differ. It speaks about these trained models on new images. That other
    seeds would agree is for `paired` to say: where seeds spread more than images do, this test calls equal arms
    different far more often than one time in twenty.

    Args:
        a, b: whether each prediction was right, (seeds, images) each, the same seeds and images in both.

    Raises:
        ValueError: the shapes differ, are not (seeds, images), or the arrays are not boolean.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"a and b: expected the same shape (seeds, images), got {a.shape} and {b.shape}")
    if a.dtype != bool or b.dtype != bool:
        raise ValueError(f"a and b: expected booleans, right or not, got {a.dtype} and {b.dtype}")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    more = b.sum(axis=0) - a.sum(axis=0)  # seeds, of each image
    p = scipy.stats.chi2.sf(more.sum() ** 2 / (more**2).sum(), df=1) if more.any() else 1.0
    return McNemar(only_a, only_b, float(p))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of one arm's mean over seeds; (nan, nan) of one value.

    Student's t (1908, "The Probable Error of a Mean"), not the bootstrap: accuracies over seeds are near normal, and at
    8 seeds it then covers 95 %, where the bootstrap covers about 88 %.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    sample = numbers("values", values)
    if len(sample) == 1:
        return nan, nan
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    return student(float(sample.mean()), float(sample.std(ddof=1)), len(sample), 1 - LEVEL)


def verdict(difference: Paired, p_adjusted: float, margin: float, expects: Expectation) -> Verdict:
    """Judge a claim that b is more than, less than or the same as a.

    A difference is *found* where its 95 % interval excludes 0 and `p_adjusted` is below 0.05. The arms are *equivalent*
    where the 90 % interval lies inside (-margin, +margin), which is judged for each comparison alone, without
    adjustment. Both may hold: a difference can be real and not matter.

    | claim | supported | refuted | undecided |
    |---|---|---|---|
    | more | found, b above a | found, b below a; or equivalent and not found | else |
    | less | found, b below a | found, b above a; or equivalent and not found | else |
    | same | equivalent | found and not equivalent | else |
    | not more | the 90 % interval ends below +margin | found, b above a, and not equivalent | else |

    Three pairs or more without any spread (FLOPs, parameters) are a fact that needs no test: it is found unless it is
    0, whatever `p_adjusted` is, nan included, and a difference of exactly 0 is equivalent at every margin. So give
    `holm` a nan for it, or it costs the other comparisons power. Fewer than three pairs decide nothing.

    Args:
        p_adjusted: `difference.p` after `holm` over all that the study claims.
        margin: the largest difference that does not matter, in the difference's unit.

    Raises:
        ValueError: an unknown expectation, a margin below 0, or a `p_adjusted` that is no probability.
    """
    if expects not in get_args(Expectation):
        raise ValueError(f"expects: expected {' or '.join(get_args(Expectation))}, got {expects!r}")
    if not (isfinite(margin) and margin >= 0):
        raise ValueError(f"margin: expected 0 or more, got {margin!r}")
    check_probability("p_adjusted", p_adjusted)
    if difference.n < FEWEST_PAIRS:
        return "undecided"
    fact = difference.std == 0
    found = (difference.low > 0 or difference.high < 0) and (fact or p_adjusted < LEVEL)
    equivalent = (-margin < difference.low90 and difference.high90 < margin) or (fact and difference.mean == 0)
    if expects == "not more":  # one of the two one-sided tests
        below = difference.high90 < margin or (fact and difference.mean <= 0)
        return "supported" if below else "refuted" if found and difference.mean > 0 else "undecided"
    if expects == "same":
        return "supported" if equivalent else "refuted" if found else "undecided"
    if found:
        return "supported" if (difference.mean > 0) == (expects == "more") else "refuted"
    return "refuted" if equivalent else "undecided"


def least_p(n: int, comparisons: int = 1) -> float:
    """The smallest p that n pairs can have, after `holm` in its worst case, times the number of comparisons.

    n differences of one sign have 2 / 2^n, or, where signs are drawn because there are too many to try, the least that
    so many draws can show.
    """
    return min(1.0, comparisons * 2 / min(2**n, RESAMPLES + 1))


def pairs_needed(comparisons: int = 1) -> int:
    """The fewest seeds at which any difference can be found.

    Raises:
        ValueError: no comparison, or so many that no number of seeds is enough.
    """
    if comparisons < 1 or least_p(RESAMPLES, comparisons) >= LEVEL:
        raise ValueError(f"expected 1 comparison or more, and so few that p can be below {LEVEL}, got {comparisons!r}")
    n = 1
    while least_p(n, comparisons) >= LEVEL:
        n += 1
    return n


def numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected one finite number per seed, at least one, got {values!r}")
    return array


def check_probability(name: str, p: float) -> None:
    if not (isnan(p) or 0 <= p <= 1):
        raise ValueError(f"{name}: expected probabilities or nan, got {p!r}")


def sign_flip(difference: NDArray[np.float64], decimals: int) -> float:
    def total(sample: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.round(sample.sum(axis=axis), decimals)  # sums that are equal on paper are ties

    test = scipy.stats.permutation_test(
        (difference,), total, permutation_type="samples", vectorized=True, n_resamples=RESAMPLES, axis=0, rng=0
    )
    return float(test.pvalue)


def bca(difference: NDArray[np.float64]) -> tuple[float, float]:
    interval = scipy.stats.bootstrap(
        (difference,), np.mean, confidence_level=1 - LEVEL, n_resamples=RESAMPLES, method="BCa", rng=0
    ).confidence_interval
    return float(interval.low), float(interval.high)


def student(mean: float, std: float, n: int, level: float) -> tuple[float, float]:
    low, high = scipy.stats.t.interval(level, n - 1, loc=mean, scale=std / n**0.5)
    return float(low), float(high)
