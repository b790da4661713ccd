"""What trained configs reached and what it cost, from the rows of their studies.

A rung of the ladder is a config with a study of the same name, whose rows are in reports/<rung>/results.csv: its arm
multi_head is configs/<rung>.yaml, its arm one_head is configs/<rung>_one_head.yaml. Runs of single commands are in
reports/earlier.csv, in columns of the same names; they count as long as a config's study has no rows.
"""

import re
import statistics
import textwrap
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tables import Row, deviation, mean, paragraph, read, span, table

from vit.checks import UsageError
from vit.cli import parse
from vit.compute import count_params, train_flops, units_of
from vit.config import Config

LADDER = ("quickstart", "cpu_30min", "cpu_2h", "speedrun", "best")
NOT_YET = "not yet measured"


@dataclass(frozen=True)
class Measured:
    """The runs of one config. Accuracies are fractions of the test split, one a seed; minutes are the mean of a run."""

    accuracies: list[float]
    minutes: float | None
    unit: str  # "core-minutes" or "GPU-minutes"
    machine: str

    @property
    def accuracy(self) -> str:
        return " ± ".join([mean(self.accuracies), *filter(None, [deviation(self.accuracies)])])

    @property
    def cost(self) -> str:
        return "not noted" if self.minutes is None else f"{self.minutes:.3g} {self.unit}"


def config_of(root: Path, name: str) -> Config:
    return parse(Config, [f"--config={root / 'configs' / name}.yaml"])


def with_twins(root: Path) -> list[str]:
    """The rungs that there are, each followed by its one-head twin."""
    names = [name for rung in LADDER for name in (rung, f"{rung}_one_head")]
    return [name for name in names if (root / "configs" / f"{name}.yaml").exists()]


def measurable(root: Path) -> list[str]:
    """The ladder, then the configs that only earlier runs know."""
    return list(dict.fromkeys([*with_twins(root), *(row["config"] for row in read(root / "reports/earlier.csv"))]))


def measured(root: Path, name: str) -> list[Measured]:
    """What is known of a config, machine by machine where it was not one study; [] if it is not yet measured."""
    rung = name.removesuffix("_one_head")
    path = root / "reports" / rung / "results.csv"
    if path.exists():
        arm = "multi_head" if name == rung else "one_head"
        rows = [row for row in read(path) if row["phase"] == "final" and row["arm"] == arm]
        return [summary(rows)] if rows else []
    earlier = [row for row in read(root / "reports/earlier.csv") if row["config"] == name]
    return [summary(list(rows)) for _, rows in groupby(earlier, key=lambda row: row["device"])]


def summary(rows: list[Row]) -> Measured:
    """Means of the runs of one config; a seed that was run twice counts once in accuracy.

    Raises:
        UsageError: some ran on a GPU and some on a CPU, whose minutes have no common mean.
    """
    by_seed = {row["seed"]: float(row["test/acc"]) for row in rows}
    counts, units = zip(*(units_of(row["device"]) for row in rows), strict=True)
    if len(set(units)) > 1:
        raise UsageError(f"runs of one arm on a GPU and on a CPU: {', '.join(sorted({row['device'] for row in rows}))}")
    minutes = [
        count * float(row["compute/train_seconds"]) / 60
        for count, row in zip(counts, rows, strict=True)
        if row["compute/train_seconds"]
    ]
    return Measured(
        list(by_seed.values()),
        statistics.mean(minutes) if minutes else None,
        f"{units[0]}-minutes",
        " and ".join(sorted({machine_of(row) for row in rows})),
    )


def machine_of(row: Row) -> str:
    """E.g. `Intel Xeon, 1 thread, bfloat16`."""
    name = re.sub(r"\(R\)|\(TM\)| Processor|, threads: \d+$|, \d+ threads$", "", row["device"])
    count, unit = units_of(row["device"])
    return ", ".join([name, *([f"{count} thread{'s' * (count > 1)}"] if unit == "core" else []), row["precision"]])


def pflop(config: Config) -> str:
    """PFLOP of a whole training, in closed form; the last incomplete batch of an epoch is left out."""
    images = config.data.train_images or 50000 - config.data.val_images
    seen = config.train.epochs * (images - images % config.train.batch_size)
    return f"{seen * train_flops(config.model) / 1e15:.3g}"


def results(root: Path) -> str:
    """One line of each config, and of each machine where it was not one study."""
    columns = ["config", "heads", "parameters", "epochs", "training PFLOP", "core-minutes of training"]
    columns += ["test accuracy, %", "n (seeds)", "machine"]
    lines = []
    for name in measurable(root):
        config = config_of(root, name)
        cells = [f"`{name}`", str(config.model.heads), f"{count_params(config.model):,}", str(config.train.epochs)]
        cells.append(pflop(config))
        known = [
            [each.cost.removesuffix(" core-minutes"), each.accuracy, str(len(each.accuracies)), each.machine]
            for each in measured(root, name)
        ]
        lines += [[*cells, *more] for more in known or [["", NOT_YET, "", ""]]]
    return table(columns, lines)


def header(root: Path, name: str) -> list[str]:
    """The comment lines of a config after the first, which is its command; [] if it is not yet measured."""
    lines = []
    for each in measured(root, name):
        n, points = len(each.accuracies), deviation(each.accuracies)
        sure = f"n = {n} seed{'s' * (n > 1)}" + (f", sd {points} points" if points else "")
        lines += textwrap.wrap(
            f"{mean(each.accuracies)} % test accuracy ({sure}), {pflop(config_of(root, name))} PFLOP, "
            f"{each.cost} of training on {each.machine}.",
            118,
            break_on_hyphens=False,
        )
    return [f"# {line}" for line in lines]


def with_header(root: Path, name: str) -> str:
    """A config's text, with its header as it should be."""
    first, *rest = (root / "configs" / f"{name}.yaml").read_text().splitlines()
    lines = header(root, name)
    while lines and rest and rest[0].startswith("#"):
        rest.pop(0)
    return "\n".join([first, *lines, *rest]) + "\n"


def accuracy(root: Path, name: str) -> str:
    """Mean test accuracy for the middle of a sentence."""
    known = measured(root, name)
    return f"{mean(known[0].accuracies)} %" if known else NOT_YET


def cost(root: Path, name: str) -> str:
    known = measured(root, name)
    return known[0].cost if known else NOT_YET


def fast_path(root: Path) -> str:
    plain, fast = (fast_path_arm(root, arm, "test/acc") for arm in ("plain", "fast"))
    return paragraph(f"""
        **Fast is not less accurate.** Four epochs of the quickstart's model with two heads, as plain PyTorch would
        train it (float32, whole batches, not compiled), reach {mean(plain)} %, with everything that makes it fast
        {mean(fast)} % (test, n = {span([len(plain), len(fast)], "d")} seeds each, standard deviations
        {deviation(plain)} and {deviation(fast)} points): `python compare.py configs/studies/fast_path.yaml`, rows in
        [reports/fast_path/results.csv](reports/fast_path/results.csv).""")


def validation_spread(root: Path) -> str:
    """Of a short training's validation accuracy over seeds, in points, smallest to largest of the arms."""
    arms = [fast_path_arm(root, arm, "best/val_acc") for arm in ("plain", "fast")]
    return span([100 * statistics.stdev(accuracies) for accuracies in arms], ".2f")


def seed_spread(root: Path) -> str:
    """Of a short training's test accuracy over seeds, in points, smallest to largest of the arms, and its level."""
    arms = [fast_path_arm(root, arm, "test/acc") for arm in ("plain", "fast")]
    points = span([100 * statistics.stdev(accuracies) for accuracies in arms], ".2f")
    level = span([100 * statistics.mean(accuracies) for accuracies in arms], ".1f")
    return f"{points} points at {level} % (n = {span([len(accuracies) for accuracies in arms], 'd')} seeds an arm)"


def fast_path_arm(root: Path, arm: str, key: str) -> list[float]:
    """A measured column of the study's runs."""
    return [float(row[key]) for row in read(root / "reports/fast_path/results.csv") if row["arm"] == arm]


def time_to_80(root: Path) -> str:
    rows = [row for row in read(root / "reports/earlier.csv") if row["config"] == "speedrun_cpu"]
    accuracies, augmented, seconds = (
        [float(row[key]) for row in rows] for key in ("test/acc", "test/acc/augmented", "compute/train_seconds")
    )
    machines = " and ".join(sorted({machine_of(row) for row in rows}))
    return paragraph(f"""
        **Time to 80 %** test accuracy on {machines}, of whole trainings (`python benchmarks/speedrun.py`, seeds
        {", ".join(row["seed"] for row in rows)}): {", ".join(mean([each]) for each in accuracies)} %, mean
        **{mean(accuracies)} % in {statistics.mean(seconds):.0f} seconds and
        {pflop(config_of(root, "speedrun_cpu"))} PFLOP**, compilation and evaluation outside
        the clock; with test-time augmentation (ten views, which the seconds leave out)
        {mean(augmented)} %.""")
