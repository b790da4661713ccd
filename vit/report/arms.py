"""The finished runs of a study by arm: the rows of results.csv, read and checked, and what their columns mean."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vit.checks import UsageError
from vit.results import NUMBERS, TEXTS, Row, check_row, unpack
from vit.study import Study

TEST_IMAGES = 10000


@dataclass(frozen=True)
class Quantity:
    """A column of results.csv as people read it: its value times `scale`, in `unit`."""

    key: str
    title: str
    unit: str = ""
    scale: float = 1.0

    @property
    def accuracy(self) -> bool:
        return self.key.endswith("acc")

    def show(self, value: float) -> str:
        """A value with its unit, e.g. `0.024 PFLOP`."""
        text = f"{100 * value:.2f}" if self.accuracy else short(value * self.scale)
        return f"{text} {self.unit}".strip()

    @property
    def axis(self) -> str:
        """The title of an axis."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


# What a model costs, in the order in which a page offers it.
COSTS = (
    Quantity("compute/train_flops", "training compute", "PFLOP", 1e-15),
    Quantity("compute/train_seconds", "training time", "s"),
    Quantity("compute/energy_joules", "energy of training", "kJ", 1e-3),
    Quantity("compute/peak_memory_bytes", "peak memory", "MiB", 2**-20),
    Quantity("model/params", "parameters"),
    Quantity("inference/batch_1_seconds", "latency of one image", "ms", 1e3),
    Quantity("inference/batch_256_seconds", "latency of 256 images", "ms", 1e3),
)
QUANTITIES = {
    quantity.key: quantity
    for quantity in (
        *COSTS,
        Quantity("test/acc", "test accuracy", "%"),
        Quantity("best/val_acc", "validation accuracy", "%"),
        Quantity("test/loss", "test loss"),
        Quantity("val/loss", "validation loss"),
        Quantity("train/loss", "training loss"),
        Quantity("test/ece", "calibration error of the test split"),
        Quantity("compute/images_per_second", "training images per second"),
        Quantity("model/forward_flops", "FLOPs of one image", "MFLOP", 1e-6),
    )
}


# What depends on the machine, so that runs of two machines do not compare.
OF_THE_MACHINE = {cost.key for cost in COSTS} - {"compute/train_flops", "model/params"} | {"compute/images_per_second"}


def quantity(key: str) -> Quantity:
    return QUANTITIES.get(key, Quantity(key, key))


def short(value: float) -> str:
    """Three significant digits, or all digits before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" in text or "." not in text else text.rstrip("0").rstrip(".")


class Machine(NamedTuple):
    """What a run trained on. Machines whose devices have one name may still choose another precision."""

    device: str
    asked: str  # the setting of the precision, "auto" leaves it to the machine
    precision: str


@dataclass
class Arm:
    """One arm's finished runs. Every dict in `values` and the others are by seed."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)  # flat, without the seed
    choice: dict[str, Any] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=dict)  # column -> seed -> value
    texts: dict[str, list[str]] = field(default_factory=dict)  # column -> different values, sorted
    curves: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # (training FLOPs, val accuracy)
    correct: dict[int, NDArray[np.bool_]] = field(default_factory=dict)  # (TEST_IMAGES,)
    machines: dict[int, Machine] = field(default_factory=dict)
    kept: dict[str, set[int]] = field(default_factory=dict)  # column -> seeds that count, see `keep_one_machine`
    diverged: list[int] = field(default_factory=list)  # seeds whose training did not end

    def of(self, key: str) -> list[float]:
        """A column's values in the order of seeds; [] if it was not measured."""
        return [value for _, value in sorted(self.values.get(key, {}).items())]

    def mean(self, key: str) -> float | None:
        return statistics.fmean(self.of(key)) if self.of(key) else None

    @property
    def accuracy(self) -> float:
        """Mean test accuracy, a fraction."""
        return statistics.fmean(self.of("test/acc"))

    @property
    def n(self) -> int:
        return len(self.of("test/acc"))

    @property
    def patches(self) -> int | None:
        """Sequence length without a class token, or None where the settings do not say."""
        if not self.settings.get("model.patch_size"):
            return None
        side = self.settings.get("model.image_size", 32) // self.settings["model.patch_size"]
        return side**2


def read_arms(study: Study, rows: Sequence[Row]) -> list[Arm]:
    """The arms of a study that have finished runs, in the study's order. Rows of other arms and seeds are left out.

    Raises:
        UsageError: a row is damaged, a seed is there twice, or there is no finished run.
    """
    arms = {name: Arm(name) for name in study.arms}
    for row in rows:
        where = f"results.csv: arm {row.get('arm')}, seed {row.get('seed')}"
        check_row(row, where)
        if row["phase"] == "final" and row["arm"] in arms and int(row["seed"]) in study.seeds:
            read_row(row, arms[row["arm"]], int(row["seed"]), where)
        if row["arm"] in arms:  # tuning counts in what the arm came to be by
            note_texts(row, arms[row["arm"]])
    finished = [arm for arm in arms.values() if arm.n]
    if not finished:
        raise UsageError(f"results.csv: expected a finished run of {', '.join(study.arms)}, got none")
    for key in OF_THE_MACHINE:
        keep_one_machine(finished, key)
    return finished


def note_texts(row: Row, arm: Arm) -> None:
    for key in TEXTS:
        arm.texts[key] = sorted({*arm.texts.get(key, []), row.get(key) or ""} - {""})


def read_row(row: Row, arm: Arm, seed: int, where: str) -> None:
    if seed in arm.machines:
        raise UsageError(f"{where}: expected one final run of each seed, got two")
    for key in NUMBERS:
        if text := row.get(key):
            arm.values.setdefault(key, {})[seed] = float(text)
    arm.settings = {key: value for key, value in json.loads(row["settings"]).items() if key != "seed"}
    arm.choice = json.loads(row["choice"])
    asked = str(arm.settings.get("train.precision"))
    arm.machines[seed] = Machine(row.get("device") or "", asked, row.get("precision") or "")
    if not row.get("test/acc"):
        arm.diverged.append(seed)
    try:
        if row.get("curve"):
            arm.curves[seed] = [(float(x), float(y)) for x, y in json.loads(row["curve"])]
        if row.get("test/correct"):
            arm.correct[seed] = unpack(row["test/correct"])
    except (ValueError, TypeError) as error:
        raise UsageError(f"{where}: curve or test/correct cannot be read ({error!r})") from None
    right, accuracy = arm.correct.get(seed), arm.values.get("test/acc", {}).get(seed)
    if right is not None and (
        len(right) != TEST_IMAGES or accuracy is None or abs(right.mean() - accuracy) > 0.5 / TEST_IMAGES
    ):
        raise UsageError(f"{where}: expected {TEST_IMAGES} bits in test/correct, as many of them 1 as test/acc says")


def keep_one_machine(arms: Sequence[Arm], key: str) -> None:
    """Take out of the arms what of this quantity was measured on any machine but the one that measured it most often.

    Machines whose devices have one name may still choose another precision; that of arms which ask for one is no matter
    of the machine.
    """
    runs = [arm.machines[seed] for arm in arms for seed in arm.values["test/acc"] if seed in arm.values.get(key, {})]
    if not runs:
        return
    device = Counter(run.device for run in runs).most_common(1)[0][0]
    precisions = {
        asked: Counter(run.precision for run in runs if (run.device, run.asked) == (device, asked)).most_common(1)[0][0]
        for asked in {run.asked for run in runs if run.device == device}
    }
    for arm in arms:
        arm.kept[key] = {
            seed
            for seed, run in arm.machines.items()
            if run.device == device and run.precision == precisions.get(run.asked)
        }
        arm.values[key] = {seed: value for seed, value in arm.values.get(key, {}).items() if seed in arm.kept[key]}


def costs_of(arms: Sequence[Arm]) -> list[Quantity]:
    """What was measured in every run of every arm that it could be, in the order of `COSTS`: a mean over some would
    mislead."""

    def complete(cost: Quantity, arm: Arm) -> bool:
        finished = arm.values.get("test/acc", {}).keys()
        wanted = finished & arm.kept.get(cost.key, finished)
        return bool(wanted) and wanted <= arm.values.get(cost.key, {}).keys()

    return [cost for cost in COSTS if all(complete(cost, arm) for arm in arms)]


def common_seeds(key: str, arms: Sequence[Arm]) -> list[int]:
    """The seeds at which a column was measured in all these arms, sorted."""
    return sorted(set.intersection(*(set(arm.values.get(key, {})) for arm in arms)))


def spread(arms: Sequence[Arm], key: str) -> float:
    """The largest mean of an arm over the smallest."""
    means = [arm.mean(key) or 0.0 for arm in arms]
    return max(means) / min(means) if min(means) > 0 else math.inf


def differing(arms: Sequence[Arm]) -> list[str]:
    """The settings that make the arms different, without what was tuned."""
    tuned = {key for arm in arms for key in arm.choice}
    keys = dict.fromkeys(key for arm in arms for key in arm.settings if key not in tuned)
    return [key for key in keys if len({json.dumps(arm.settings.get(key)) for arm in arms}) > 1]
