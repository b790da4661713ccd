"""`model.predict` and predict.py say what eval.py counts, whatever form the pictures come in, and stop at nothing."""

import csv
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import predict
import vit
from eval import main as evaluate_door
from vit import checkpoint, data
from vit.checks import UsageError
from vit.cli import parse
from vit.commands import EvalConfig, EvalDataConfig, EvalWandbConfig, PredictConfig
from vit.config import Config, TrainConfig, ViTConfig
from vit.model import VisionTransformer
from vit.pictures import PictureError, open_picture
from vit.predict import batches

ROOT = Path(__file__).parents[1]
Answers = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An untrained checkpoint whose answers differ from picture to picture, and which computes in bfloat16."""
    config = Config(
        model=ViTConfig(dim=16, depth=2, heads=2, patch_size=8), train=TrainConfig(precision="bf16", eval_batch_size=64)
    )
    model = VisionTransformer(config.model)
    torch.nn.init.normal_(model.head.weight)
    checkpoint.save_checkpoint(tmp_path / "checkpoint", model, config, {})
    return tmp_path / "checkpoint"


@pytest.fixture
def images(cifar: tuple[data.Split, data.Split]) -> torch.Tensor:
    return cifar[1][0][:300]


@pytest.fixture
def pictures(tmp_path: Path, images: torch.Tensor) -> Path:
    """The first 300 test images as PNG, in order."""
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "pictures" / f"{number:03}.png")
    return tmp_path / "pictures"


@pytest.fixture
def answers(folder: Path, capsys: pytest.CaptureFixture) -> Answers:
    """What predict.py says of images, given as strings, in its JSON lines."""

    def call(*images: str, **settings: Any) -> list[dict[str, Any]]:
        capsys.readouterr()
        predict.main(PredictConfig(str(folder), list(images), format="json", device="cpu", **settings))
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return call


class TestPython:
    def test_every_form_of_a_picture_gives_the_same(self, folder: Path, images: torch.Tensor, pictures: Path) -> None:
        model = vit.load(folder)
        path = pictures / "007.png"
        array = images[7].permute(1, 2, 0).numpy()
        forms = [path, str(path), io.BytesIO(path.read_bytes()), Image.open(path), array, images[7]]
        expected = model.predict(path)
        assert model.predict(forms) == [expected] * 6
        assert model.predict(tuple(forms[4:])) == [expected] * 2
        for mode in ("L", "LA", "RGBA"):
            other = Image.open(path).convert(mode)
            if mode != "L":
                other.putalpha(Image.radial_gradient("L").resize((32, 32)))
            assert model.predict(np.asarray(other)) == model.predict(other)

    def test_a_batch_is_a_list(self, folder: Path, images: torch.Tensor) -> None:
        model = vit.load(folder)
        expected = model.predict(list(images[:3]))
        assert model.predict(images[:3]) == expected
        assert model.predict(images[:3].numpy()) == expected
        assert model.predict(images[:3].permute(0, 2, 3, 1).numpy()) == expected  # as NumPy and OpenCV have pictures
        assert model.predict(images[:1]) == expected[:1]
        assert model.predict(images[:0]) == []

    def test_scores_are_the_models_probabilities_in_order(self, folder: Path, images: torch.Tensor) -> None:
        model = vit.load(folder)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            probabilities = model(model.preprocess(images[3])).float().softmax(dim=1)[0]
        found = model.predict(images[3], topk=10)
        assert [each["label"] for each in found] == [data.LABELS[i] for i in probabilities.argsort(descending=True)]
        torch.testing.assert_close(
            torch.tensor([each["score"] for each in found]), probabilities.sort(descending=True).values
        )
        assert model.predict(images[3], topk=2) == found[:2]
        assert model.predict(images[3], topk=99) == found
        assert len(model.predict(images[3])) == 5

    def test_batches_do_not_change_the_answers_nor_predicting_the_model(
        self, folder: Path, images: torch.Tensor
    ) -> None:
        model = vit.load(folder).train()
        model.precision = "fp32"
        alone = [model.predict(image, topk=1)[0] for image in images[:7]]
        together = [found[0] for found in model.predict(list(images[:7]), topk=1, batch_size=3)]
        assert [each["label"] for each in alone] == [each["label"] for each in together]
        assert [each["score"] for each in alone] == pytest.approx([each["score"] for each in together])
        assert model.training
        assert model.predict([]) == []

    def test_equal_scores_keep_the_order_of_the_classes(self, folder: Path, images: torch.Tensor) -> None:
        """As evaluation counts: in bfloat16 equal logits do happen."""
        model = vit.load(folder)
        torch.nn.init.zeros_(model.head.weight)
        assert [each["label"] for each in model.predict(images[0], topk=10)] == list(data.LABELS)

    def test_what_cannot_be_classified(self, folder: Path, tmp_path: Path, images: torch.Tensor) -> None:
        model = vit.load(folder)
        with pytest.raises(PictureError, match=r"none\.png: cannot be read"):
            model.predict(tmp_path / "none.png")
        for wrong, message in (
            (images[0].float(), r"uint8 tensor .*, got torch.float32 \(3, 32, 32\)"),
            (images[0].permute(1, 2, 0), r"uint8 tensor \(3, H, W\) .*, got torch.uint8 \(32, 32, 3\)"),
            (images[0].permute(1, 2, 0).numpy() / 255, r"uint8 array .*, got float64 \(32, 32, 3\)"),
            (images[0].numpy(), r"uint8 array .*, got uint8 \(3, 32, 32\)"),
            (np.zeros((4, 32, 32, 5), np.uint8), r"uint8 array .*, got uint8 \(4, 32, 32, 5\)"),
            (np.zeros((4, 32, 32, 3), np.float32), r"uint8 array .*, got float32 \(4, 32, 32, 3\)"),
            ([images[:3]], r"expected one image in each place of the list, got a batch of 3"),
            (torch.zeros(3, 0, 4, dtype=torch.uint8), r"expected images with pixels, got \(1, 3, 0, 4\)"),
            (np.zeros((0, 4, 4), np.uint8), r"expected images with pixels, got \(0, 4, 4\)"),
        ):
            with pytest.raises(ValueError, match=message):
                model.predict(wrong)
        for wrong in ((image for image in images), 3, None, {"a": 1}):
            with pytest.raises(TypeError, match=r"expected a path, a file object, .* got "):
                model.predict(wrong)
        for settings in ({"topk": 0}, {"batch_size": 0}, {"topk": "3"}, {"topk": 2.5}, {"batch_size": True}):
            with pytest.raises(ValueError, match="expected a whole number above 0, got"):
                model.predict(images[0], **settings)
        with pytest.raises(ValueError, match="no class names"):
            VisionTransformer(ViTConfig()).predict(images[0])

    def test_a_failure_leaves_the_model_in_training(
        self, folder: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = vit.load(folder).train()
        with torch.no_grad():
            model.norm.weight.fill_(3e38)
        with pytest.raises(UsageError, match="logits are NaN or infinite"):
            model.predict(images[0])
        assert model.training

        def fail(*_: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(VisionTransformer, "forward", fail)
        with pytest.raises(MemoryError):
            model.predict(images[0])
        assert model.training


class TestDoor:
    def test_counts_exactly_what_eval_counts(
        self, answers: Answers, folder: Path, pictures: Path, cifar: tuple, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train, (images, labels) = cifar
        found = answers(str(pictures))
        assert [Path(each["file"]).name for each in found] == [f"{number:03}.png" for number in range(300)]
        best = [data.LABELS.index(each["predictions"][0]["label"]) for each in found]
        assert len(set(best)) > 2
        monkeypatch.setattr("vit.data.load", lambda root: (train, (images[:300], labels[:300])))
        evaluated = evaluate_door(
            EvalConfig(str(folder), device="cpu", data=EvalDataConfig(), wandb=EvalWandbConfig(mode="disabled"))
        )
        assert (
            sum(guess == int(label) for guess, label in zip(best, labels, strict=False)) / 300
            == (evaluated["test/acc"])
        )
        confusion = torch.zeros(10, 10, dtype=torch.long)
        confusion.index_put_((labels[:300], torch.tensor(best)), torch.tensor(1), accumulate=True)
        assert confusion.tolist() == evaluated["confusion"]  # of every class, not only on average

    def test_says_what_python_says(self, answers: Answers, folder: Path, pictures: Path) -> None:
        (found,) = answers(str(pictures / "000.png"), topk=3)
        assert found == {"file": str(pictures / "000.png"), "predictions": vit.load(folder).predict(found["file"], 3)}

    def test_table_and_csv(self, folder: Path, pictures: Path, capsys: pytest.CaptureFixture) -> None:
        path = str(pictures / "000.png")
        expected = vit.load(folder).predict(path, 2)
        predict.main(PredictConfig(str(folder), [path], topk=2, device="cpu"))
        (line,) = capsys.readouterr().out.splitlines()
        first, second = (f"{each['label']} {each['score']:.2%}" for each in expected)
        assert " ".join(line.split()) == f"{first} {second} {path}"
        predict.main(PredictConfig(str(folder), [path], topk=2, format="csv", device="cpu"))
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert [row["label"] for row in rows] == [each["label"] for each in expected]
        assert [data.LABELS[int(row["index"])] for row in rows] == [row["label"] for row in rows]
        assert [float(row["prob"]) for row in rows] == [each["score"] for each in expected]
        assert {row["filename"] for row in rows} == {path}

    def test_only_a_batch_is_held_at_a_time(
        self, answers: Answers, pictures: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When an answer leaves, no more pictures than its batch have been opened beyond those answered."""
        opened, ahead = [], []

        def count(source: Any) -> Image.Image:
            if isinstance(source, str):  # not what has been opened already
                opened.append(source)
            return open_picture(source)

        monkeypatch.setattr("vit.pictures.open_picture", count)
        written: list[dict] = []

        def write(answer: dict[str, Any]) -> None:
            ahead.append(len(opened) - len(written))
            written.append(answer)

        monkeypatch.setattr(predict, "writer", lambda form, labels: write)
        answers(str(pictures), batch_size=16)
        assert len(written) == len(opened) == 300
        assert max(ahead) == 16

    def test_batches_draw_no_more_than_they_give(self) -> None:
        drawn = iter(range(10))
        found = batches(drawn, 4)
        assert next(found) == [0, 1, 2, 3]
        assert next(drawn) == 4
        assert list(found) == [[5, 6, 7, 8], [9]]

    def test_a_bad_file_is_named_and_the_others_done(
        self, folder: Path, pictures: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (pictures / "005.png").write_bytes((pictures / "005.png").read_bytes()[:400])
        (pictures / "006.png").write_text("hello")
        arguments = [str(pictures), str(pictures / "none.png"), str(pictures / "00*.jpg"), str(pictures / "001.png")]
        with pytest.raises(SystemExit) as stopped:
            predict.main(PredictConfig(str(folder), arguments, topk=1, format="json", device="cpu"))
        assert stopped.value.code == 1
        shown = capsys.readouterr()
        assert len(shown.out.splitlines()) == 299
        errors = shown.err.splitlines()
        assert len(errors) == 5
        expected = ("005.png: damaged", "006.png: not a picture", "none.png: cannot be read", "no file matches")
        for line, message in zip(errors, expected, strict=False):
            assert message in line
        assert "4 refused" in errors[4]

    def test_drawings_of_equal_names_and_of_a_folder_inside_the_one_that_is_read(
        self, answers: Answers, pictures: Path, tmp_path: Path
    ) -> None:
        for name in ("a", "b", "b/deep"):
            (tmp_path / name).mkdir()
            Image.open(pictures / "000.png").save(tmp_path / name / "x.png")
        drawn = tmp_path / "b" / "drawn" / "here"
        found = answers(str(tmp_path / "a"), str(tmp_path / "b"), attention=str(drawn), batch_size=1)
        names = [Path(each["attention"]).name for each in found]
        assert names == ["x.png", "x-2.png", "x-3.png"]
        assert sorted(path.name for path in drawn.iterdir()) == sorted(names)
        undrawn = answers(str(tmp_path / "a"))  # drawing does not change the answer
        assert [each["predictions"] for each in found] == [undrawn[0]["predictions"]] * 3
        (tmp_path / "nowhere").symlink_to(tmp_path / "none")
        for taken in (drawn, tmp_path / "nowhere"):
            with pytest.raises(UsageError, match=r"attention: expected a new or an empty folder"):
                answers(str(tmp_path / "a"), attention=str(taken))

    def test_a_link_to_itself_is_refused_while_others_are_drawn(
        self, folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
    ) -> None:
        (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
        arguments = [str(tmp_path / "circle.png"), str(pictures / "001.png")]
        with pytest.raises(SystemExit):
            predict.main(PredictConfig(str(folder), arguments, device="cpu", attention=str(tmp_path / "drawn")))
        assert "circle.png: cannot be read (Too many levels of symbolic links)" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["001.png"]

    def test_each_of_many_drawings_of_one_name_is_named_at_once(self, tmp_path: Path) -> None:
        drawn: Counter[str] = Counter()
        (tmp_path / "x-2.png").touch()  # of a picture of that name
        names = []
        for folder in range(2000):
            path = predict.free(tmp_path, f"{folder}/x.jpg", drawn)
            path.touch()
            names.append(path.name)
        assert names[:3] == ["x.png", "x-3.png", "x-4.png"]
        assert drawn["x"] == 2001  # so many names were tried

    def test_a_name_gives_the_terminal_no_orders(
        self, folder: Path, pictures: Path, capsys: pytest.CaptureFixture
    ) -> None:
        name = "a\x1b[31m\nb\N{RIGHT-TO-LEFT OVERRIDE}\N{CAT FACE} \N{LATIN SMALL LETTER E WITH ACUTE}.png"
        (pictures / "000.png").rename(pictures / name)
        (pictures / "broken\x1b[31m.png").write_text("hello")
        with pytest.raises(SystemExit):
            predict.main(PredictConfig(str(folder), [str(pictures / name), str(pictures / "broken*")], device="cpu"))
        shown = capsys.readouterr()
        assert len(shown.out.splitlines()) == 1
        assert shown.out.endswith(r"a\x1b[31m\nb\xe2\x80\xae🐱 é.png" + "\n")
        assert r"broken\x1b[31m.png: not a picture" in shown.err
        assert "\x1b" not in shown.out + shown.err


class TestSettings:
    def test_images_may_be_many_and_come_before_or_after_options(self) -> None:
        expected = PredictConfig("run", ["a.png", "b c.png", "-", "null", "3"], topk=2)
        assert parse(PredictConfig, ["run", "a.png", "b c.png", "-", "null", "3", "--topk=2"]) == expected
        assert parse(PredictConfig, ["--topk=2", "run", "a.png", "b c.png", "-", "null", "3"]) == expected

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["run"], "images"),
            (["run", "a", "--topk=0"], "topk: expected a number above 0, got 0"),
            (["run", "a", "--batch_size=0"], "batch_size: expected a number from 1 to 100000 or null, got 0"),
            (["run", "a", "--batch_size=100001"], "batch_size: expected a number from 1 to 100000 or null, got 100001"),
            (["run", "a", "--format=xml"], "format: expected table or json or csv"),
            (["run", "a", "--top=3"], "top: no such setting; did you mean topk"),
        ],
    )
    def test_what_cannot_be_is_refused(self, arguments: list[str], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            parse(PredictConfig, arguments)


class TestCommand:
    def call(self, *arguments: str, stdin: bytes = b"", cwd: Path) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "predict.py"), *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, input=stdin, cwd=cwd, env=environment, capture_output=True, timeout=120)

    def test_names_on_stdin_that_are_no_text_and_a_bad_one(self, folder: Path, pictures: Path) -> None:
        odd = os.fsdecode(b"caf\xe9.png")
        (pictures / "000.png").rename(pictures / odd)
        stdin = b"caf\xe9.png\n\n001.png\r\nnone.png\n"
        result = self.call(str(folder), "-", "--topk=1", "--format=csv", stdin=stdin, cwd=pictures)
        assert result.returncode == 1, result.stderr
        rows = result.stdout.splitlines()
        assert [row.split(b",")[0] for row in rows] == [b"filename", b"caf\xe9.png", b"001.png"]
        errors = result.stderr.decode().splitlines()
        assert len(errors) == 2
        assert errors[0].startswith("predict.py: none.png: cannot be read")

    @pytest.mark.parametrize(
        ("stdin", "message"), [(b"", "-: no names of files"), (b"\x89PNG\r\n\0\0IHDR", "not the name of a file")]
    )
    def test_no_names_on_stdin(self, folder: Path, pictures: Path, stdin: bytes, message: str) -> None:
        """Nothing found, as by `find`, or a picture itself."""
        result = self.call(str(folder), "-", stdin=stdin, cwd=pictures)
        assert result.returncode == 1
        assert result.stdout == b""
        assert message in result.stderr.decode()
        assert "Traceback" not in result.stderr.decode()

    def test_output_is_the_same_in_every_locale(self, folder: Path, pictures: Path) -> None:
        (pictures / "000.png").rename(pictures / "é.png")
        command = [sys.executable, str(ROOT / "predict.py"), str(folder), "é.png"]
        for variables in (
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            {"PYTHONIOENCODING": "ascii"},
        ):
            environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
            result = subprocess.run(command, cwd=pictures, env=environment, capture_output=True, timeout=120)
            assert result.returncode == 0, result.stderr
            assert result.stdout.endswith("   é.png\n".encode())

    def test_a_bad_checkpoint_ends_at_once(self, tmp_path: Path) -> None:
        result = self.call("nowhere", "cat.png", "--attention=drawn", cwd=tmp_path)
        assert result.returncode == 2
        assert result.stdout == b""
        assert result.stderr.decode().splitlines() == [
            "predict.py: nowhere: not a checkpoint or run folder (it does not exist)"
        ]
        assert not (tmp_path / "drawn").exists()

    def test_wrong_settings_are_refused_without_pytorch_and_answers_come_without_wandb(
        self, folder: Path, pictures: Path
    ) -> None:
        code = """if True:
            import sys
            sys.argv = ["predict.py", *sys.argv[1:]]
            from vit.cli import door
            from vit.commands import PredictConfig
            from predict import main
            try:
                door(main, PredictConfig)
            except SystemExit as stop:
                print("exit", stop.code)
            slow = ("torch", "wandb", "torchvision", "torch._dynamo", "timm", "sympy")
            print([name for name in slow if name in sys.modules])
        """
        environment = os.environ | {"PYTHONPATH": str(ROOT)}

        def run(*arguments: str) -> list[str]:
            command = [sys.executable, "-c", code, str(folder), str(pictures / "000.png"), *arguments]
            result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
            return result.stdout.splitlines()

        assert run("--topk=0") == ["exit 2", "[]"]
        assert run("--format=json")[1:] == ["['torch']"]

    @pytest.mark.parametrize(("stdout", "code", "words"), [("closed", 141, b""), ("/dev/full", 1, b"the disk is full")])
    def test_what_cannot_be_written_at_the_very_end_is_told_too(
        self, folder: Path, pictures: Path, stdout: str, code: int, words: bytes
    ) -> None:
        """A few lines stay in the buffer until the program ends."""
        if stdout == "closed":
            reader, writer = os.pipe()
            os.close(reader)
        else:
            writer = os.open(stdout, os.O_WRONLY)
        command = [sys.executable, str(ROOT / "predict.py"), str(folder), str(pictures / "000.png")]
        try:
            result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60)
        finally:
            os.close(writer)
        assert result.returncode == code
        assert words in result.stderr
        assert len(result.stderr.splitlines()) == bool(words)

    def test_a_reader_that_leaves_is_no_error(self, folder: Path, pictures: Path) -> None:
        command = [sys.executable, str(ROOT / "predict.py"), str(folder), *[str(pictures)] * 5, "--format=json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(timeout=60) == 141
