"""The statistics give known answers, treat both arms alike, and claim falsely no more often than they say."""

from dataclasses import astuple
from itertools import product
from math import erfc, isnan, nan, sqrt
from typing import Any, get_args

import numpy as np
import pytest
from scipy.stats import binom, norm

from vit.statistics import (
    Expectation,
    McNemar,
    Paired,
    holm,
    least_p,
    mcnemar,
    mean_interval,
    paired,
    pairs_needed,
    verdict,
)

ACCURACIES = [0.7617, 0.7596, 0.7605, 0.7641, 0.7580, 0.7622, 0.7599, 0.7634]
DIFFERENCES = [0.0021, 0.0042, -0.0011, 0.0063, 0.0015, 0.0008, 0.0090, -0.0002]


def over(differences: Any) -> Paired:
    """Paired, with these differences to an arm of realistic accuracies."""
    a = np.resize(ACCURACIES, len(differences))
    return paired(a, a + np.asarray(differences))


# --- Known answers


@pytest.mark.parametrize(("n", "p"), [(3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125), (7, 0.015625), (8, 0.0078125)])
def test_sign_flips_by_hand(n: int, p: float) -> None:
    """All of one sign: only all plus and all minus are as far from 0. The smallest turned: these and their mirrors."""
    sizes = np.arange(1, n + 1) / 1000
    assert over(sizes).p == over(-sizes).p == p
    sizes[0] *= -1
    assert over(sizes).p == 2 * p


def test_sign_flips_that_tie_on_paper_are_ties() -> None:
    """Accuracies are multiples of 1/10000, which floating point cannot add without error; whole numbers it can."""
    for ticks in (
        [1, 2, 3, -1, 2, -3, 1, 2],
        [5, -5, 5, 5, 5, -5, 5, 5],
        [-260, 250, 119, 330, 2, 85, 376, -902],  # no difference at all
    ):
        signs = np.array(list(product((1, -1), repeat=len(ticks))))
        as_far = np.abs(signs @ np.abs(ticks)) >= abs(sum(ticks))
        assert over(np.array(ticks) / 10000).p == as_far.mean()


def test_bca_is_efrons() -> None:
    """Against the formula written out over all 6^6 resamples, so without chance; ours draws 9999 of them."""
    d = np.array([0.137, 0.412, -0.223, 1.931, 0.318, 0.791])
    means = d[np.array(list(product(range(6), repeat=6)))].mean(axis=1)
    z0 = norm.ppf((means < d.mean() - 1e-12).mean() / 2 + (means < d.mean() + 1e-12).mean() / 2)
    centred = d - d.mean()
    acceleration = (centred**3).sum() / (6 * (centred**2).sum() ** 1.5)
    result = paired(0 * d, d)
    for bound, got in ((-1.959964, result.low), (1.959964, result.high)):
        quantile = norm.cdf(z0 + (z0 + bound) / (1 - acceleration * (z0 + bound)))
        assert got == pytest.approx(np.quantile(means, quantile), abs=0.06)  # chance moves a thin tail
        assert got > np.quantile(means, norm.cdf(bound)) + 0.03  # a plain percentile does not follow the skew


def test_students_intervals_by_the_table() -> None:
    """1 to 8: mean 4.5, standard error 0.866; at 7 degrees of freedom the table says 2.365, and 1.895 one-sided."""
    values = [float(value) for value in range(1, 9)]
    error = 6**0.5 / 8**0.5
    assert mean_interval(values) == pytest.approx((4.5 - 2.365 * error, 4.5 + 2.365 * error), abs=1e-3)
    result = paired([0.0] * 8, values)
    assert (result.n, result.mean, result.std) == (8, 4.5, pytest.approx(6**0.5))
    assert (result.low90, result.high90) == pytest.approx((4.5 - 1.895 * error, 4.5 + 1.895 * error), abs=1e-3)


def test_holm_by_hand() -> None:
    """m times the smallest, m - 1 times the next, never falling, at most 1, in the order given."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.2, 0.9]) == pytest.approx([1, 0.6, 1])
    assert holm([0.04]) == [0.04]
    assert holm([]) == []


def test_what_was_not_tested_costs_holm_nothing() -> None:
    adjusted = holm([nan, 0.02, nan, 0.03])
    assert adjusted[1::2] == pytest.approx([0.04, 0.04])
    assert isnan(adjusted[0])
    assert isnan(adjusted[2])


def test_mcnemar_counts_what_they_disagree_on_and_images_as_clusters() -> None:
    a = np.zeros((2, 20), dtype=bool)
    b = a.copy()
    a[0, :2] = True  # only a has 2 right
    b[0, 2:6] = b[1, :6] = True  # only b 10
    a[1, 10:15] = b[1, 10:15] = True  # both 5, which say nothing
    p = erfc(sqrt((4 * 2) ** 2 / (4 * 2**2) / 2))  # 4 images of which b has two seeds more right, 2 of which none
    assert mcnemar(a, b) == McNemar(only_a=2, only_b=10, p=pytest.approx(p))
    assert mcnemar(b, a) == McNemar(only_a=10, only_b=2, p=pytest.approx(p))
    assert mcnemar(a, a) == McNemar(0, 0, 1.0)
    once, p = (a[:1], b[:1]), erfc(sqrt((4 - 2) ** 2 / (4 + 2) / 2))
    assert mcnemar(*once).p == pytest.approx(p)  # of one seed it is McNemar's own
    again = [np.concatenate([each] * 5) for each in once]
    assert mcnemar(*again).p == pytest.approx(p)  # seeds that see the same say nothing more


@pytest.mark.parametrize("comparisons", [1, 2, 4, 10])
def test_one_pair_less_than_needed_finds_nothing(comparisons: int) -> None:
    needed = pairs_needed(comparisons=comparisons)
    assert needed == {1: 6, 2: 7, 4: 8, 10: 9}[comparisons]
    for n, expected in ((needed, "supported"), (needed - 1, "undecided")):
        result = over(np.arange(1, n + 1) / 100)
        assert {verdict(result, p, 0.001, "more") for p in holm([result.p] * comparisons)} == {expected}


def test_signs_that_are_drawn_cannot_show_a_smaller_p_than_their_number_allows() -> None:
    assert over(np.arange(1, 21) / 100).p == pytest.approx(least_p(20))  # 20 pairs of one sign: too many to try all
    assert over(np.arange(1, 9) / 100).p == pytest.approx(least_p(8))
    assert least_p(8, comparisons=3) == 3 * 2 / 2**8
    with pytest.raises(ValueError, match="so few that p can be below"):
        pairs_needed(comparisons=300)


# --- Both arms alike, always the same


@pytest.mark.parametrize("n", [1, 2, 3, 8, 14])
def test_swapping_the_arms_mirrors_everything(n: int) -> None:
    a = np.resize(ACCURACIES, n)
    b = a + np.resize(DIFFERENCES, n)
    there, back = paired(a, b), paired(b, a)
    mirror = [back.n, -back.mean, back.std, -back.high, -back.low, back.p, -back.high90, -back.low90]
    # Above 13 pairs the flips are drawn at random, so the two tails are too.
    assert astuple(there) == pytest.approx(mirror, nan_ok=True, rel=0.05 if n > 13 else 1e-6)
    for margin in (0.001, 0.02):
        assert verdict(there, there.p, margin, "more") == verdict(back, back.p, margin, "less")
        assert verdict(there, there.p, margin, "less") == verdict(back, back.p, margin, "more")
        assert verdict(there, there.p, margin, "same") == verdict(back, back.p, margin, "same")


def test_same_input_same_answer() -> None:
    assert over(DIFFERENCES) == over(DIFFERENCES)
    assert over(DIFFERENCES * 2) == over(DIFFERENCES * 2)


# --- Verdicts


def outcome(low: float, high: float, half90: float, p: float, margin: float = 1.0) -> list[str]:
    mean = (low + high) / 2
    difference = Paired(8, mean, 1.0, low, high, p, mean - half90, mean + half90)
    return [verdict(difference, p, margin, claim) for claim in ("more", "less", "same", "not more")]


def test_verdicts() -> None:
    """Of the claims more, less, same and not more, each way that evidence can fall."""
    assert outcome(2, 4, 0.8, 0.01) == ["supported", "refuted", "refuted", "refuted"]
    assert outcome(-4, -2, 0.8, 0.01) == ["refuted", "supported", "refuted", "supported"]
    assert outcome(-0.5, 0.5, 0.4, 0.9) == ["refuted", "refuted", "supported", "supported"]  # equivalent
    assert outcome(0.2, 0.6, 0.3, 0.01) == ["supported", "refuted", "supported", "supported"]  # real, but small
    assert outcome(-2, 3, 2, 0.6) == ["undecided"] * 4  # too little is known
    assert outcome(2, 4, 0.8, 0.05) == ["undecided"] * 4  # the interval alone finds nothing,
    assert outcome(-0.1, 4, 1.5, 0.01) == ["undecided"] * 4  # nor does the test alone
    assert outcome(2, 4, 0.8, nan) == ["undecided"] * 4


def test_too_few_pairs_decide_nothing() -> None:
    for n in (1, 2):
        result = over([0.1] * n)
        assert {verdict(result, result.p, 0.5, claim) for claim in get_args(Expectation)} == {"undecided"}
    assert isnan(over([0.1]).p)
    assert isnan(over([0.1]).std)
    assert isnan(over([0.1, 0.2]).low90)
    assert all(isnan(bound) for bound in mean_interval([0.7]))


@pytest.mark.parametrize("size", [1, 0.01, 1e16])
def test_what_has_no_spread_is_a_fact(size: float) -> None:
    """FLOPs are the same for every seed: three pairs tell all, which no sign-flip test of three could."""
    a, spread = [size * 0.7] * 3, [size * 0.02]
    result = paired(a, a + np.array(spread * 3))
    assert result.std == 0
    assert result.low == result.high == result.low90 == result.high90 == result.mean == pytest.approx(size * 0.02)
    for p in (result.p, 1.0, nan):
        assert verdict(result, p, size * 0.01, "more") == "supported"
        assert verdict(result, p, size * 0.01, "less") == "refuted"
        assert verdict(result, p, size * 0.01, "same") == "refuted"
        assert verdict(result, p, size * 0.05, "same") == "supported"
    for margin in (0.0, size):
        none = paired(a, a)
        assert none.p == 1
        assert [verdict(none, none.p, margin, claim) for claim in ("more", "less", "same")] == [
            "refuted",
            "refuted",
            "supported",
        ]


def test_a_constant_difference_has_no_spread_whatever_its_last_bits_are() -> None:
    a = np.array([0.0979, 0.3, 0.5, 0.7617, 0.7596, 0.81, 0.9, 0.97])
    b = np.array([0.1, 0.3021, 0.5021, 0.7638, 0.7617, 0.8121, 0.9021, 0.9721])
    assert len(set(b - a)) > 1
    result = paired(a, b)
    assert (result.mean, result.std, result.p) == (0.0021, 0, 2 / 2**8)


# --- Bad input


def test_bad_input_is_refused() -> None:
    for a, b, word in [
        ([1.0], [1.0, 2.0], "one value per seed"),
        ([], [], "at least one"),
        ([1.0, nan], [1.0, 2.0], "finite"),
        ([1.0, 2.0], [1.0, float("inf")], "finite"),
        ([[1.0]], [[1.0]], "one finite number per seed"),
    ]:
        with pytest.raises(ValueError, match=word):
            paired(a, b)
    with pytest.raises(ValueError, match="finite"):
        mean_interval([nan])
    with pytest.raises(ValueError, match="probabilities"):
        holm([0.5, 1.5])
    with pytest.raises(ValueError, match=r"seeds, images"):
        mcnemar(np.zeros((2, 3), bool), np.zeros((2, 4), bool))
    with pytest.raises(ValueError, match="booleans"):
        mcnemar(np.zeros((2, 3)), np.zeros((2, 3)))
    fine: Any = over(DIFFERENCES)
    with pytest.raises(ValueError, match="more or less or same"):
        verdict(fine, 0.5, 1.0, "better")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="margin"):
        verdict(fine, 0.5, nan, "same")
    with pytest.raises(ValueError, match="p_adjusted"):
        verdict(fine, -0.1, 1.0, "same")
    with pytest.raises(ValueError, match="comparison"):
        pairs_needed(comparisons=0)


# --- How often the claims are false, at 8 seeds


def found(difference: Paired, p_adjusted: float) -> bool:
    """Whether "more" or "less" is supported."""
    return "supported" in (verdict(difference, p_adjusted, 1e-9, "more"), verdict(difference, p_adjusted, 1e-9, "less"))


def at_most(rate: float, trials: int) -> int:
    """Where the rate is true, only one such simulation in a thousand counts more than this."""
    return int(binom.ppf(0.999, trials, rate))


def arms(trials: int, count: int, seed: int = 0) -> np.ndarray:
    """Values (trials, count, 8 seeds) that differ by chance alone: far from normal, with a part each seed shares."""
    random = np.random.default_rng(seed)
    return random.normal(size=(trials, 1, 8)) + random.exponential(size=(trials, count, 8))


def test_without_an_effect_one_comparison_in_twenty_claims_one() -> None:
    results = [paired(a, b) for a, b in arms(1000, 2)]
    assert sum(found(result, result.p) for result in results) <= at_most(0.05, 1000)
    assert sum(result.low > 0 or result.high < 0 for result in results) > at_most(0.05, 1000)  # the interval alone


@pytest.mark.parametrize(("n", "coverage"), [(6, 0.86), (8, 0.88), (12, 0.91)])
def test_the_bootstrap_alone_is_too_sure(n: int, coverage: float) -> None:
    """Of 500 intervals for normal differences so many hold the truth, not 95 %."""
    results = [paired([0.0] * n, each) for each in np.random.default_rng(0).normal(size=(500, n))]
    assert np.mean([result.low <= 0 <= result.high for result in results]) == pytest.approx(coverage, abs=0.02)


@pytest.mark.parametrize(
    ("effect", "deviation", "power"),
    [(1.0, 0.5 * 2**0.5, 0.8), (1.5, 0.5 * 2, 0.9)],
    ids=["of two arms", "of two gains"],
)
def test_what_twelve_seeds_of_the_heads_study_find(effect: float, deviation: float, power: float) -> None:
    """Where an arm's deviation is half a point, and ten other tests find nothing (200 studies)."""
    differences = np.random.default_rng(0).normal(effect, deviation, size=(200, 12))
    results = [paired([0.0] * 12, each) for each in differences]
    found_it = [verdict(result, min(11 * result.p, 1), 0.5, "more") == "supported" for result in results]
    assert np.mean(found_it) == pytest.approx(power, abs=0.06)


def test_without_an_effect_one_study_of_four_comparisons_in_twenty_claims_any() -> None:
    """400 studies of four arms against the same fifth."""
    adjusted = unadjusted = 0
    for base, *others in arms(400, 5):
        results = [paired(base, other) for other in others]
        family = holm([result.p for result in results])
        adjusted += any(found(result, p) for result, p in zip(results, family, strict=True))
        unadjusted += any(found(result, result.p) for result in results)
    assert adjusted <= at_most(0.05, 400)
    assert unadjusted > at_most(0.05, 400)


def test_an_effect_of_two_deviations_is_found() -> None:
    """300 comparisons: nearly always if it is the only one, four times in five if it is one of four."""
    differences = np.random.default_rng(0).normal(2, 1, size=(300, 8))
    results = [paired([0.0] * 8, each) for each in differences]
    assert np.mean([verdict(result, result.p, 0.5, "more") == "supported" for result in results]) > 0.95
    assert np.mean([verdict(result, min(4 * result.p, 1), 0.5, "more") == "supported" for result in results]) > 0.75


def test_a_difference_as_large_as_the_margin_is_called_the_same_one_time_in_twenty() -> None:
    """1000 comparisons at a margin of two deviations; where there is no difference that is mostly seen."""
    noise = np.random.default_rng(0).normal(size=(1000, 8))
    at_margin = [paired([0.0] * 8, 2 + each) for each in noise]
    same = sum(verdict(result, 1.0, 2.0, "same") == "supported" for result in at_margin)
    assert 20 < same <= at_most(0.05, 1000)
    none = [paired([0.0] * 8, each) for each in noise[:200]]
    assert np.mean([verdict(result, 1.0, 2.0, "same") == "supported" for result in none]) > 0.95
