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
  seeds: [100]
"""

import itertools
import json
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from vit.checks import UsageError, check, check_folder_name, check_seeds, check_types
from vit.cli import parse
from vit.config import Config, flatten

# What a study itself sets, and what it leaves to the command that runs it.
RESERVED = ("name", "seed", "seeds", "resume", "runs_dir", "train.test")


@dataclass
class Tuning:
    """A grid of settings: every combination is tried for every arm, on seeds of its own."""

    grid: dict[str, list[Any]]
    seeds: list[int]

    def __post_init__(self) -> None:
        check_types(self, "tuning.")
        check(bool(self.grid) and all(self.grid.values()), "tuning.grid", "a list of values for each key", self.grid)
        for key, values in self.grid.items():
            different = len({json.dumps(value) for value in values}) == len(values)
            check(different, f"tuning.grid.{key}", "different values", values)
        check_seeds("tuning.seeds", self.seeds)

    @property
    def points(self) -> list[dict[str, Any]]:
        """Every combination of the grid."""
        keys = sorted(self.grid)
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(self.grid[key] for key in keys))]


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

    def __post_init__(self) -> None:
        check_types(self)
        check_folder_name("name", self.name)
        check_seeds("seeds", self.seeds)
        check(bool(self.arms), "arms", "at least one arm", self.arms)
        overlap = set(self.seeds) & set(self.tuning.seeds if self.tuning else [])
        check(not overlap, "tuning.seeds", "seeds that no final run has", sorted(overlap))
        self.base_settings = flatten(parse(Config, [f"--config={self.base}"]))
        grid = self.tuning.grid if self.tuning else {}
        for key in [*self.settings, *grid, *itertools.chain(*self.arms.values())]:
            check(key not in RESERVED, str(key), "a setting that the study does not make itself", key)
        for arm, settings in self.arms.items():
            check_folder_name("arms", arm)
            for key in settings:
                check(key not in grid, f"arms.{arm}", "settings that are not tuned", key)
        points = self.tuning.points if self.tuning else [{}]
        self.configs = {(arm, json.dumps(point)): self.config(arm, point) for arm in self.arms for point in points}
        first: dict[str, str] = {}
        for arm in self.arms:
            everything = json.dumps(flatten(self.configs[arm, json.dumps(points[0])]), sort_keys=True)
            twin = first.setdefault(everything, arm)
            check(twin == arm, f"arms.{arm}", "settings that differ from every other arm's", f"those of {twin}")

    def config(self, arm: str, choice: dict[str, Any]) -> Config:
        """The settings of an arm: base, settings, choice, arm, each over the one before.

        Raises:
            UsageError: one of them is not a setting, or not a possible one.
        """
        settings = self.base_settings | {"seeds": None} | self.settings | choice | self.arms[arm]
        try:
            return parse(Config, overrides(settings))
        except UsageError as error:
            raise UsageError(f"arm {arm}: {error}") from None

    def tuning_runs(self) -> list[Run]:
        if self.tuning is None:
            return []
        plan = itertools.product(self.tuning.seeds, self.tuning.points, self.arms)
        return [self.run("tuning", arm, point, seed) for seed, point, arm in plan]

    def final_runs(self, chosen: dict[str, dict[str, Any]]) -> list[Run]:
        """With the `chosen` point of each arm; all arms of a seed come first, so a study cut short is still paired."""
        return [self.run("final", arm, chosen[arm], seed) for seed in self.seeds for arm in self.arms]

    def run(self, phase: str, arm: str, choice: dict[str, Any], seed: int) -> Run:
        config = self.configs[arm, json.dumps(choice)]
        name = "-".join([arm, phase, *(f"{key}={value}" for key, value in choice.items()), f"seed{seed}"])
        config = replace(config, name=name, seed=seed, train=replace(config.train, test=phase == "final"))
        return Run(phase, arm, choice, seed, config)


def overrides(settings: dict[str, Any]) -> list[str]:
    """Settings as `train.py` takes them on its command line."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def load_study(path: str) -> Study:
    """Read and check a study file.

    Raises:
        UsageError: it cannot be read, or names something that is not there or cannot work.
    """
    try:
        content = yaml.load(Path(path).read_text(), UniqueKeys)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}: line {line}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not valid YAML ({error})") from None
    try:
        json.dumps(content)  # dates and the like are no settings
        check(isinstance(content, dict), "the file", "keys and values", content)
        if isinstance(content.get("tuning"), dict):
            content["tuning"] = build(Tuning, content["tuning"], "tuning.")
        return build(Study, content)
    except (UsageError, TypeError) as error:
        raise UsageError(f"{path}: {error}") from None


def build(kind: type, content: dict[str, Any], group: str = "") -> Any:
    """A dataclass from the mapping of a study file."""
    known = {each.name: each for each in fields(kind)}
    for key in content:
        check(key in known, f"{group}{key}", f"one of {', '.join(known)}", key)
    for key, each in known.items():
        given = key in content or each.default is not MISSING or each.default_factory is not MISSING
        check(given, group + key, "a value", None)
    return kind(**content)


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not the last one silently."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
