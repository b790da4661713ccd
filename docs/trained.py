"""What trained configs reached and what it cost, from the rows of their studies.

A rung of the ladder is a config with a study of the same name, whose rows are in reports/<rung>/results.csv: its arm
multi_head is configs/<rung>.yaml, its arm one_head, where there is one, configs/<rung>_one_head.yaml.
"""

import re
import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path

import studies
from tables import Row, ahead, deviation, mean, paragraph, table

from vit.checks import UsageError
from vit.cli import parse
from vit.compute import count_params, units_of
from vit.config import Config
from vit.window import train_flops

LADDER = ("quickstart", "cpu_30min", "cpu_1h", "cpu_2h", "speedrun", "best", "speedrun_cpu")
NOT_YET = "not yet measured"


# What the ladder is meant to reach: words for the budget, the rung, and test accuracy in percent.
AIMS = (
    ("in 5 minutes on two CPU cores", "speedrun_cpu", 75),
    ("in 30 minutes on two CPU cores", "cpu_30min", 84),
    ("in 2 hours on two CPU cores", "cpu_2h", 88),
    ("with 1 PFLOP of training", "cpu_1h", 90),
    ("with 5 PFLOP of training", "speedrun", 94),
    ("on one GPU", "best", 96.5),
)


@dataclass(frozen=True)
class Measured:
    """The runs of one config. Accuracies are fractions of the test split, one a seed; minutes are the mean of a run."""

    accuracies: list[float]
    minutes: float
    unit: str  # "core-minutes" or "GPU-minutes"
    seconds: float  # the mean by the clock
    machine: str

    @property
    def accuracy(self) -> str:
        spread = f" ± {deviation(self.accuracies):.2f}" if len(self.accuracies) > 1 else ""
        return mean(self.accuracies) + spread

    @property
    def cost(self) -> str:
        return f"{self.minutes:.3g} {self.unit}"


def config_of(root: Path, name: str) -> Config:
    return parse(Config, [f"--config={root / 'configs' / name}.yaml"])


def with_twins(root: Path) -> list[str]:
    """The rungs that there are, each followed by its one-head twin if it has one."""
    names = [name for rung in LADDER for name in (rung, f"{rung}_one_head")]
    return [name for name in names if (root / "configs" / f"{name}.yaml").exists()]


def rows_of(root: Path, name: str) -> list[Row]:
    """The final runs of a config that did not diverge; [] if it is not yet measured.

    Raises:
        UsageError: they were trained with other settings than the config has now.
    """
    rung = name.removesuffix("_one_head")
    if not (root / f"reports/{rung}/results.csv").exists():
        return []
    arm = "multi_head" if name == rung else "one_head"
    rows = studies.results(root, rung).rows.values()
    return [row for row in rows if (row["phase"], row["arm"]) == ("final", arm) and row["test/acc"]]


def measured(root: Path, name: str) -> Measured | None:
    """What is known of a config; None if it is not yet measured."""
    rows = rows_of(root, name)
    return summary(rows) if rows else None


def summary(rows: list[Row]) -> Measured:
    """Means of the runs of one config.

    Raises:
        UsageError: some ran on a GPU and some on a CPU, or one on several devices: their minutes have no mean.
    """
    counts, units = zip(*(units_of_row(row) for row in rows), strict=True)
    if len(set(units)) > 1:
        raise UsageError(f"runs of one arm on a GPU and on a CPU: {', '.join(sorted({row['device'] for row in rows}))}")
    seconds = [float(row["compute/train_seconds"]) for row in rows]
    minutes = [count * each / 60 for count, each in zip(counts, seconds, strict=True)]
    return Measured(
        [float(row["test/acc"]) for row in rows],
        statistics.mean(minutes),
        f"{units[0]}-minutes",
        statistics.mean(seconds),
        " and ".join(sorted({machine_of(row) for row in rows})),
    )


def units_of_row(row: Row) -> tuple[int, str]:
    units = units_of(row["device"])
    if units is None:
        raise UsageError(f"a run that went from one device to another has no minutes: {row['device']}")
    return units


def machine_of(row: Row) -> str:
    """E.g. `Intel Xeon, 1 thread, bfloat16`."""
    name = re.sub(r"\(R\)|\(TM\)| Processor|, threads: \d+$|, \d+ threads$", "", row["device"])
    count, unit = units_of_row(row)
    return ", ".join([name, *([f"{count} thread{'s' * (count > 1)}"] if unit == "core" else []), row["precision"]])


def pflop(config: Config) -> str:
    """PFLOP of a whole training, in closed form; the last incomplete batch of an epoch is left out."""
    images = config.data.train_images or 50000 - config.data.val_images
    steps = config.train.epochs * (images // config.train.batch_size)
    return f"{train_flops(config, steps, steps) / 1e15:.3g}"


def results(root: Path) -> str:
    """One line of each config."""
    columns = ["config", "heads", "parameters", "epochs", "training PFLOP", "core-minutes of training"]
    columns += ["test accuracy, %", "n (seeds)", "machine"]
    lines = []
    for name in with_twins(root):
        config, known = config_of(root, name), measured(root, name)
        cells = [f"`{name}`", str(config.model.heads), f"{count_params(config.model):,}", str(config.train.epochs)]
        cells.append(pflop(config))
        if known is None:
            cells += ["", NOT_YET, "", ""]
        else:
            minutes = known.cost.removesuffix(" core-minutes")
            cells += [minutes, known.accuracy, str(len(known.accuracies)), known.machine]
        lines.append(cells)
    return table(columns, lines)


def aims(root: Path) -> str:
    """What the ladder is meant to reach, and what it reached."""
    lines = []
    for budget, name, percent in AIMS:
        cells = [f"{percent} % {budget}", f"`{name}`", f"{pflop(config_of(root, name))}"]
        known = measured(root, name)
        reached = ["", NOT_YET, "", ""]
        if known:
            reached = [f"{known.seconds / 60:.1f}", known.accuracy, str(len(known.accuracies)), known.machine]
        lines.append([*cells, *reached])
    return table(["aim", "config", "PFLOP", "minutes of training", "test accuracy, %", "n (seeds)", "machine"], lines)


def header(root: Path, name: str) -> list[str]:
    """The comment lines of a config after the first, which is its command."""
    known, cost = measured(root, name), f"{pflop(config_of(root, name))} PFLOP"
    if known is None:
        return [f"# test accuracy {NOT_YET}, {cost}."]
    n = len(known.accuracies)
    sure = f"n = {n} seeds, sd {deviation(known.accuracies):.2f} points" if n > 1 else "n = 1 seed"
    text = f"{mean(known.accuracies)} % test accuracy ({sure}), {cost}, {known.cost} of training on {known.machine}."
    return [f"# {line}" for line in textwrap.wrap(text, 118, break_on_hyphens=False)]


def with_header(root: Path, name: str) -> str:
    """A config's text, with its header as it should be."""
    first, *rest = (root / "configs" / f"{name}.yaml").read_text().splitlines()
    while rest and rest[0].startswith("#"):
        rest.pop(0)
    return "\n".join([first, *header(root, name), *rest]) + "\n"


def accuracy(root: Path, name: str) -> str:
    """Mean test accuracy for the middle of a sentence."""
    known = measured(root, name)
    return f"{mean(known.accuracies)} %" if known else NOT_YET


def time_to_80(root: Path) -> str:
    """Of `speedrun_cpu`.

    Raises:
        UsageError: it does not reach that, or is not yet measured.
    """
    known = measured(root, "speedrun_cpu")
    if known is None:
        raise UsageError(f"configs/speedrun_cpu.yaml: {NOT_YET}")
    ahead("80 %", statistics.mean(known.accuracies) / 0.8)
    each = ", ".join(mean([accuracy]) for accuracy in known.accuracies)
    return paragraph(f"""
        **Time to 80 %** test accuracy on {known.machine}, of whole trainings (`python compare.py
        configs/studies/speedrun_cpu.yaml`): {each} %, mean **{mean(known.accuracies)} % in {known.seconds:.0f} seconds
        and {pflop(config_of(root, "speedrun_cpu"))} PFLOP**, compilation and evaluation outside the clock.""")
