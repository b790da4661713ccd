"""The demo's page shows what its models say, in a real browser, and refuses bad files in words."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import vit
from vit import data
from vit.checkpoint import save_checkpoint
from vit.checks import UsageError
from vit.cli import parse
from vit.commands import DemoConfig
from vit.config import Config, ViTConfig
from vit.demo import check_free, facts, look, main, names, tiles, write_examples
from vit.model import VisionTransformer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def make(small: Callable[..., Config], tmp_path: Path) -> Callable[..., Path]:
    """An untrained checkpoint of 2 blocks of 2 heads; settings of its model can be overridden."""

    def checkpoint(name: str, results: dict[str, Any] | None = None, **model: Any) -> Path:
        defaults = {"dim": 16, "depth": 2, "heads": 2, "patch_size": 8}
        config = small(name=name, model=ViTConfig(**defaults | model))
        folder = tmp_path / f"checkpoint-{len(list(tmp_path.iterdir()))}"
        save_checkpoint(folder, VisionTransformer(config.model), config, results or {})
        return folder

    return checkpoint


def test_answers_are_those_of_predict_and_tiles_those_of_every_head(
    make: Callable[..., Path], tmp_path: Path, cifar: Any
) -> None:
    models = [vit.load(make("many")), vit.load(make("mixed", depth=3, heads=[1, 2, 4], pool="cls"))]
    Image.fromarray(cifar[1][0][0].permute(1, 2, 0).numpy()).save(tmp_path / "cat.png")
    picture, answers, seen = look(models, str(tmp_path / "cat.png"))
    assert picture.size == (32, 32)
    for model, answer, maps in zip(models, answers, seen.maps, strict=True):
        best = model.predict(tmp_path / "cat.png")
        assert list(answer.items()) == [(each["label"], each["score"]) for each in best]
        for block, heads in enumerate(model.config.block_heads):
            words = re.findall("<figcaption>(.*?)  [0-9.]+x</figcaption>", tiles(model, maps, seen.picture, block))
            each = [f"block {block} mean", *(f"head {head}" for head in range(heads))]
            assert words == ["rollout", *(each if heads > 1 else [f"block {block} head 0"])]
    assert tiles(models[0], seen.maps[0], seen.picture, 2) == "<p>There is no block 2.</p>"


def test_pictures_are_shown_as_they_are_seen_upright_and_no_larger_than_needed(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held sideways
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "turned.jpg", exif=exif)
    picture, _, _ = look([vit.load(make("many"))], str(tmp_path / "turned.jpg"))
    assert picture.size == (320, 640)


def test_headlines_say_what_is_compared(make: Callable[..., Path]) -> None:
    both = {"test/acc": 0.8104, "val/acc": 0.8146}
    models = [
        vit.load(make("same", both)),
        vit.load(make("same", {"val/acc": 0.5}, heads=[1, 4])),
        vit.load(make("one", {"val/acc": "high"}, heads=1, depth=1)),
    ]
    assert names(models[:2]) == ["same (1)", "same (2)"]
    assert names(models[1:]) == ["same", "one"]
    count = sum(parameter.numel() for parameter in models[0].parameters())
    assert facts(models[0]) == f"2 blocks of 2 heads · {count:,} parameters · test accuracy 81.04\N{NO-BREAK SPACE}%"
    assert facts(models[1]).startswith("2 blocks of 1 to 4 heads · ")
    assert facts(models[1]).endswith(" · validation accuracy 50.00\N{NO-BREAK SPACE}%")
    assert re.fullmatch(r"1 block of 1 head · [\d,]+ parameters", facts(models[2]))


def test_examples_are_test_images_one_a_class(data_root: Path, cifar: Any, tmp_path: Path) -> None:
    _, (images, labels) = cifar
    examples = write_examples(data_root, tmp_path)
    assert [name for _, name in examples] == list(data.LABELS)
    for index, (file, _) in enumerate(examples):
        pixels = torch.from_numpy(numpy.array(Image.open(file))).permute(2, 0, 1)
        assert (images[labels == index] == pixels).flatten(1).all(dim=1).any()


def test_without_the_data_there_are_no_examples_and_nothing_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert write_examples(tmp_path / "none", tmp_path) == []
    assert "no examples on the page: there is no " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_work_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UsageError, match=rf"^host, port: cannot listen at port {port} of 127.0.0.1 \(Address already in use\)$"
        ):
            check_free("127.0.0.1", port)
    with pytest.raises(UsageError, match=r"cannot listen at port 7860 of 192\.0\.2\.1 "):
        check_free("192.0.2.1", 7860)  # an address that is nobody's (RFC 5737)
    with pytest.raises(UsageError, match="checkpoints: expected one or two, got "):
        parse(DemoConfig, ["a", "b", "c"])
    with pytest.raises(UsageError, match="port: expected a number from 1 to 65535, got 70000"):
        parse(DemoConfig, ["a", "--port=70000"])
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r"^the package gradio is not installed: pip install 'gradio>=6'$"):
        main(DemoConfig(["nowhere"]))


def test_a_browser_shows_two_models_and_asks_nothing_of_others(
    make: Callable[..., Path], tmp_path: Path, data_root: Path, browser: Any
) -> None:
    pytest.importorskip("gradio")
    sources = [str(make("many", {"test/acc": 0.5})), str(make("<b>one", heads=1, depth=1))]
    port = 20000 + os.getpid() % 10000  # not of those that the system gives to who asks for any
    command = [sys.executable, "-m", "vit.demo", *sources, f"--port={port}", f"--data.root={data_root}"]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = os.environ | {"TMPDIR": str(temporary), "HTTP_PROXY": "http://127.0.0.1:9"}
    server = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        assert server.stderr.readline().startswith("loading ")
        assert f"http://127.0.0.1:{port}" in server.stderr.readline()
        use(browser, f"http://127.0.0.1:{port}", tmp_path)
    finally:
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=20)
    assert (server.returncode, said) == (0, "")
    assert not any(temporary.glob("vit-demo-*"))


def use(browser: Any, address: str, folder: Path) -> None:
    """What a visitor does, and must see, sooner or later."""
    from playwright.sync_api import Locator, expect

    expect.set_options(timeout=30_000)
    tab = browser.new_page(viewport={"width": 375, "height": 800})
    words: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: words.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: words.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(address)
    expect(tab.locator("h1")).to_have_text("What many and <b>one see")
    expect(tab.locator("h2")).to_have_text(["many", "<b>one"])
    expect(tab.locator("body")).to_contain_text("2 blocks of 2 heads · ")
    expect(tab.locator("body")).to_contain_text("test accuracy 50.00")
    expect(tab.locator("#examples img")).to_have_count(10)

    def captions(model: int) -> Locator:
        return tab.locator(".tiles").nth(model).locator("figcaption")

    def each(*names: str) -> list[re.Pattern[str]]:
        """Captions that begin so, some with how bright the brightest place is behind it."""
        return [re.compile(rf"^\s*{name}\s*([0-9.]+x\s*)?$") for name in names]

    def wait_for_picture(width: int) -> None:
        """A browser decodes a picture some time after the page names it."""
        tab.wait_for_function("width => document.querySelector('#picture img')?.naturalWidth === width", arg=width)

    expect(captions(0)).to_have_text(each("rollout", "block 1 mean", "head 0", "head 1"))  # of the cat
    wait_for_picture(32)

    Image.new("CMYK", (60, 20), (200, 0, 0, 0)).save(folder / "sea.tiff")  # none that a browser shows
    tab.locator("input[type=file]").set_input_files(folder / "sea.tiff")
    wait_for_picture(60)
    expect(tab.get_by_text("block 1 mean")).to_be_visible()
    expect(tab.get_by_text("There is no block 1.")).to_be_visible()
    expect(tab.locator("[data-testid$=-confidence-set]")).to_have_count(10)
    tab.wait_for_function("document.documentElement.scrollWidth === 375")

    tab.get_by_role("slider").fill("0")
    expect(captions(0)).to_have_text(each("rollout", "block 0 mean", "head 0", "head 1"))
    expect(captions(1)).to_have_text(each("rollout", "block 0 head 0"))

    (folder / "<i>not.png").write_text("not a picture")
    tab.locator("input[type=file]").set_input_files(folder / "<i>not.png")
    expect(tab.locator(".refusal")).to_contain_text("not.png: not a picture of a known format")
    expect(tab.locator(".tiles")).to_have_count(0)

    tab.locator("#examples button").nth(8).click()
    expect(tab.locator(".tiles img").first).to_be_visible()
    expect(tab.locator(".refusal")).not_to_be_visible()
    wait_for_picture(32)
    assert words == []
    assert {url.split("/")[2] for url in requests if not url.startswith(("data:", "blob:"))} == {address.split("/")[2]}
