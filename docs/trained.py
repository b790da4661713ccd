"""What trained configs reached and what it cost, from the rows of their studies.

A rung of the ladder is a config with a study of the same name, whose rows are in reports/<rung>/results.csv: its arm
multi_head is configs/<rung>.yaml, its arm one_head, where there is one, configs/<rung>_one_head.yaml. The two plain
configs are arms of the heads study.
"""

import re
import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path

import studies
from tables import Row, ahead, deviation, mean, paragraph, read, table

from vit.checks import UsageError
from vit.cli import parse
from vit.compute import count_params, units_of
from vit.config import Config
from vit.window import train_flops

LADDER = ("quickstart", "speedrun_cpu", "cpu_30min", "cpu_2h", "speedrun", "best")
# What some are meant to reach.
AIMS = {
    "speedrun_cpu": "75 % in 5 minutes",
    "cpu_30min": "84 % in 30 minutes; 90 % with 1 PFLOP",
    "cpu_2h": "88 % in 2 hours",
    "speedrun": "94 % with 5 PFLOP",
    "best": "96.5 % on one GPU",
}
PLAIN = {"multi_head": "heads_4", "one_head": "heads_1"}
NOT_YET = "not yet measured"


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
    def reached(self) -> str:
        return f"{self.accuracy} ({len(self.accuracies)})"

    @property
    def cost(self) -> str:
        return f"{self.minutes:.3g} {self.unit}"


def config_of(root: Path, name: str) -> Config:
    return parse(Config, [f"--config={root / 'configs' / name}.yaml"])


def there_is(root: Path, name: str) -> bool:
    return (root / "configs" / f"{name}.yaml").exists()


def with_twins(root: Path) -> list[str]:
    """The rungs that there are, each followed by its one-head twin if it has one."""
    names = [name for rung in LADDER for name in (rung, f"{rung}_one_head")]
    return [name for name in names if there_is(root, name)]


def arm_of(name: str) -> tuple[str, str]:
    """The study and the arm that a config is."""
    if name in PLAIN:
        return "heads", PLAIN[name]
    rung = name.removesuffix("_one_head")
    return rung, "multi_head" if name == rung else "one_head"


def rows_of(root: Path, name: str) -> list[Row]:
    """The final runs of a config that did not diverge; [] if it is not yet measured.

    Raises:
        UsageError: they were trained with other settings than the study has now.
    """
    study, arm = arm_of(name)
    if not (root / f"reports/{study}/results.csv").exists():
        return []
    rows = studies.results(root, study).rows.values()
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
    """The ladder: a line for each rung, with its twin, and the machines that trained them."""
    columns = ["config", "aim", "width x depth", "heads", "parameters", "epochs", "PFLOP", "training"]
    lines = []
    machines: dict[str, list[str]] = {}
    for rung in (rung for rung in LADDER if there_is(root, rung)):
        config, twin = config_of(root, rung), f"{rung}_one_head"
        known, ones = measured(root, rung), measured(root, twin)
        model = config.model
        cells = [f"`{rung}`", AIMS.get(rung, ""), f"{model.dim} x {model.depth}", str(model.heads)]
        cells += [f"{count_params(model):,}", str(config.train.epochs), pflop(config)]
        cells += [known.cost, known.reached] if known else ["", NOT_YET]
        cells.append(ones.reached if ones else NOT_YET * there_is(root, twin))
        lines.append(cells)
        for each in (known, ones):
            if each:
                names = machines.setdefault(each.machine, [])
                names += [f"`{rung}`"] * (f"`{rung}`" not in names)
    where = "; ".join(f"{machine} ({', '.join(names)})" for machine, names in machines.items())
    columns += ["test accuracy, % (n)", "its one-head twin, % (n)"]
    return f"{table(columns, lines)}\n\n{paragraph(f'Trained on {where}.')}"


def beside_published(root: Path) -> str:
    """Rungs with many heads among published ViTs, by training compute: 2 FLOPs a multiply-accumulate, a backward pass
    twice a forward one."""
    lines = []
    for row in read(root / "reports/recipe/published.csv"):
        flops = 3 * 2 * int(row["forward_macs"]) * 50000 * int(row["passes"])
        millions = f"{int(row['parameters']) / 1e6:.1f}"
        lines.append((flops / 1e15, [row["model"], millions, row["passes"], f"{100 * float(row['test_acc']):g}"]))
    for rung in (rung for rung in LADDER if there_is(root, rung)):
        if known := measured(root, rung):
            config = config_of(root, rung)
            millions = f"{count_params(config.model) / 1e6:.1f}"
            cells = [f"**`{rung}`**", millions, str(config.train.epochs), known.reached]
            lines.append((float(pflop(config)), cells))
    columns = ["model", "million parameters", "passes over the images", "test accuracy, % (n)", "training PFLOP"]
    return table(columns, [[*cells, f"{cost:.3g}"] for cost, cells in sorted(lines, key=lambda line: line[0])])


def header(root: Path, name: str) -> list[str]:
    """The comment lines of a config after the first, which is its command."""
    rows, cost = rows_of(root, name), f"{pflop(config_of(root, name))} PFLOP"
    if not rows:
        return [f"# test accuracy {NOT_YET}, {cost}."]
    accuracies = [float(row["test/acc"]) for row in rows]
    sure = f"n = {len(rows)} seeds, sd {deviation(accuracies):.2f} points" if len(rows) > 1 else "n = 1 seed"
    known = summary([row for row in rows if name not in PLAIN or units_of_row(row)[1] == "core"])
    how = f"{known.cost} of training on {known.machine}"
    if len(known.accuracies) < len(rows):
        how += " (other seeds on a GPU; configs/studies/heads.yaml)"
    text = f"{mean(accuracies)} % test accuracy ({sure}), {cost}, {how}."
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


def past_80(root: Path) -> str:
    """How long a whole training of `speedrun_cpu` takes, which ends above 80 %.

    Raises:
        UsageError: it does not reach that, or is not yet measured.
    """
    known = measured(root, "speedrun_cpu")
    if known is None:
        raise UsageError(f"configs/speedrun_cpu.yaml: {NOT_YET}")
    ahead("past 80 %", statistics.mean(known.accuracies) / 0.8)
    each = ", ".join(mean([accuracy]) for accuracy in known.accuracies)
    return paragraph(f"""
        **A whole training past 80 %** on {known.machine} (`python compare.py configs/studies/speedrun_cpu.yaml`):
        {each} % test accuracy, mean **{mean(known.accuracies)} % in {known.seconds:.0f} seconds and
        {pflop(config_of(root, "speedrun_cpu"))} PFLOP**, compilation and evaluation outside the clock.""")
