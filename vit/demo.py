"""A page in the browser:  python -m vit.demo runs/multi_head runs/one_head

Drop a picture, and see what one checkpoint, or two side by side, take it for and where each head of each block looks.
"""

import html
import importlib.util
import os
import signal
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vit.checks import UsageError
from vit.cli import door, say
from vit.config import DemoConfig

if TYPE_CHECKING:
    import gradio
    from PIL.Image import Image
    from torch import Tensor

    from vit.model import VisionTransformer

TILE = 224  # pixels: side of a tile, for screens with two pixels a point
SHOWN = 640  # pixels: longer side of the picture on the page

STYLE = """
.gradio-container {max-width: 1200px !important; margin: 0 auto !important}
.refusal {border-left: 4px solid #c2410c; padding: 8px 12px; overflow-wrap: anywhere}
"""
HELP = """A patch is as bright as it is looked at, from 0 to the most of its own tile; the number says how many times
the even share that most is. The rollout follows the attention through all blocks; the mean is that of a block's heads."""


class Seen(NamedTuple):
    """What the page keeps of a picture."""

    picture: "Image"  # RGB, TILE x TILE
    maps: "list[list[Tensor]]"  # attention, for each model L x (1, H, N, N)


def main(config: DemoConfig) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        UsageError: gradio is not installed, the port cannot be listened at, or there is no such checkpoint.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UsageError("the package gradio is not installed: pip install 'gradio>=6'")
    check_free(config.host, config.port)
    from vit import checkpoint
    from vit.device import pick_device

    device = pick_device(config.device)
    models = [checkpoint.load(source, device) for source in config.checkpoints]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder below goes then, too
    with tempfile.TemporaryDirectory(prefix="vit-demo-") as folder, suppress(KeyboardInterrupt):
        # Read as gradio is imported: it tells nobody, and all its files, what visitors drop too, are in this folder.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        page = build(models, names(models), write_examples(Path(config.data.root), Path(folder)))
        try:
            serve(page, config.host, config.port)
            address = f"[{config.host}]" if ":" in config.host else config.host
            say(f"the page is at http://{address}:{config.port} (Ctrl-C ends it)")
            threading.Event().wait()
        finally:
            page.close(verbose=False)


def check_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UsageError(f"port: cannot listen at {port} of {host} ({os.strerror(error.errno or 0)})") from None


def write_examples(root: Path, folder: Path) -> list[tuple[str, str]]:
    """The first test image of each class as PNG, and its name; none where CIFAR-10 was not fetched yet."""
    from PIL import Image

    from vit import data

    if not (root / data.FILE).is_file():
        say(f"no examples on the page: there is no {root / data.FILE} (--data.root)")
        return []
    _, (images, labels) = data.load(root)
    examples = []
    for index, name in enumerate(data.LABELS):
        first = images[(labels == index).nonzero()[0, 0]]
        path = folder / f"{name}.png"
        Image.fromarray(first.permute(1, 2, 0).numpy()).save(path)
        examples.append((str(path), name))
    return examples


def names(models: "list[VisionTransformer]") -> list[str]:
    """The name of each model's run, numbered if it is that of the other, too."""
    found = [str((model.description or {})["training"].get("name") or "model") for model in models]
    return found if len(set(found)) == len(found) else [f"{name} ({index})" for index, name in enumerate(found, 1)]


def facts(model: "VisionTransformer") -> str:
    """Heads, parameters and the accuracy that its config.json tells, that on test images if it is known."""
    from vit import compute

    heads = sorted(set(model.config.block_heads))
    count = f"{heads[0]} to {heads[-1]} heads" if len(heads) > 1 else f"{heads[0]} head{'s' * (heads != [1])}"
    parts = [count, f"{compute.count_params(model.config):,} parameters"]
    results = (model.description or {})["results"]
    for key, words in (("test/acc", "test accuracy"), ("val/acc", "validation accuracy")):
        if isinstance(results.get(key), float):
            return " · ".join([*parts, f"{words} {results[key]:.2%}"])
    return " · ".join(parts)


def look(models: "list[VisionTransformer]", file: str) -> "tuple[Image, list[dict[str, float]], Seen]":
    """The picture for the page, the five most probable classes by each model, and what to draw `tiles` from.

    Raises:
        PictureError: the file is not a picture, damaged or too large.
    """
    from vit.heads import attention, thumbnail
    from vit.pictures import open_picture
    from vit.predict import classify, ranked, to_pixels

    picture = open_picture(file)
    answers, maps = [], []
    for model in models:
        pixels = to_pixels(model, picture)
        best = ranked(classify(model, pixels)[0], model.labels, 5)
        answers.append({each["label"]: each["score"] for each in best})
        maps.append(attention(model, pixels))
    seen = Seen(thumbnail(picture, TILE), maps)
    picture.thumbnail((SHOWN, SHOWN))
    return picture, answers, seen


def tiles(model: "VisionTransformer", maps: "list[Tensor]", picture: "Image", block: int) -> "list[tuple[Image, str]]":
    """Where a model looks: rollout, mean of the block, each head of it; nothing if it has no such block."""
    from vit.heads import block_tiles, rollout_tile

    if block >= len(maps):
        return []
    tokens = model.config.patches
    found = [rollout_tile(picture, maps, tokens), *block_tiles(picture, maps, tokens, block)]
    return [(image, words) for words, image in found]


def build(models: "list[VisionTransformer]", names: list[str], examples: list[tuple[str, str]]) -> "gradio.Blocks":
    """The page; gradio must not have been imported before its environment is set."""
    import gradio as gr

    depth = max(model.config.depth for model in models)
    title = f"What {' and '.join(names)} see{'s' * (len(models) == 1)}"
    # What was dropped and what was drawn is deleted after an hour.
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(f"<h1>{html.escape(title)}</h1>")
        seen = gr.State()
        with gr.Row():
            with gr.Column(min_width=300):
                # Not gr.Image: that would decode the file before vit.pictures can refuse it.
                file = gr.File(label="Drop a picture", height=140)
                if examples:
                    gallery = gr.Gallery(
                        examples,
                        label="or take a test image of CIFAR-10",
                        columns=5,
                        height="auto",
                        allow_preview=False,
                        buttons=[],
                        interactive=False,
                        elem_id="examples",
                    )
            with gr.Column(min_width=300):
                refusal = gr.HTML(elem_id="refusal")
                picture = gr.Image(
                    label="The picture", height=300, format="png", buttons=[], interactive=False, elem_id="picture"
                )
        with gr.Row():
            labels = []
            for model, name in zip(models, names, strict=True):
                with gr.Column(min_width=300):
                    gr.HTML(f"<h2>{html.escape(name)}</h2><p>{html.escape(facts(model))}</p>")
                    labels.append(gr.Label(num_top_classes=5, label="Most probable", elem_classes="answer"))
        block = gr.Slider(
            0, depth - 1, 0, step=1, label="Block", buttons=[], visible=depth > 1, elem_id="block", interactive=True
        )
        with gr.Row():
            heads = [
                gr.Gallery(
                    label=f"Where {name} looks",
                    columns=3,
                    height="auto",
                    format="png",
                    object_fit="contain",
                    allow_preview=False,
                    buttons=[],
                    interactive=False,
                    min_width=300,
                    elem_classes="heads",
                )
                for name in names
            ]
        gr.HTML(f"<p>{HELP}</p>")

        def draw(seen: Seen | None, block: int) -> Any:
            shown = [[] for _ in models]
            if seen is not None:
                shown = [tiles(model, maps, seen.picture, block) for model, maps in zip(models, seen.maps, strict=True)]
            return shown if len(shown) > 1 else shown[0]

        def show(path: str, block: int) -> dict[Any, Any]:
            try:
                image, answers, kept = look(models, path)
            except UsageError as error:
                # Gradio puts a file in a folder of its own, whose name says nothing to its owner.
                reason = html.escape(str(error).removeprefix(f"{Path(path).parent}{os.sep}"))
                blank: dict[Any, Any] = dict.fromkeys([picture, seen, *labels])
                return blank | {file: None, refusal: f'<p class="refusal">{reason}</p>'} | dict.fromkeys(heads, [])
            drawn = (tiles(model, maps, kept.picture, block) for model, maps in zip(models, kept.maps, strict=True))
            answered = dict(zip(labels, answers, strict=True)) | dict(zip(heads, drawn, strict=True))
            return answered | {file: None, refusal: "", picture: image, seen: kept}

        outputs = [file, refusal, picture, seen, *labels, *heads]
        file.upload(show, [file, block], outputs)
        block.change(draw, [seen, block], heads, show_progress="hidden", trigger_mode="always_last")
        if examples:

            def choose(block: int, event: gr.SelectData) -> dict[Any, Any]:
                return show(examples[event.index][0], block)

            gallery.select(choose, block, outputs)
    return page


def serve(page: "gradio.Blocks", host: str, port: int) -> None:
    """Start serving, to this address alone and without what gradio adds to a page."""
    import gradio as gr

    from vit.pictures import MAX_BYTES

    # Gradio asks its own server whether it is there, which a proxy for the rest of the world cannot answer.
    os.environ["no_proxy"] = f"127.0.0.1,localhost,{host},{os.environ.get('no_proxy', os.environ.get('NO_PROXY', ''))}"
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=MAX_BYTES,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        css=STYLE,
    )


if __name__ == "__main__":
    door(main, DemoConfig)
