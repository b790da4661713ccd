"""A study: arms x seeds, read from one file and checked whole before anything is trained.

name: heads
base: configs/quickstart.yaml          # settings of every run
settings: {train.epochs: 4}            # over the base
seeds: [0, 1, 2, 3, 4, 5, 6, 7]
arms:                                  # over those
  one_head: {model.heads: 1}
  four_heads: {model.heads: 4}
tuning:                                # each arm's own choice, by validation accuracy; the test split is not read
  grid: {optim.lr: [0.01, 0.02, 0.04]}
  arms: {adamw: {optim.lr: [0.001, 0.002]}}   # an arm with a grid of its own
  seeds: [100]
title: One head or many?               # from here on for the report (vit/report/)
headline: four heads against one       # the comparison or interaction that the finding opens with
margin: 0.5                            # differences within this many points count as none
comparisons:                           # b - a, paired by seed; the first arm against each other one if none are named
  four heads against one: [one_head, four_heads]
interactions:                          # the second comparison's difference less the first's
  width x heads: [heads at d64, heads at d128]
claims:                                # what is said, and the comparison that decides it
  - {aspect: cost, claim: many heads are dearer, test: seconds at equal parameters,
     comparison: four heads against one, metric: compute/train_seconds, expects: more}  # less, same, not more
"""

import itertools
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

from vit.checks import UsageError, check, check_folder_name, check_seeds, check_types
from vit.cli import overrides, parse
from vit.config import Config, flatten
from vit.run_folder import material
from vit.statistics import Expectation, pairs_needed

# What a study itself sets, and what it leaves to the command that runs it; its file of settings is `base`.
RESERVED = ("config", "name", "seed", "seeds", "resume", "runs_dir", "train.test")

# The same for every seed of an arm: facts, which need no test.
WITHOUT_SPREAD = ("model/params", "model/forward_flops", "compute/train_flops", "compute/images_seen")


@dataclass
class Tuning:
    """A grid of settings: every combination is tried for every arm, on seeds of its own. `arms` have other grids."""

    grid: dict[str, list[Any]]
    seeds: list[int]
    arms: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self, "tuning.")
        for name, grid in {"grid": self.grid, **{f"arms.{arm}": grid for arm, grid in self.arms.items()}}.items():
            check(bool(grid) and all(grid.values()), f"tuning.{name}", "a list of values for each key", grid)
            for key, values in grid.items():
                different = len({str(value) for value in values}) == len(values)  # which names the runs
                check(different, f"tuning.{name}.{key}", "different values", values)
        check_seeds("tuning.seeds", self.seeds)

    def points(self, arm: str) -> list[dict[str, Any]]:
        """Every combination of an arm's grid."""
        grid = self.arms.get(arm, self.grid)
        keys = sorted(grid)
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(grid[key] for key in keys))]


@dataclass
class Claim:
    """Something said of arms, and the comparison of one metric that supports or refutes it.

    Args:
        comparison: label of a comparison or interaction.
        metric: column of results.csv.
        expects: how b stands to a if the claim is true; "not more" is less, or more by less than the margin.
        margin: the difference that counts as none: percentage points of an accuracy, otherwise a fraction of a's mean;
            null is the study's margin, and 0.05.
    """

    aspect: str
    claim: str
    test: str
    comparison: str
    expects: Expectation
    metric: str = "test/acc"
    margin: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        fits = self.margin is None or 0 < self.margin < math.inf
        check(fits, "margin", "a number above 0", self.margin)


@dataclass(frozen=True)
class Run:
    """One training of a study. `choice` is its point of the tuning grid, {} where nothing is tuned."""

    phase: str  # "tuning", then "final"
    arm: str
    choice: dict[str, Any]
    seed: int
    config: Config

    @property
    def key(self) -> tuple[str, ...]:
        """What only one row of the results may have: an arm has one final run a seed, whatever was chosen for it."""
        return self.phase, self.arm, json.dumps(self.choice) if self.phase == "tuning" else "", str(self.seed)


@dataclass
class Study:
    """What a study file holds."""

    name: str
    base: str
    seeds: list[int]
    arms: dict[str, dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None
    title: str | None = None
    headline: str | None = None
    margin: float = 0.5
    comparisons: dict[str, list[str]] = field(default_factory=dict)
    interactions: dict[str, list[str]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_types(self)
        check_folder_name("name", self.name)
        check_seeds("seeds", self.seeds)
        check(bool(self.arms), "arms", "at least one arm", self.arms)
        self.check_tuning()
        try:
            self.base_settings = flatten(parse(Config, [f"--config={self.base}"]))
        except UsageError as error:
            raise UsageError(f"base: {error}") from None
        for key in [*self.settings, *itertools.chain(*self.arms.values())]:
            check(key not in RESERVED, str(key), "a setting that the study does not make itself", key)
        self.configs = {
            (arm, json.dumps(point)): self.config(arm, point) for arm in self.arms for point in self.points(arm)
        }
        for (arm, _), config in self.configs.items() if self.tuning else ():
            images = config.data.val_images
            check(images > 0, f"arm {arm}: data.val_images", "above 0, as validation chooses what is tuned", images)
        first: dict[str, str] = {}
        for arm in self.arms:
            check_folder_name("arms", arm)
            config = self.config(arm, {})
            model = config.model  # whose heads can be written in several ways
            written_out = {"model.heads": model.block_heads, "model.head_dim": model.block_head_dims}
            everything = json.dumps(material(config) | written_out, sort_keys=True)
            twin = first.setdefault(everything, arm)
            check(twin == arm, f"arms.{arm}", "settings that differ from every other arm's", f"those of {twin}")
        asked = bool(self.comparisons or self.claims)
        if not self.comparisons:
            reference, *others = self.arms
            self.comparisons = {f"{other} against {reference}": [reference, other] for other in others}
        self.check_questions()
        if asked:
            self.check_seeds_suffice()

    def check_tuning(self) -> None:
        """Refuse tuning that would not be this study's."""
        if self.tuning is None:
            return
        overlap = set(self.seeds) & set(self.tuning.seeds)
        check(not overlap, "tuning.seeds", "seeds that no final run has", sorted(overlap))
        for arm in self.tuning.arms:
            check(arm in self.arms, f"tuning.arms.{arm}", f"an arm ({', '.join(self.arms)})", arm)
        for arm, settings in self.arms.items():
            for key in self.points(arm)[0]:
                check(key not in RESERVED, str(key), "a setting that the study does not make itself", key)
                check(key not in settings, f"arms.{arm}", "settings that are not tuned", key)

    def check_questions(self) -> None:
        """Refuse comparisons, interactions and claims of what is not there."""
        check(0 < self.margin < math.inf, "margin", "a number of percentage points above 0", self.margin)
        for group, known in (("comparisons", self.arms), ("interactions", self.comparisons)):
            first: dict[tuple[str, ...], str] = {}
            for label, pair in getattr(self, group).items():
                fits = len(pair) == 2 and pair[0] != pair[1] and set(pair) <= set(known)
                check(fits, f"{group}.{label}", f"two different ones of {', '.join(known)}", pair)
                twin = first.setdefault(tuple(sorted(pair)), label)
                check(twin == label, f"{group}.{label}", f"another pair than that of {twin}", pair)
        labels = [*self.comparisons, *self.interactions]
        for index, claim in enumerate(self.claims):
            there = claim.comparison in labels
            check(there, f"claims[{index}].comparison", f"one of {', '.join(labels)}", claim.comparison)
        if self.headline is not None:
            check(self.headline in labels, "headline", f"one of {', '.join(labels)}", self.headline)
        twice = set(self.comparisons) & set(self.interactions)
        check(not twice, "interactions", "labels that no comparison has", sorted(twice))

    def check_seeds_suffice(self) -> None:
        """Refuse seeds with which no difference could be found among all that is asked (Holm 1979)."""
        labels = [*self.comparisons, *self.interactions]
        asked = {(label, "test/acc") for label in labels} | {(each.comparison, each.metric) for each in self.claims}
        tests = sum(metric not in WITHOUT_SPREAD for _, metric in asked)
        needed = pairs_needed(comparisons=tests)
        enough = len(self.seeds) >= needed
        check(enough, "seeds", f"at least {needed}, or no test of {tests} can find a difference", self.seeds)

    def points(self, arm: str) -> list[dict[str, Any]]:
        """The points of the grid that an arm is tuned over, [{}] where nothing is."""
        return self.tuning.points(arm) if self.tuning else [{}]

    def config(self, arm: str, choice: dict[str, Any]) -> Config:
        """The settings of an arm: base, settings, choice, arm, each over the one before.

        Raises:
            UsageError: one of them is not a setting, or not a possible one.
        """
        common = self.base_settings | {"seeds": None} | self.settings
        try:
            return parse(Config, overrides(common | choice | self.arms[arm]))
        except UsageError as error:
            place = "settings" if refusal(common) == str(error) else f"arm {arm}"
            raise UsageError(f"{place}: {error}") from None

    def tuning_runs(self) -> list[Run]:
        if self.tuning is None:
            return []
        return [
            self.run("tuning", arm, point, seed)
            for seed in self.tuning.seeds
            for arm in self.arms
            for point in self.points(arm)
        ]

    def final_runs(self, chosen: dict[str, dict[str, Any]]) -> list[Run]:
        """With the `chosen` point of each arm.

        All arms of a seed come first, so that a study cut short is still paired, and every seed starts with another
        arm: which trainings run beside which, and slow each other, is not always the same.
        """
        arms = list(self.arms)
        orders = ([*arms[i % len(arms) :], *arms[: i % len(arms)]] for i in range(len(self.seeds)))
        return [
            self.run("final", arm, chosen[arm], seed)
            for seed, order in zip(self.seeds, orders, strict=True)
            for arm in order
        ]

    def run(self, phase: str, arm: str, choice: dict[str, Any], seed: int) -> Run:
        config = self.configs[arm, json.dumps(choice)]
        name = "-".join([arm, phase, *(f"{key}={value}" for key, value in choice.items()), f"seed{seed}"])
        config = replace(config, name=name, seed=seed, train=replace(config.train, test=phase == "final"))
        return Run(phase, arm, choice, seed, config)


def refusal(settings: dict[str, Any]) -> str | None:
    """Why these settings are no training, None if they are one."""
    try:
        parse(Config, overrides(settings))
    except UsageError as error:
        return str(error)
    return None
