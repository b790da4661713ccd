"""`results.csv` of a study: one tidy row for every finished run."""

import base64
import csv
import io
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vit.checks import UsageError, check, one_line
from vit.config import Config
from vit.files import atomic
from vit.run_folder import material
from vit.study import Run, Study

# Which run it is, then what its summary says in numbers and in texts.
IDENTITY = ("study", "phase", "arm", "choice", "seed")
NUMBERS = (
    "best/val_acc", "test/acc", "val/loss", "test/loss", "test/ece", "train/loss", "model/params",
    "model/forward_flops", "compute/train_flops", "compute/train_seconds", "compute/images_seen",
    "compute/images_per_second",
    "inference/batch_1_seconds", "inference/batch_256_seconds", "compute/peak_memory_bytes", "compute/energy_joules",
)  # fmt: skip
TEXTS = ("attention/backend", "precision", "device", "torch", "commit")
# Then which test images were right, as bits in base64, [training FLOPs, validation accuracy] of every evaluation, and
# all settings as JSON.
LONG = ("test/correct", "curve", "settings")
COLUMNS = (*IDENTITY, *NUMBERS, *TEXTS, *LONG)

Row = dict[str, str]


def pack(correct: list[bool]) -> str:
    """Truth values as bits in base64, a hundredth of the text that a table of them would be."""
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def unpack(text: str) -> NDArray[np.bool]:
    """The values of `pack`, with false ones after them up to a multiple of 8.

    Raises:
        ValueError: the text is no base64.
    """
    return np.unpackbits(np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)).astype(bool)


def check_row(row: Row, where: str) -> None:
    """Refuse a damaged row.

    Raises:
        UsageError: phase or seed is none, choice or settings cannot be read, or a measurement is no number.
    """
    if row.get("phase") not in ("tuning", "final") or not re.fullmatch(r"0|[1-9]\d*", row.get("seed") or ""):
        raise UsageError(f"{where}: expected a phase, tuning or final, and a number as seed")
    for key in ("choice", "settings"):
        try:
            value = json.loads(row[key])
        except (ValueError, TypeError, KeyError):
            value = None
        check(isinstance(value, dict), f"{where}: {key}", "settings as JSON", row.get(key))
    for key in NUMBERS:
        if text := row.get(key):
            fits = is_number(text) and not (key.endswith("acc") and not 0 <= float(text) <= 1)
            check(fits, f"{where}: {key}", f"a number{' from 0 to 1' * key.endswith('acc')}", text)


def is_number(text: str) -> bool:
    """Whether a text is a number, neither NaN nor infinite."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


class Results:
    """The rows by their run's key, and the file that holds them.

    Raises:
        UsageError: the file has other columns or a damaged row, or a claim of the study is about no column.
    """

    def __init__(self, path: Path, study: Study) -> None:
        self.path, self.study = path, study
        self.rows: dict[tuple[str, ...], Row] = {}
        for index, claim in enumerate(study.claims):
            check(claim.metric in NUMBERS, f"claims[{index}].metric", f"one of {', '.join(NUMBERS)}", claim.metric)
        if not path.exists():
            return
        try:
            with path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: cannot be read ({one_line(error)})") from None
        for row in rows:
            if row.keys() != set(COLUMNS):
                odd = ", ".join(str(key) for key in row.keys() ^ set(COLUMNS))
                raise UsageError(f"{path}: these columns are missing or unknown: {odd}")
            check_row(row, f"{path}: arm {row['arm']}, seed {row['seed']}")
            choice = row["choice"] if row["phase"] == "tuning" else ""
            key = row["phase"], row["arm"], choice, row["seed"]
            if key in self.rows:
                raise UsageError(f"{path}: arm {row['arm']}, seed {row['seed']}: expected one row of each run, got two")
            self.rows[key] = row

    def missing(self, runs: list[Run]) -> list[Run]:
        """Those that have no row yet.

        Raises:
            UsageError: a row is of a run with other settings than the study now asks for.
        """
        for run in runs:
            if run.key in self.rows:
                self.check(self.rows[run.key], run)
        return [run for run in runs if run.key not in self.rows]

    def check_rows(self) -> None:
        """Refuse rows that are not the study's: a page would present them under settings that they did not have.

        Raises:
            UsageError: a row of an arm and point of the study was trained with other settings.
        """
        for row in self.rows.values():
            if row["arm"] not in self.study.arms:
                continue
            choice, points = json.loads(row["choice"]), self.study.points(row["arm"])
            if choice in points:
                point = points[points.index(choice)]  # as the study file writes it, which may say 1 for 1.0
                self.check(row, self.study.run(row["phase"], row["arm"], point, int(row["seed"])))
            elif row["phase"] == "final":
                raise UsageError(f"{self.path}: arm {row['arm']}: expected a choice among {points}, got {choice}")
        if all(run.key in self.rows for run in self.study.tuning_runs()):
            self.check_choices()

    def check_choices(self) -> None:
        """Refuse final rows of another choice than that of the tuning rows."""
        chosen = self.chosen()
        for row in self.rows.values():
            best, choice = chosen.get(row["arm"]), json.loads(row["choice"])
            if row["phase"] == "final" and best not in (None, choice):
                raise UsageError(
                    f"{self.path}: arm {row['arm']}, seed {row['seed']} was trained with {choice}, but the tuning rows "
                    f"choose {best}"
                )

    def check(self, row: Row, run: Run) -> None:
        saved = material(Config()) | json.loads(row["settings"])
        for key, value in material(run.config).items():
            if saved[key] != value:
                raise UsageError(
                    f"{self.path}: arm {run.arm}, seed {run.seed} was trained with {key} {saved[key]!r}, not "
                    f"{value!r} as the study now says; rename the arm, or remove its rows and run folders"
                )

    def add(
        self,
        run: Run,
        summary: dict[str, Any],
        correct: list[bool] | None = None,
        curve: list[tuple[int, float]] | None = None,
    ) -> None:
        """Add the row of a finished run, in a file that is whole at every moment and sorted.

        Args:
            summary: the run's last values; none of a training that diverged.
            correct: of every test image, whether it was classified right.
            curve: training FLOPs and validation accuracy of every evaluation.
        """
        identity = (self.study.name, run.phase, run.arm, json.dumps(run.choice), str(run.seed))
        if "compute/images_seen" in summary:  # over the whole training, where the run's own metric is of its last steps
            rate = summary["compute/images_seen"] / summary["compute/train_seconds"]
            summary = summary | {"compute/images_per_second": rate}
        measured = ["" if summary.get(key) is None else str(summary[key]) for key in (*NUMBERS, *TEXTS)]
        long = (pack(correct) if correct else "", json.dumps(curve) if curve else "", json.dumps(material(run.config)))
        self.rows[run.key] = dict(zip(COLUMNS, (*identity, *measured, *long), strict=True))
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows[key] for key in sorted(self.rows, key=lambda key: (*key[:-1], int(key[-1]))))
        with atomic(self.path) as part:
            part.write_text(text.getvalue())

    def chosen(self) -> dict[str, dict[str, Any]]:
        """Of each arm the point of the grid with the best mean validation accuracy; {} where nothing is tuned."""
        tried: dict[str, dict[str, list[float]]] = {arm: {} for arm in self.study.arms}
        for run in self.study.tuning_runs():
            accuracy = float(self.rows[run.key]["best/val_acc"] or "-inf")  # empty where the training diverged
            tried[run.arm].setdefault(json.dumps(run.choice), []).append(accuracy)
        return {
            arm: json.loads(max(points, key=lambda point: statistics.mean(points[point]), default="{}"))
            for arm, points in tried.items()
        }
