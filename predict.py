"""Classify pictures:  python predict.py checkpoints/multi_head cat.png holiday/ 'more/*.jpg'"""

import csv
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vit.checks import UsageError, printable
from vit.cli import as_json, door, fail
from vit.commands import PredictConfig
from vit.terminal import say

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Item(NamedTuple):
    """A picture that could be read; only this small part of it is kept."""

    file: str
    pixels: "Tensor"  # uint8 (1, 3, size, size), as the model sees it
    small: "Image | None"  # to draw attention on, if that is asked for


def main(config: PredictConfig) -> None:
    folder = None if config.attention is None else Path(config.attention)
    if folder and os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise UsageError(f"attention: expected a new or an empty folder, got {config.attention!r}")
    # PyTorch is imported only once the settings are known to be good.
    import torch
    from tqdm import tqdm

    from vit import checkpoint
    from vit.heads import draw, thumbnail
    from vit.pictures import PictureError, open_picture
    from vit.predict import batches, classify, default_batch_size, ranked, to_pixels
    from vit.progress import has_width

    model = checkpoint.load(config.checkpoint, config.device)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    drawn_into = folder and os.path.realpath(folder)
    write = writer(config.format, model.labels)
    refused = done = 0
    drawn: Counter[str] = Counter()  # by stem: a folder may hold many pictures of one

    def refuse(error: UsageError) -> None:
        nonlocal refused
        refused += 1
        with tqdm.external_write_mode(file=sys.stderr):
            say(f"predict.py: {printable(' '.join(str(error).split()))}")

    def items() -> Iterator[Item]:
        for file in files(config.images, refuse):
            if os.path.dirname(os.path.realpath(file)) == drawn_into:  # a drawing of ours, in a folder that is read
                continue
            try:
                picture = open_picture(file)
            except PictureError as error:
                refuse(error)
            else:
                yield Item(file, to_pixels(model, picture), thumbnail(picture) if folder else None)

    # Rows on a terminal show by themselves how far it is; what stdin will bring is not known before.
    quiet = sys.stdout.isatty() or not has_width()
    total = None if quiet or "-" in config.images else sum(1 for _ in files(config.images, lambda _: None))
    with tqdm(total=total, unit=" pictures", disable=quiet) as bar:
        for batch in batches(items(), config.batch_size or default_batch_size(model)):
            probabilities = classify(model, torch.cat([item.pixels for item in batch]))
            for item, row in zip(batch, probabilities, strict=True):
                predictions = ranked(row, model.labels, config.topk)
                answer: dict[str, Any] = {"file": item.file, "predictions": predictions}
                if folder and item.small:
                    best = f"{item.file}: {predictions[0]['label']} {predictions[0]['score']:.1%}"
                    path = free(folder, item.file, drawn)
                    answer["attention"] = str(draw(model, item.pixels, item.small, best, path))
                write(answer)
                done += 1
            bar.update(len(batch))
    sys.stdout.flush()
    if folder:
        say(f"what each head looks at: {folder} ({drawn.total()} drawn)")
    if refused:
        fail(f"{refused} refused, {done} done", 1)


def free(folder: Path, file: str, drawn: Counter[str]) -> Path:
    """Where to draw on a picture: STEM.png in the folder or, where that exists, STEM-2.png and so on; counts it."""
    stem = Path(file).stem[:50]  # file systems limit the length of a name
    while True:
        drawn[stem] += 1
        path = folder / (f"{stem}.png" if drawn[stem] == 1 else f"{stem}-{drawn[stem]}.png")
        if not path.exists():
            return path


def files(arguments: Iterable[str], refuse: Callable[[UsageError], None]) -> Iterator[str]:
    """The files that the arguments mean, `-` being one argument a line of stdin; what means none is refused."""
    from vit.pictures import PictureError, find_pictures

    for argument in arguments:
        # File names are bytes to the system, and need not be text.
        names = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer) if argument == "-" else [argument]
        some = False
        for name in filter(None, names):
            some = True
            try:
                yield from find_pictures(name)
            except PictureError as error:
                refuse(error)
        if not some:
            refuse(PictureError(f"{argument or 'an empty argument'}: no names of files, which come one a line"))


def writer(form: str, labels: tuple[str, ...]) -> Callable[[dict[str, Any]], None]:
    """What writes one answer, `{"file": name, "predictions": [{"label", "score"}]}`, to stdout."""
    # The same bytes whatever the locale; names that are no text leave as they came.
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]

    def table(answer: dict[str, Any]) -> None:
        scores = "   ".join(f"{each['label']:10} {each['score']:7.2%}" for each in answer["predictions"])
        print(f"{scores}   {printable(answer['file'])}")

    rows = csv.writer(sys.stdout, lineterminator="\n")

    def comma_separated(answer: dict[str, Any]) -> None:
        for label, score in (each.values() for each in answer["predictions"]):
            rows.writerow([answer["file"], labels.index(label), label, score])

    if form == "csv":
        rows.writerow(["filename", "index", "label", "prob"])
    return {"table": table, "json": lambda answer: print(as_json(answer)), "csv": comma_separated}[form]


if __name__ == "__main__":
    door(main, PredictConfig)
