"""A study's page says what its rows say and no more, is the same bytes every time, and needs nothing but itself."""

import base64
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vit.checks import UsageError
from vit.report import drawing, write_report
from vit.study import Study
from vit.study_file import load_study

ROOT = Path(__file__).parents[1]
SAVE = drawing.save

# How far a second arm is from its gain, seed by seed: whole test images, which cancel.
NOISE = [0.0004, -0.0003, 0.0001, -0.0002, 0.0003, -0.0004, 0.0002, -0.0001]


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts as files take seconds, and one test is about them."""
    monkeypatch.setattr(drawing, "save", lambda *_: None)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """A study of one head and four over eight seeds; keys of its file can be overridden."""

    def study(**changes: Any) -> Study:
        content = {
            "name": "heads",
            "title": "One head or four?",
            "base": str(ROOT / "configs/quickstart.yaml"),
            "seeds": list(range(8)),
            "arms": {"one": {"model.heads": 1}, "four": {"model.heads": 4}},
        }
        (tmp_path / "heads.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))
        return load_study(str(tmp_path / "heads.yaml"))

    return study


def make_rows(study: Study, gains: dict[str, float], seeds: int = 8) -> list[dict[str, str]]:
    """Rows of each arm, whose accuracy is 0.75 plus its gain plus noise."""
    rows = []
    for index, (arm, gain) in enumerate(gains.items()):
        for seed in range(seeds):
            accuracy = round(0.75 + seed / 1000 + gain + (NOISE[seed] if index else 0), 4)
            right = np.arange(10000) < round(accuracy * 10000)
            settings = {"seed": seed, "data.val_images": 5000, "model.patch_size": 4, **study.base_settings}
            row: dict[str, Any] = {
                "study": study.name,
                "phase": "final",
                "arm": arm,
                "choice": "{}",
                "seed": seed,
                "best/val_acc": accuracy,
                "test/acc": accuracy,
                "compute/train_flops": 24_000_000_000_000,
                "compute/train_seconds": 200 * (1.2 if index else 1) + seed,
                "compute/peak_memory_bytes": 2**30,
                "model/params": 207946,
                "device": "Some CPU, threads: 1",
                "torch": "2.14.1",
                "commit": "0123456789ab",
                "test/correct": base64.b64encode(np.packbits(right).tobytes()).decode(),
                "curve": json.dumps([[12_000_000_000_000, 0.6], [24_000_000_000_000, accuracy]]),
                "settings": json.dumps(settings | study.arms.get(arm, {})),
            }
            rows.append({key: str(value) for key, value in row.items()})
    return rows


def text_of(page: Path) -> str:
    """What people read of a page, in single spaces."""
    body = page.read_text().split("<main>")[1].split("</main>")[0]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def table_row(page: Path, section: str, head: str) -> list[str]:
    """The cells of a table's row by their text."""
    part = page.read_text().split(f"<h2>{section}</h2>")[1].split("</section>")[0]
    for row in re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL):
        cells = [
            unescape(re.sub(r"<[^>]*>", "", cell)).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)
        ]
        if cells[0] == head:
            return cells
    raise AssertionError(f"no row {head} in {section}")


def claim(**changes: Any) -> dict[str, Any]:
    fixed = {"aspect": "cost", "claim": "many heads are dearer", "test": "seconds", "comparison": "four against one"}
    return fixed | {"metric": "compute/train_seconds", "expects": "more"} | changes


def test_a_real_effect_is_found_with_its_numbers(make: Any, tmp_path: Path) -> None:
    study = make()
    page = write_report(study, make_rows(study, {"one": 0.0, "four": 0.02}), tmp_path)
    assert re.search(
        r"four has a higher test accuracy than one: \+2\.00 points \(95 % interval .*, n = 8", text_of(page)
    )
    _, of, n, points, interval, p, reading, seconds, mcnemar = table_row(page, "Comparisons", "four against one")
    assert (of, n, points, reading) == ("four minus one", "8", "+2.00", "▲ higher")
    low, high = (float(bound) for bound in interval.split(" to "))
    assert 1.96 < low < 2.0 < high < 2.04
    assert p == "0.008"  # 2 / 2^8, and one comparison for Holm
    assert float(seconds.split()[0]) == pytest.approx((240 + 3.5) / (200 + 3.5), abs=0.005)
    assert mcnemar == "1,600 against 0 in 8 seeds, p < 0.001"  # 200 more images of each seed are right, the same before


def test_no_effect_is_called_equivalent_and_noise_undecided(make: Any, tmp_path: Path) -> None:
    study = make()
    page = write_report(study, make_rows(study, {"one": 0.0, "four": 0.0}), tmp_path)
    assert "four and one are equivalent in test accuracy within ±0.5 points: 0.00 points" in text_of(page)
    assert table_row(page, "Comparisons", "four against one")[6] == "= equivalent"
    assert "Equivalence is judged for each comparison alone, without adjustment" in text_of(page)
    study = make(margin=0.01)  # the noise has a standard deviation of 0.03 points
    page = write_report(study, make_rows(study, {"one": 0.0, "four": 0.0}), tmp_path)
    assert text_of(page).startswith("One head or four? Undecided: ")
    assert table_row(page, "Comparisons", "four against one")[6] == "? undecided"


def test_a_difference_that_was_found_may_not_matter(make: Any, tmp_path: Path) -> None:
    study = make(margin=3.0)
    page = write_report(study, make_rows(study, {"one": 0.0, "four": 0.02}), tmp_path)
    assert re.search(r"higher test accuracy than one: .*, within the margin of ±3 points\.", text_of(page))
    assert table_row(page, "Comparisons", "four against one")[6] == "▲ higher, within the margin"
    arms = {"one": {"model.heads": 1}, "two": {"model.heads": 2}, "four": {"model.heads": 4}}
    study = make(arms=arms, margin=3.0, headline="two against one")
    page = write_report(study, make_rows(study, {"one": 0.0, "two": 0.02, "four": 0.1}), tmp_path)
    assert re.search(
        r"two against one: 77\.35 % against 75\.35 %, \+2\.00 points .*, higher, but within ±3 points\. Test accuracy",
        text_of(page),
    )
    assert "in 2 of 2 comparisons (1 of them by less than the margin of ±3 points)." in text_of(page)


def test_claims_are_judged_one_by_one(make: Any, tmp_path: Path) -> None:
    claims = [
        claim(aspect="time"),
        claim(aspect="less time", expects="less"),
        claim(aspect="parameters", metric="model/params"),
        claim(aspect="accuracy", metric="test/acc", expects="same"),
        claim(aspect="latency", metric="inference/batch_1_seconds"),
    ]
    study = make(claims=claims)
    page = write_report(study, make_rows(study, {"one": 0.0, "four": 0.0}), tmp_path)
    rows = {each["aspect"]: table_row(page, "Claims", each["aspect"]) for each in claims}
    assert {aspect: row[2] for aspect, row in rows.items()} == {
        "time": "✓ supported",
        "less time": "✗ refuted",
        "parameters": "✗ refuted, by construction",  # of a fact, equal to the last one
        "accuracy": "✓ supported",
        "latency": "? undecided",
    }
    assert rows["time"][3].startswith("+19.7 %")  # 40 of 203.5 seconds
    assert rows["latency"][3] == "not measured"


def test_seconds_of_two_machines_are_not_compared(make: Any, tmp_path: Path) -> None:
    study = make(claims=[claim()])
    rows = make_rows(study, {"one": 0.0, "four": 0.0})
    for row in rows:
        if row["arm"] == "four":
            row["device"] = "Some other CPU, threads: 1"
    page = write_report(study, rows, tmp_path)
    assert table_row(page, "Claims", "cost")[2:5] == ["? undecided", "not measured", "not measured"]
    comparison = table_row(page, "Comparisons", "four against one")
    assert (comparison[2], comparison[7]) == ("8", "")  # accuracies are, the training time is not
    assert "Which should I choose?" not in text_of(page)
    told = text_of(page).partition("different machines: ")[2]
    assert told.startswith("Some CPU, threads: 1 (8 runs); Some other CPU, threads: 1 (8 runs). What depends on the")
    assert " machine is of one in every mean and picture: training time, peak memory of Some CPU, threads: 1" in told
    assert "Pairs of two machines: “four against one”, seeds 0 to 7." in told
    specs = specs_of(page)
    assert {name for name in specs if name.startswith("cost_")} == {"cost_train_flops"}
    assert 'id="accuracy" data-spec="accuracy_train_flops"' in page.read_text()
    assert "accuracy_train_seconds" not in specs
    assert specs["accuracy_train_flops"]["datasets"]["steps_train_flops"] != []


def test_seconds_are_compared_at_the_seeds_of_one_machine(make: Any, tmp_path: Path) -> None:
    study = make(claims=[claim()])
    rows = make_rows(study, {"one": 0.0, "four": 0.0})
    for row in rows:
        if row["arm"] == "four" and row["seed"] == "7":
            row["device"], row["compute/train_seconds"] = "Some slow CPU, threads: 1", "99999"
    page = write_report(study, rows, tmp_path)
    assert table_row(page, "Claims", "cost")[3].startswith("+19.7 %")  # 40 of 203 seconds
    assert table_row(page, "Comparisons", "four against one")[7] == "1.20 times"
    assert re.fullmatch(r"Some CPU, threads: 1 \S+ .n = 7.", table_row(page, "Comparisons", "four against one")[9])
    points = specs_of(page)["cost_train_seconds"]["datasets"]["ratios_train_seconds"]
    assert [(point["seeds"], point["ratio"]) for point in points] == [("8", "1.000"), ("7", "1.197")]


def test_each_cost_is_of_the_machine_that_measured_it_most(make: Any, tmp_path: Path) -> None:
    study = make()
    rows = make_rows(study, {"one": 0.0, "four": 0.0})
    for row in rows:
        if int(row["seed"]) < 5:  # most runs, but without their memory
            row["device"], row["compute/peak_memory_bytes"] = "Some GPU", ""
    page = write_report(study, rows, tmp_path)
    costs = {title: table_row(page, "Arms", "one")[at] for at, title in enumerate(table_row(page, "Arms", "arm"))}
    assert (costs["training time (s)"], costs["peak memory (MiB)"]) == ("202", "1,024")
    assert "training time of Some GPU alone; peak memory of Some CPU, threads: 1 alone." in text_of(page)


def test_an_interaction_of_seconds_needs_one_machine_for_all_four_arms(make: Any, tmp_path: Path) -> None:
    arms = {
        "one": {"model.heads": 1},
        "four": {"model.heads": 4},
        "one_8": {"model.heads": 1, "model.patch_size": 8},
        "four_8": {"model.heads": 4, "model.patch_size": 8},
    }
    comparisons = {"fine": ["one", "four"], "coarse": ["one_8", "four_8"]}
    twist = {"twist": ["fine", "coarse"]}
    study = make(arms=arms, comparisons=comparisons, interactions=twist, claims=[claim(comparison="twist")])
    rows = make_rows(study, dict.fromkeys(arms, 0.0))
    assert table_row(write_report(study, rows, tmp_path), "Claims", "cost")[3] != "not measured"
    for row in rows:
        if row["arm"].endswith("_8"):
            row["device"] = "Some other CPU, threads: 1"
    assert table_row(write_report(study, rows, tmp_path), "Claims", "cost")[3] == "not measured"


def test_a_precision_is_of_the_machine_unless_it_was_asked_for(make: Any, tmp_path: Path) -> None:
    """bfloat16 against float32 is what a study may be about; "auto" may tell machines of one name apart."""

    def ratio(one: str, four: str) -> str:
        arms = {"one": {"model.heads": 1, "train.precision": one}, "four": {"train.precision": four}}
        study = make(arms=arms)
        rows = make_rows(study, dict.fromkeys(arms, 0.0))
        for row in rows:
            row["precision"] = "float32" if row["arm"] == "four" else "bfloat16"
        return table_row(write_report(study, rows, tmp_path), "Comparisons", "four against one")[7]

    assert ratio("bf16", "fp32") == "1.20 times"
    assert ratio("auto", "fp32") == "1.20 times"
    assert ratio("auto", "auto") == ""


def test_a_run_that_diverged_is_of_no_machine(make: Any, tmp_path: Path) -> None:
    study = make()
    rows = make_rows(study, {"one": 0.0, "four": 0.0})
    rows[-1] = {key: rows[-1][key] for key in ("study", "phase", "arm", "choice", "seed", "settings")}
    page = write_report(study, rows, tmp_path)
    assert table_row(page, "Arms", "four")[1] == "7 of 8, 1 diverged"
    assert table_row(page, "Comparisons", "four against one")[7] == "1.20 times"
    assert "different machines" not in text_of(page)
    assert "training time from 204 s" in text_of(page)


def test_the_finding_opens_with_the_headline(make: Any, tmp_path: Path) -> None:
    arms = {"one": {"model.heads": 1}, "four": {"model.heads": 4}, "adamw": {"optim.name": "adamw"}}
    comparisons = {"gain": ["one", "four"], "loss": ["one", "adamw"]}
    study = make(arms=arms, comparisons=comparisons, interactions={"twist": ["gain", "loss"]}, headline="twist")
    page = write_report(study, make_rows(study, {"one": 0.0, "four": 0.0, "adamw": -0.1}), tmp_path)
    opening = "twist: \N{MINUS SIGN}10.00 points (n = 8 paired seeds), lower. "
    assert opening + "Test accuracy differs in 2 of 3 comparisons and interactions" in text_of(page)


def test_an_arm_is_chosen_by_validation_and_reported_on_test(make: Any, tmp_path: Path) -> None:
    study = make()
    rows = make_rows(study, {"one": 0.0, "four": 0.01})
    for row in rows:
        if row["arm"] == "four":
            row["best/val_acc"] = "0.1"
    page = write_report(study, rows, tmp_path)
    part = text_of(page).split("Which should I choose?")[1].split("Arms")[0]
    assert "one 75.35" in part
    assert "four 7" not in part


def test_the_test_split_chooses_no_arm(make: Any, tmp_path: Path) -> None:
    """Where an arm trains on all images."""
    study = make()
    rows = make_rows(study, {"one": 0.0, "four": 0.02})
    assert "Which should I choose?" in text_of(write_report(study, rows, tmp_path))
    for row in rows:
        if row["arm"] == "four":
            row["best/val_acc"] = ""
    assert "Which should I choose?" not in text_of(write_report(study, rows, tmp_path))


def test_a_mean_is_rounded_alike_everywhere(make: Any, tmp_path: Path) -> None:
    study = make(seeds=[0, 1, 2, 3])
    rows = make_rows(study, {"one": 0.0, "four": 0.02}, seeds=4)
    for row, accuracy in zip(rows, (0.727, 0.7315, 0.7144, 0.7249), strict=False):  # 0.72445, a tie
        row |= {"test/acc": str(accuracy), "test/correct": ""}
    page = write_report(study, rows, tmp_path)
    assert table_row(page, "Arms", "one")[2] == "72.45 ± 0.72"
    means = specs_of(page)["accuracy_train_flops"]["datasets"]["means_train_flops"]
    assert {point["test accuracy"] for point in means if point["arm"] == "one"} == {"72.45 %"}


def test_an_interaction_is_the_second_comparison_less_the_first(make: Any, tmp_path: Path) -> None:
    study = make(
        arms={
            "one": {"model.heads": 1},
            "four": {"model.heads": 4},
            "one_8": {"model.heads": 1, "model.patch_size": 8},
            "four_8": {"model.heads": 4, "model.patch_size": 8},
        },
        comparisons={"fine": ["one", "four"], "coarse": ["one_8", "four_8"]},
        interactions={"coarse less fine": ["fine", "coarse"]},
    )
    gains = {"one": 0.0, "four": 0.03, "one_8": -0.1, "four_8": -0.09}
    page = write_report(study, make_rows(study, gains), tmp_path)
    points = [table_row(page, "Comparisons", label)[3] for label in ("fine", "coarse", "coarse less fine")]
    assert points == ["+3.00", "+1.00", "\N{MINUS SIGN}2.00"]
    assert table_row(page, "Comparisons", "coarse less fine")[6] == "▼ lower"
    assert "Test accuracy differs in 3 of 3 comparisons and interactions, most in “fine”: +3.00 points" in text_of(page)
    choice = table_row(page, "Which should I choose?", "sequence length")
    assert choice == ["sequence length", "16 patches of 8 x 8", "four_8", "66.35", "none"]


def test_the_choice_names_what_a_larger_budget_adds(make: Any, tmp_path: Path) -> None:
    study = make(arms={name: {"model.depth": depth} for name, depth in (("low", 2), ("middle", 3), ("high", 4))})
    rows = make_rows(study, {"low": 0.0, "middle": 0.02, "high": 0.02})
    flops = {"low": "1e13", "middle": "2e13", "high": "3e13"}
    rows = [row | {"compute/train_flops": flops[row["arm"]]} for row in rows]
    rows = [row | {"best/val_acc": "0.77"} if row["arm"] == "high" else row for row in rows]
    page = write_report(study, rows, tmp_path)
    cheapest = table_row(page, "Which should I choose?", "training compute")
    assert cheapest == ["training compute", "from 0.01 PFLOP", "low", "75.35", "nothing else to choose from"]
    part = page.read_text().split("<h2>Which should I choose?</h2>")[1].split("</section>")[0]
    assert "high (from 0.03 PFLOP)" in part
    assert part.count(">training compute</t") == 2, "one row for all budgets of one answer"


def test_no_pair_is_told_apart_in_one_table_and_not_in_another(make: Any, tmp_path: Path) -> None:
    """Alone the pair would be found different; among all that the study asks it is not."""
    metrics = ("train/loss", "test/loss", "test/ece")
    study = make(claims=[claim(aspect=metric, metric=metric) for metric in metrics])
    rows = make_rows(study, {"one": 0.0, "four": 0.02})
    for row in rows:
        row |= {metric: str(1 + int(row["seed"]) % 2 * (row["arm"] == "four")) for metric in metrics}
        if row["arm"] == "four" and row["seed"] == "0":
            row |= {"test/acc": "0.7499", "best/val_acc": "0.7499", "test/correct": ""}  # 0.0001 below: p = 4 / 2^8
    page = write_report(study, rows, tmp_path)
    p, reading = table_row(page, "Comparisons", "four against one")[5:7]
    assert (p, reading) == ("0.062", "? undecided")
    part = page.read_text().split("<h2>Which should I choose?</h2>")[1].split("</section>")[0]
    assert re.search(r"<td>four</td><td[^>]*>\d+\.\d+</td><td[^>]*>one</td>", part)


def test_only_seeds_of_both_arms_are_paired(make: Any, tmp_path: Path) -> None:
    study = make()
    rows = [row for row in make_rows(study, {"one": 0.0, "four": 0.02}) if (row["arm"], row["seed"]) != ("four", "3")]
    page = write_report(study, rows, tmp_path)
    assert table_row(page, "Comparisons", "four against one")[2] == "7"
    assert [table_row(page, "Arms", arm)[1] for arm in ("one", "four")] == ["8", "7 of 8"]


def test_one_seed_decides_nothing(make: Any, tmp_path: Path) -> None:
    study = make(claims=[claim()])
    page = write_report(study, make_rows(study, {"one": 0.0, "four": 0.1}, seeds=1), tmp_path)
    assert "Undecided: " in text_of(page)
    assert "+10.04 points (n = 1 paired seed)" in text_of(page)
    assert table_row(page, "Claims", "cost")[2] == "? undecided"
    assert table_row(page, "Arms", "one")[2:4] == ["75.00", ""]
    assert "NaN" not in json.dumps(specs_of(page))


def test_what_was_not_measured_is_left_out(make: Any, tmp_path: Path) -> None:
    study = make()
    rows = make_rows(study, {"one": 0.0, "four": 0.02})
    kept = ("study", "phase", "arm", "choice", "seed", "test/acc", "settings")
    page = write_report(study, [{key: row[key] for key in kept} for row in rows], tmp_path)
    assert "four has a higher test accuracy than one" in text_of(page)
    assert set(specs_of(page)) == {"differences"}
    blank = [
        row | dict.fromkeys(("curve", "test/correct", "best/val_acc", "compute/train_seconds"), "") for row in rows
    ]
    page = write_report(study, blank, tmp_path)
    assert "curves" not in specs_of(page)
    assert "accuracy_train_flops" in specs_of(page)


def test_rows_of_tuning_and_of_other_arms_do_not_count(make: Any, tmp_path: Path) -> None:
    study = make()
    rows = make_rows(study, {"one": 0.0, "four": 0.02})
    more = [row | {"phase": "tuning", "seed": "100", "test/acc": ""} for row in rows[:1]]
    more += [row | {"arm": "eight"} for row in rows[:1]]
    first = write_report(study, rows, tmp_path).read_bytes()
    assert write_report(study, rows + more, tmp_path).read_bytes() == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test/acc": "0.7x"}, "arm one, seed 0: test/acc: expected a number from 0 to 1, got '0.7x'"),
        ({"test/acc": "75.0"}, "arm one, seed 0: test/acc: expected a number from 0 to 1"),
        ({"compute/train_seconds": "nan"}, "compute/train_seconds: expected a number, got 'nan'"),
        ({"settings": "{"}, "arm one, seed 0: settings: expected settings as JSON, got '{'"),
        ({"choice": "[]"}, "arm one, seed 0: choice: expected settings as JSON, got '[]'"),
        ({"curve": "[1, 2]"}, "arm one, seed 0: curve or test/correct cannot be read"),
        ({"test/correct": "?"}, "arm one, seed 0: curve or test/correct cannot be read"),
        ({"test/correct": "AAAA"}, "arm one, seed 0: expected 10000 bits in test/correct"),
        ({"seed": "1"}, "arm one, seed 1: expected one final run of each seed, got two"),
        ({"seed": ""}, "expected a phase, tuning or final, and a number as seed"),
    ],
)
def test_a_damaged_row_is_refused_in_one_line(make: Any, tmp_path: Path, change: dict, message: str) -> None:
    study = make()
    rows = make_rows(study, {"one": 0.0, "four": 0.02})
    rows[0] |= change
    with pytest.raises(UsageError) as refusal:
        write_report(study, rows, tmp_path / "page")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("key", "values", "chosen", "said"),
    [
        (
            "optim.lr",
            [0.01, 0.02, 0.04],
            0.04,
            "At the end of its grid, so that beyond it may be better: one (optim.lr",
        ),
        (
            "optim.lr",
            [0.01, 0.02],
            0.01,
            "At the end of its grid, so that beyond it may be better: one (optim.lr 0.01)",
        ),
        ("optim.lr", [0.01, 0.02, 0.04], 0.02, "No choice lies at the end of its grid."),
        ("optim.lr", [0.01], 0.01, None),
        ("optim.name", ["adamw", "muon"], "muon", None),
        ("model.qk_norm", [False, True], True, None),
        ("model.head_dim", [None, 16], 16, None),
        ("model.mlp_ratio", [2.0, "4.0"], 2.0, None),
        ("augment.policy", ["none", "randaugment"], "none", None),
    ],
)
def test_a_choice_at_the_end_of_a_grid_of_numbers_is_said(
    make: Any, tmp_path: Path, key: str, values: list, chosen: object, said: str | None
) -> None:
    study = make(tuning={"grid": {key: values}, "seeds": [100]})
    rows = [row | {"choice": json.dumps({key: chosen})} for row in make_rows(study, {"one": 0.0, "four": 0.02})]
    text = text_of(write_report(study, rows, tmp_path))
    assert f"The grid: {key} " in text
    if said:
        assert said in text
    else:
        assert "end of its grid" not in text


def test_a_grid_of_heads_a_block_has_no_end(make: Any, tmp_path: Path) -> None:
    arms = {"muon": {}, "adamw": {"optim.name": "adamw"}}
    study = make(arms=arms, tuning={"grid": {"model.heads": [1, [1, 2, 4, 8]]}, "seeds": [100]})
    rows = [row | {"choice": '{"model.heads": [1, 2, 4, 8]}'} for row in make_rows(study, {"muon": 0.0, "adamw": 0.0})]
    text = text_of(write_report(study, rows, tmp_path))
    assert "The grid: model.heads 1, [1, 2, 4, 8]. Differences" in text


def test_so_few_seeds_that_nothing_can_be_found_is_said(make: Any, tmp_path: Path) -> None:
    study = make(seeds=[0, 1, 2, 3])
    page = write_report(study, make_rows(study, {"one": 0.0, "four": 0.02}, seeds=4), tmp_path)
    assert "Undecided: " in text_of(page)
    assert "the smallest adjusted p in reach may be 0.12" in text_of(page)  # 2 / 2^4


def test_the_same_rows_make_the_same_files(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "save", SAVE)
    study = make()
    rows = make_rows(study, {"one": 0.0, "four": 0.02})

    def files(folder: str, rows: list[dict[str, str]]) -> dict[str, bytes]:
        write_report(study, rows, tmp_path / folder)
        found = sorted(path for path in (tmp_path / folder).rglob("*") if path.is_file())
        return {str(path.relative_to(tmp_path / folder)): path.read_bytes() for path in found}

    first = files("first", rows)
    assert files("again", rows[::-1]) == first
    # A picture is of another machine's pixels, perhaps, until what it shows has changed.
    drawn = tmp_path / "first/figures/accuracy"
    drawn.with_suffix(".png").write_bytes(b"of another machine")
    assert files("first", rows) == first | {"figures/accuracy.png": b"of another machine"}
    drawn.with_suffix(".svg").write_text("older")
    assert files("first", rows) == first
    figures = {
        f"figures/{name}.{kind}" for name in ("accuracy", "cost", "curves", "differences") for kind in ("png", "svg")
    }
    assert first.keys() == {"index.html", *figures}
    # A legend is of the arms that are drawn: a difference is drawn as the arm that is compared with another.
    assert [first[f"figures/{name}.svg"].count(b">one</text>") for name in ("curves", "differences")] == [1, 0]
    assert [first[f"figures/{name}.svg"].count(b">four</text>") for name in ("curves", "differences")] == [1, 1]


def test_names_are_text_and_never_code(make: Any, tmp_path: Path) -> None:
    evil = "<script>window.evil = 1<"
    study = make(title="</title><b>", arms={evil: {"model.heads": 1}, "four": {"model.heads": 4}})
    page = write_report(study, make_rows(study, {evil: 0.0, "four": 0.02}), tmp_path)
    html = page.read_text()
    assert evil not in html
    assert "&lt;script&gt;window.evil" in html
    assert "</title><b>" not in html


def test_a_page_asks_for_nothing_from_elsewhere(make: Any, tmp_path: Path) -> None:
    study = make()
    html = write_report(study, make_rows(study, {"one": 0.0, "four": 0.02}), tmp_path).read_text()
    asked = re.findall(
        r"<[^>]+\b(?:src|href)\s*=\s*[\"']?([^\"'\s>]+)", re.sub(r"<script.*?</script>", "", html, flags=re.S)
    )
    assert asked == ["data:,"]
    assert "default-src 'none'" in html


def test_the_command_writes_a_page_or_says_what_is_missing(tmp_path: Path) -> None:
    def report(reports: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "vit.report", "configs/studies/quickstart.yaml", f"--reports_dir={reports}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    missing = report(tmp_path)
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
    assert "results.csv: no such file" in missing.stderr
    shutil.copytree(ROOT / "reports/quickstart", tmp_path / "quickstart")
    done = report(tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["page"] == str(tmp_path / "quickstart/index.html")
    assert "4 heads against 1: " in text_of(tmp_path / "quickstart/index.html")


def specs_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', page.read_text())
    assert found
    return json.loads(found[1])


def test_a_browser_shows_all_charts_alone_and_on_a_phone(make: Any, tmp_path: Path, browser: Any) -> None:
    evil = "<img src=x onerror=evil()>"
    study = make(arms={evil: {"model.heads": 1}, "four": {"model.heads": 4}}, claims=[])
    rows = make_rows(study, {evil: 0.0, "four": 0.02})
    for row in rows:  # two decades apart: a logarithmic axis
        row["inference/batch_1_seconds"] = "0.1" if row["arm"] == "four" else "0.001"
    page = write_report(study, rows, tmp_path / "page")
    tab = browser.new_page(viewport={"width": 375, "height": 800})
    words: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: words.append(message.text))
    tab.on("pageerror", lambda error: words.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    places = tab.locator(".chart")
    assert places.count() == 7  # accuracy, differences, curves, and four costs
    for place in places.all():
        place.locator("svg.marks").wait_for()
        size = place.locator("svg.marks").bounding_box()
        assert size["width"] > 200
        assert size["height"] > 100
    assert tab.evaluate("document.documentElement.scrollWidth") == 375

    def axis_title() -> str:
        return tab.locator("#accuracy .role-axis-title text").first.text_content()

    assert axis_title() == "training time (s)"  # FLOPs are the same in both arms
    for option in tab.locator("#cost option").all():
        title = option.text_content()
        tab.select_option("#cost", title)
        tab.wait_for_function(
            "title => document.querySelector('#accuracy .role-axis-title')?.textContent == title", arg=title
        )
    assert axis_title() == "latency of one image (ms)"

    tab.locator("#accuracy .mark-symbol path[aria-roledescription=point]").last.hover()
    tab.locator("#vg-tooltip-element.visible").wait_for()
    assert "test accuracy" in tab.locator("#vg-tooltip-element").inner_text()
    tab.set_viewport_size({"width": 1100, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") == 1100
    assert words == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
