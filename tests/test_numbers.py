"""What README, docs/ and the configs state as measured, but for round numbers in prose, is what its csv file says."""

import csv
import json
import re
import shutil
import types
from pathlib import Path
from typing import Any

import compared
import pytest
import search
import studies
import trained
import yaml
from write_numbers import PAGES, generate

from vit.checks import UsageError
from vit.cli import overrides, parse
from vit.config import Config, flatten
from vit.report import figures, sections
from vit.report.arms import differing
from vit.report.looks import looks
from vit.report.wording import sentence
from vit.results import Results
from vit.study import Study
from vit.study_file import load_study

ROOT = Path(__file__).parents[1]

# Measured numbers: a percentage with decimals, a spread, and what a training cost.
MEASURED = re.compile(r"\d+\.\d+ ?(?:%|points)|±|\d ?PFLOP|\d (?:seconds|minutes|core-minutes)\b|\d s\b")


def test_files_are_what_their_csv_files_make_of_them() -> None:
    for path, text in generate(ROOT).items():
        assert path.read_text() == text, "python docs/write_numbers.py writes it anew"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_states_no_measured_number_by_hand(page: str) -> None:
    by_hand = re.sub(r"<!-- numbers: .*?<!-- end -->", "", (ROOT / page).read_text(), flags=re.DOTALL)
    assert MEASURED.findall(by_hand) == []


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/NOTES.md"])
def test_links_and_pictures_of_a_page_are_there(page: str) -> None:
    places = re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text())
    for place in places:
        if not place.startswith("http"):
            path, _, heading = place.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), place
            assert not heading or heading in headings(target.read_text()), place


def headings(markdown: str) -> set[str]:
    """As GitHub names them in links."""
    titles = re.findall(r"^#+ (.+)$", markdown, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "words", ["72.24 %", "81.5%", "80 ± 1", "0.056 PFLOP", "in 258 seconds", "16 s,", "3 minutes", "0.8 points"]
)
def test_numbers_by_hand_are_found(words: str) -> None:
    assert MEASURED.search(words)


def test_every_config_without_results_says_so() -> None:
    for name in trained.with_twins(ROOT):
        if not trained.measured(ROOT, name):
            assert trained.NOT_YET in (ROOT / f"configs/{name}.yaml").read_text()


def check_configs_are_what_was_trained(root: Path, rung: str) -> None:
    """A rung and its twin are, but for the name, the settings of their arms."""
    for arm in studies.results(root, rung).study.arms:
        check_config_is_what_was_trained(root, {"multi_head": rung, "one_head": f"{rung}_one_head"}[arm])


def check_config_is_what_was_trained(root: Path, name: str) -> None:
    """With what tuning chose for its arm."""
    place, arm = trained.arm_of(name)
    found = studies.results(root, place)
    config = flatten(parse(Config, [f"--config={root / 'configs' / name}.yaml"]))
    assert config.pop("name") == name
    study = found.study
    (ran,) = (run for run in study.final_runs(found.chosen()) if run.arm == arm and run.seed == study.seeds[0])
    expected = flatten(ran.config) | {"seed": config["seed"]}
    del expected["name"]
    assert config == expected


@pytest.mark.parametrize("rung", trained.LADDER)
def test_the_configs_of_a_rung_are_what_was_trained(rung: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if not (ROOT / f"reports/{rung}/results.csv").exists():
        pytest.skip("not yet measured")
    check_configs_are_what_was_trained(ROOT, rung)


@pytest.mark.parametrize("name", trained.PLAIN)
def test_the_plain_configs_are_those_of_the_headline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    check_config_is_what_was_trained(ROOT, name)


@pytest.mark.parametrize("name", ["multi_head", "one_head"])
def test_a_published_checkpoint_is_of_a_run_that_has_a_row(name: str) -> None:
    """Of its config as it is now: its settings, its commit, its accuracy and what it cost."""
    card = json.loads((ROOT / f"checkpoints/{name}/config.json").read_text())
    rung = Path(card["results"]["config"]).stem
    (row,) = (row for row in trained.rows_of(ROOT, rung) if row["seed"] == "0")
    settings, results = card["training"], card["results"]
    assert {key: settings[key] for key in json.loads(row["settings"])} == json.loads(row["settings"])
    assert results["commit"] == row["commit"]
    assert results["train/test_acc"] == float(row["test/acc"])
    assert results.get("val/acc", "") == (float(row["best/val_acc"]) if row["best/val_acc"] else "")
    for cost in ("compute/train_flops", "compute/train_seconds"):
        assert results[cost] == float(row[cost])


def test_the_page_of_the_finding_is_of_its_rows() -> None:
    """All but its charts, which depend on the plotting library's version."""
    findings = studies.findings(ROOT, "heads")
    look = looks(findings.study, findings.arms, differing(findings.arms))
    charts = figures.charts(findings, look)
    body = sections.body(findings.study.title, sentence(findings), findings, look, charts)
    page = (ROOT / "reports/heads/index.html").read_text()
    assert body in page, "python -m vit.report configs/studies/heads.yaml writes it anew"


def test_closed_form_pflop_is_what_the_runs_counted() -> None:
    """Of every rung, and of every arm of the ablation, one of which sees a window first."""
    rows = [row for name in trained.with_twins(ROOT) for row in trained.rows_of(ROOT, name)]
    ablation = list(studies.results(ROOT, "ablation").rows.values())
    assert rows
    assert any(json.loads(row["settings"]).get("train.window") for row in ablation)
    for row in rows + ablation:
        config = parse(Config, overrides(json.loads(row["settings"])))
        assert f"{int(row['compute/train_flops']) / 1e15:.3g}" == trained.pflop(config)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose ladder has a quickstart, tuned for each arm, with rows of it, and a speedrun without."""
    root = tmp_path / "project"
    for name in ("configs/studies", "docs", "reports"):
        (root / name).mkdir(parents=True)
    shutil.copytree(ROOT / "benchmarks/results", root / "benchmarks/results")
    monkeypatch.chdir(root)

    def config(name: str, heads: int, lr: float) -> None:
        settings = {"name": name, "model": {"dim": 64, "heads": heads}, "optim": {"lr": lr}, "train": {"epochs": 4}}
        (root / f"configs/{name}.yaml").write_text(f"# train {name}\n# {trained.NOT_YET}\n" + yaml.safe_dump(settings))

    config("quickstart", 2, 0.02)
    config("quickstart_one_head", 1, 0.01)
    config("speedrun", 2, 0.02)
    study = {
        "name": "quickstart",
        "base": "configs/quickstart.yaml",
        "seeds": [0, 1],
        "arms": {"multi_head": {}, "one_head": {"model.heads": 1}},
        "tuning": {"grid": {"optim.lr": [0.01, 0.02]}, "seeds": [100]},
    }
    (root / "configs/studies/quickstart.yaml").write_text(yaml.safe_dump(study))
    add_rows(root, load_study("configs/studies/quickstart.yaml"))
    return root


def add_rows(root: Path, study: Study) -> None:
    """One head does best at 0.01, two at 0.02; on two threads they take 90 and 60 seconds."""
    (root / "reports/quickstart").mkdir()
    results = Results(root / "reports/quickstart/results.csv", study)
    for run in study.tuning_runs():
        best = run.choice["optim.lr"] == {"one_head": 0.01, "multi_head": 0.02}[run.arm]
        results.add(run, {"best/val_acc": 0.7 if best else 0.6, "compute/train_seconds": 1e6, "device": "a GPU"})
    for run in study.final_runs(results.chosen()):
        one = run.arm == "one_head"
        measured: dict[str, Any] = {
            "test/acc": (0.71 if one else 0.72) + 0.01 * run.seed,
            "compute/train_seconds": 90 if one else 60,
            "device": "Some CPU, threads: 2",
            "precision": "bfloat16",
        }
        results.add(run, measured)


def test_the_spread_of_a_study_under_way_pairs_the_seeds_that_both_arms_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four heads at seeds 0 to 2, one at 1 to 3: differences of 0 and 4 points at seeds 1 and 2."""
    validation = {"multi_head": {0: 0.5, 1: 0.51, 2: 0.54}, "one_head": {1: 0.51, 2: 0.5, 3: 0.51}}
    rows = {
        (arm, seed): {"phase": "final", "arm": arm, "seed": str(seed), "best/val_acc": str(value), "test/acc": "0.5"}
        for arm, values in validation.items()
        for seed, value in values.items()
    }
    monkeypatch.setattr(compared, "results", lambda *_: types.SimpleNamespace(rows=rows))
    text = compared.validation_spread(ROOT)
    assert text.startswith("0.58 to 2.08 points, and that of four heads minus one 2.83 at the same seed, ")
    assert text.endswith("where independent runs would have 2.16")


def test_the_window_gains_what_it_adds_to_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In both studies four heads have seeds 1 and 2, and gain 1 and 3 points; one head has one, and loses 2."""
    accuracies = {
        "whole_images": {("multi_head", 0): 0.1, ("multi_head", 1): 0.5, ("multi_head", 2): 0.6, ("one_head", 1): 0.5},
        "quickstart": {("multi_head", 2): 0.63, ("multi_head", 1): 0.51, ("one_head", 1): 0.48, ("one_head", 3): 0.9},
    }

    def results(_: Path, study: str) -> types.SimpleNamespace:
        found = accuracies[study].items()
        rows = {
            key: {"phase": "final", "arm": key[0], "seed": str(key[1]), "test/acc": str(value)} for key, value in found
        }
        return types.SimpleNamespace(rows=rows)

    monkeypatch.setattr(compared, "results", results)
    expected = "four heads gain +2.00 (+1.00 to +3.00) points and one head \N{MINUS SIGN}2.00"
    assert compared.window_gain(ROOT) == expected
    expected = "four heads gain +3.00 points and one head \N{MINUS SIGN}2.00"
    assert compared.window_gain(ROOT, but=(2,)) == expected.replace("3", "1")


def test_gpu_minutes_are_not_core_minutes() -> None:
    cpu, gpu = (
        {"seed": "0", "test/acc": "0.9", "compute/train_seconds": "120", "precision": "bfloat16", "device": device}
        for device in ("Some CPU, threads: 4", "Some GPU")
    )
    assert [trained.summary([row]).cost for row in (cpu, gpu)] == ["8 core-minutes", "2 GPU-minutes"]
    with pytest.raises(UsageError, match="on a GPU and on a CPU"):
        trained.summary([cpu, gpu])


def readme(root: Path, text: str) -> str:
    """What becomes of a README with this text."""
    (root / "README.md").write_text(text)
    return generate(root)[root / "README.md"]


def test_the_ladder_is_made_of_the_studies_there_are(project: Path) -> None:
    text = readme(project, "Before.\n\n<!-- numbers: results -->\nstale\n<!-- end -->\n\nAfter.\n")
    assert text.startswith("Before.\n\n<!-- numbers: results -->\n| config | aim |")
    assert text.endswith("|\n\nTrained on Some CPU, 2 threads, bfloat16 (`quickstart`).\n<!-- end -->\n\nAfter.\n")
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")
    ]
    parameters, pflop = "207,946", "0.016"
    assert rows == [
        [
            "quickstart",
            "",
            "64 x 4",
            "2",
            parameters,
            "4",
            pflop,
            "2 core-minutes",
            "72.50 ± 0.71 (2)",
            "71.50 ± 0.71 (2)",
        ],
        ["speedrun", "94 % with 5 PFLOP", "64 x 4", "2", parameters, "4", pflop, "", "not yet measured", ""],
    ]


TRIALS = """base,change,control,settings,seed,train_pflop,best/val_acc,val/loss,train/acc
d64,none,,,0,0.02,0.70,0.9,
d64,none,,,1,0.02,0.80,0.8,
d64,wider,none,model.dim=96,1,0.03,0.81,0.7,0.9
d128,deeper,wider,"model.depth=8, at commit a",1,0.04,0.83,0.6,
"""


def test_a_trial_is_compared_with_its_control_seed_by_seed(project: Path) -> None:
    """In the same table by number, in another by name."""
    (project / "reports/recipe").mkdir()
    (project / "reports/recipe/trials.csv").write_text(TRIALS)
    text = readme(project, "\n".join(f"<!-- numbers: trials_{base} -->\n<!-- end -->" for base in ("d64", "d128")))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert [row for row in rows if row[0].isdigit()] == [
        ["1", "none", "", "0.02", "75.00", "", "0.850", "", "0, 1"],
        ["2", "wider", "`model.dim=96`", "0.03", "81.00", "+1.00 from 1", "0.700", "90.0", "1"],
        ["1", "deeper", "`model.depth=8`, at commit a", "0.04", "83.00", "+2.00 from “wider” above", "0.600", "", "1"],
    ]


PIECES = """piece,tried,base,change,outcome
width,wider,d64,wider,kept
width,deeper and wider,d128,deeper,dropped
mixing,nothing,,,not known
arms,a third of the steps,ablation,less,dropped
"""


def test_a_piece_is_what_its_trial_gave(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a study beside its recipe, seed by seed; a run that diverged has no part in it."""
    (project / "reports/recipe").mkdir()
    (project / "reports/recipe/trials.csv").write_text(TRIALS)
    (project / "reports/recipe/pieces.csv").write_text(PIECES)
    arms = {"recipe": {0: "0.5", 1: "0.6", 2: "0.7"}, "less": {0: "0.49", 2: "0.66", 1: ""}}
    flops = {"recipe": "3e15", "less": "1e15"}
    rows = {
        (arm, seed): {"arm": arm, "seed": str(seed), "best/val_acc": accuracy, "compute/train_flops": flops[arm]}
        for arm, seeds in arms.items()
        for seed, accuracy in seeds.items()
    }
    monkeypatch.setattr(search, "results", lambda *_: types.SimpleNamespace(rows=rows))
    lines = readme(project, "<!-- numbers: pieces -->\n<!-- end -->").splitlines()[3:-1]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines] == [
        ["width", "wider", "+1.00", "1", "x 1.50", "kept"],
        ["", "deeper and wider", "+2.00", "1", "x 1.33", "dropped"],
        ["mixing", "nothing", "", "", "", "not known"],
        [
            "arms",
            "a third of the steps",
            "\N{MINUS SIGN}2.50 (\N{MINUS SIGN}4.00 to \N{MINUS SIGN}1.00)",
            "2",
            "x 0.33",
            "dropped",
        ],
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("d64,none,,,1,0.02", "d64,none,,,1,0.05", "'none' has runs of other settings, control or PFLOP"),
        ("d64,wider,none,model.dim=96,1", "d64,wider,none,model.dim=96,2", "its csv file has nothing for '2'"),
        ("d64,wider,none,", "d64,wider,nothing,", "'wider': 0 bases have its control, 'nothing'"),
        ("d64,none,,,1,0.02", "d64,none,,,0,0.02", "d64, 'none': seed 0 has two rows"),
    ],
)
def test_trials_that_cannot_be_compared_are_refused(project: Path, old: str, new: str, message: str) -> None:
    (project / "reports/recipe").mkdir()
    (project / "reports/recipe/trials.csv").write_text(TRIALS.replace(old, new))
    with pytest.raises(UsageError, match=message):
        readme(project, "<!-- numbers: trials_d64 -->\n<!-- end -->")


def test_headers_come_from_the_same_rows(project: Path) -> None:
    readme(project, "")
    texts = {path.stem: text.splitlines() for path, text in generate(project).items()}
    command, *header, first_setting = texts["quickstart_one_head"][:4]
    assert command == "# train quickstart_one_head"
    assert " ".join(line.removeprefix("# ") for line in header) == (
        "71.50 % test accuracy (n = 2 seeds, sd 0.71 points), 0.016 PFLOP, "
        "3 core-minutes of training on Some CPU, 2 threads, bfloat16."
    )
    assert first_setting == "model:"
    assert texts["speedrun"][1] == "# test accuracy not yet measured, 0.016 PFLOP."


def test_the_twin_has_what_was_chosen_for_it(project: Path) -> None:
    check_configs_are_what_was_trained(project, "quickstart")
    twin = project / "configs/quickstart_one_head.yaml"
    twin.write_text(twin.read_text().replace("lr: 0.01", "lr: 0.02"))
    with pytest.raises(AssertionError):
        check_configs_are_what_was_trained(project, "quickstart")


def test_rows_of_other_settings_are_refused(project: Path) -> None:
    """However the config was changed since, and however its twin was with it."""
    for name in ("quickstart", "quickstart_one_head"):
        path = project / f"configs/{name}.yaml"
        path.write_text(path.read_text().replace("epochs: 4", "epochs: 5"))
    with pytest.raises(UsageError, match=r"seed 0 was trained with train.epochs 4, not 5 as the study now says"):
        readme(project, "")


def test_a_run_that_diverged_counts_for_nothing(project: Path) -> None:
    """A final one has no accuracy and no cost, a rate that diverged in tuning is no choice."""
    found = studies.results(project, "quickstart")
    tuning = next(run for run in found.study.tuning_runs() if (run.arm, run.choice["optim.lr"]) == ("one_head", 0.02))
    final = next(run for run in found.study.final_runs(found.chosen()) if (run.arm, run.seed) == ("one_head", 1))
    for run in (tuning, final):
        found.add(run, {})
    text = readme(
        project, "<!-- numbers: results -->\n<!-- end -->\n\n<!-- numbers: quickstart_rates -->\n<!-- end -->\n"
    )
    assert "| 72.50 ± 0.71 (2) | 71.00 (1) |" in text
    assert "| one_head | **0.01: 70.00**, 0.02: diverged | 1 |" in text


def test_what_is_generated_stays_as_it_is(project: Path) -> None:
    text = readme(
        project,
        "One reaches <!-- numbers: quickstart/acc -->?<!-- end -->, one <!-- numbers: speedrun/acc --><!-- end -->.\n",
    )
    assert "reaches <!-- numbers: quickstart/acc -->72.50 %<!-- end -->, one <!--" in text
    assert "-->not yet measured<!-- end -->.\n" in text
    assert readme(project, text) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <!-- numbers: nonsense -->1<!-- end -->", "<!-- numbers: nonsense -->: no such part; there are heads, "),
        ("a <!-- numbers: nowhere/acc -->1<!-- end -->", "<!-- numbers: nowhere/acc -->: no such part"),
        ("a <!-- numbers: results -->1", "needs one <!-- end -->; see <!-- numbers: results -->"),
        ("a <!-- numbers: results -->1 <!-- numbers: results -->1<!-- end -->", "needs one <!-- end -->"),
        ("a <!-- numbers:results -->1<!-- end -->", "needs one <!-- end -->; see <!-- end -->"),
        ("a\n<!-- numbers: quickstart/acc -->1<!-- end -->", "begins a line"),
        ("a <!-- numbers: trials_d64 -->1<!-- end -->", "reports/recipe/trials.csv: cannot be read (No such file"),
        ("a <!-- numbers: past_80 -->1<!-- end -->", "configs/speedrun_cpu.yaml: not yet measured"),
        ("<!-- numbers: window -->\n<!-- end -->", "its csv file does not have the rows expected (too many values"),
    ],
)
def test_what_cannot_be_generated_is_one_line(project: Path, text: str, message: str) -> None:
    path = project / "benchmarks/results/window.csv"
    path.write_text(path.read_text().replace("cpu_30min", "quickstart").replace(",61,", ",31,", 1))
    with pytest.raises(UsageError) as refusal:
        readme(project, text)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_words_that_the_measurements_no_longer_bear_are_refused(project: Path) -> None:
    path = project / "benchmarks/results/throughput.csv"
    path.write_text(re.sub(r"(train,bf16,192,.*,3,vit-pytorch,no),[\d.]+", r"\1,1.00", path.read_text()))
    with pytest.raises(UsageError, match="no longer bear the words 'vit-pytorch is faster at d192"):
        readme(project, "<!-- numbers: against_peers -->\n<!-- end -->\n")


def test_the_headline_says_how_far_a_study_is_and_nothing_that_its_rows_do_not_bear(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for study in ("heads", "whole_images", "quickstart"):
        (tmp_path / f"reports/{study}").mkdir(parents=True)
        shutil.copy(ROOT / f"reports/{study}/results.csv", tmp_path / f"reports/{study}/results.csv")
    path = tmp_path / "reports/heads/results.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def write(rows: list[dict[str, str]]) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    four = [row for row in rows if (row["phase"], row["arm"]) == ("final", "heads_4")]
    write([row for row in rows if row is not four[-1]])
    first = compared.heads(tmp_path).splitlines()[2]
    assert "n = 11 paired seeds), p = " in first
    assert ", higher; 11 of 12 seeds planned are done |" in first

    one = {row["seed"]: row for row in rows if (row["phase"], row["arm"]) == ("final", "heads_1")}
    for row in four:
        row |= {key: one[row["seed"]][key] for key in ("test/acc", "test/correct")}
    write(rows)
    with pytest.raises(UsageError, match="the rows of heads no longer bear the words 'more accurate'"):
        compared.heads(tmp_path)
