"""A page in the browser:  python -m vit.demo checkpoints/multi_head checkpoints/one_head

Drop a picture, and see what one checkpoint, or two side by side, take it for and where each head of each block looks.
"""

import base64
import html
import importlib.util
import io
import os
import signal
import socket
import tempfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vit.checks import UsageError
from vit.cli import door
from vit.commands import DemoConfig
from vit.terminal import say

if TYPE_CHECKING:
    import gradio
    from PIL.Image import Image
    from torch import Tensor

    from vit.model import VisionTransformer

TILE = 224  # pixels: side of a tile, for screens with two pixels a point
SHOWN = 640  # pixels: longer side of the picture on the page
FIRST = 3  # the example that a page opens with: the cat

STYLE = """
.gradio-container {max-width: 1200px !important; margin: 0 auto !important}
h1, h2, .refusal {overflow-wrap: anywhere}
.refusal {border-left: 4px solid #c2410c; padding: 8px 12px}
#picture img {width: 100%; height: 100%; object-fit: contain}
.tiles {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(120px, 30%), 1fr)); gap: 8px}
.gradio-container h1, .gradio-container h2, .gradio-container h3 {margin: 0 0 6px}
.tiles figure, .tiles img {margin: 0; width: 100%; border-radius: 4px}
.tiles figcaption {font-size: 12px; line-height: 1.3; padding-top: 2px}
/* gradio's own grid is at least 100 pixels a column, which five are too wide for on a phone */
#examples .grid-wrap {min-height: 0; max-height: none; overflow: visible}
#examples .grid-container {padding-top: 22px; grid-template: none / repeat(5, minmax(0, 1fr)); grid-auto-rows: auto}
#examples .thumbnail-item {height: auto; aspect-ratio: auto}
#examples .thumbnail-item img {aspect-ratio: 1}
#examples .caption-label {position: static; max-width: none; padding: 1px 0; border: 0; text-align: center;
  font-size: 11px}
"""
HELP = """A patch is as bright as it is looked at, from 0 to the most of its own tile; the number says how many times
the even share that most is. The mean is that of the block's heads; the rollout follows attention through all blocks."""


class Seen(NamedTuple):
    """What the page keeps of a picture, to draw other blocks."""

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

    say(f"loading {' and '.join(config.checkpoints)}")
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
        reason = str(error.strerror).split(" (while")[0]
        raise UsageError(f"host, port: cannot listen at port {port} of {host} ({reason})") from None


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
    """The name of each model's run, numbered if both have the same."""
    from vit.checkpoint import name_of

    found = [name_of(model) for model in models]
    return found if len(set(found)) == len(found) else [f"{name} ({index})" for index, name in enumerate(found, 1)]


def facts(model: "VisionTransformer") -> str:
    """Heads, parameters and the accuracy that its config.json tells: on test images, else validation, else none."""
    from vit import compute
    from vit.checkpoint import description_of

    heads = sorted(set(model.config.block_heads))
    count = f"{heads[0]} to {heads[-1]} heads" if len(heads) > 1 else f"{heads[0]} head{'s' * (heads != [1])}"
    depth = f"{model.config.depth} block{'s' * (model.config.depth > 1)}"
    parts = [f"{depth} of {count}", f"{compute.count_params(model.config):,} parameters"]
    results = description_of(model)["results"]
    for key, words in (("test/acc", "test accuracy"), ("val/acc", "validation accuracy")):
        if isinstance(results.get(key), float):
            return " · ".join([*parts, f"{words} {100 * results[key]:.2f}\N{NO-BREAK SPACE}%"])
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


def tiles(model: "VisionTransformer", maps: "list[Tensor]", picture: "Image", block: int) -> str:
    """Where a model looks, as HTML: rollout, then the `block_tiles` of one block."""
    from vit.heads import block_tiles, rollout_tile

    if block >= len(maps):
        return f"<p>There is no block {block}.</p>"
    patches = model.config.patches
    figures = []
    for words, image in [rollout_tile(picture, maps, patches), *block_tiles(picture, maps, patches, block)]:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        figures.append(f'<figure><img src="{source}" alt="{words}"><figcaption>{words}</figcaption></figure>')
    return f'<div class="tiles">{"".join(figures)}</div>'


def build(models: "list[VisionTransformer]", names: list[str], examples: list[tuple[str, str]]) -> "gradio.Blocks":
    """The page; gradio must not have been imported before its environment is set."""
    import gradio as gr

    title = f"What {' and '.join(names)} see{'s' * (len(models) == 1)}"
    last = max(model.config.depth for model in models) - 1
    # What was dropped and shown is deleted after an hour.
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(f"<h1>{html.escape(title)}</h1>")
        seen = gr.State()
        with gr.Row():
            with gr.Column(min_width=300):
                # Not gr.Image: that would decode the file before vit.pictures can refuse it.
                file = gr.File(label="Drop a picture", height=140)
                refusal = gr.HTML(visible=False)
                offered = gr.Gallery(
                    examples,
                    label="or take a test image of CIFAR-10",
                    visible=bool(examples),
                    interactive=False,
                    allow_preview=False,
                    buttons=[],
                    elem_id="examples",
                )
            with gr.Column(min_width=300):
                picture = gr.Image(
                    show_label=False, height="min(340px, 60vw)", format="png", buttons=[], elem_id="picture"
                )
        with gr.Row():
            answers = []
            for model, name in zip(models, names, strict=True):
                with gr.Column(min_width=300):
                    gr.HTML(f"<h2>{html.escape(name)}</h2>{html.escape(facts(model))}")
                    answers.append(gr.Label(num_top_classes=5, label="Most probable"))
        block = gr.Slider(0, last, last, step=1, label="Block", buttons=[], interactive=True, visible=last > 0)
        with gr.Row():
            heads = []
            for _ in models:
                with gr.Column(min_width=300):
                    heads.append(gr.HTML())
        gr.HTML(HELP)

        def draw(seen: Seen | None, block: int) -> dict[Any, str]:
            if seen is None:
                return dict.fromkeys(heads, "")
            drawn = {}
            for place, name, model, maps in zip(heads, names, models, seen.maps, strict=True):
                figures = tiles(model, maps, seen.picture, block)
                drawn[place] = f"<h3>Where {html.escape(name)} looks</h3>{figures}"
            return drawn

        def show(path: str, block: int) -> dict[Any, Any]:
            try:
                image, found, kept = look(models, path)
            except UsageError as error:
                # Gradio puts a file in a folder of its own, whose name says nothing to its owner.
                reason = html.escape(str(error).removeprefix(f"{Path(path).parent}{os.sep}"))
                blank: dict[Any, Any] = dict.fromkeys([file, picture, seen, *answers]) | draw(None, block)
                return blank | {refusal: gr.HTML(f'<p class="refusal">{reason}</p>', visible=True)}
            answered = {file: None, refusal: gr.HTML(visible=False), picture: image, seen: kept}
            return answered | dict(zip(answers, found, strict=True)) | draw(kept, block)

        def choose(block: int, event: gr.SelectData) -> dict[Any, Any]:
            return show(examples[event.index][0], block)

        shown = [file, refusal, picture, seen, *answers, *heads]
        file.upload(show, [file, block], shown)
        offered.select(choose, block, shown)
        block.change(draw, [seen, block], heads, show_progress="hidden", trigger_mode="always_last")
        if examples:
            page.load(partial(show, examples[FIRST][0]), block, shown)
    return page


def serve(page: "gradio.Blocks", host: str, port: int) -> None:
    """Start serving at this address alone, without what gradio adds to a page."""
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
