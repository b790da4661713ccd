"""Write the measured numbers into README.md, pages of docs/ and the headers of configs/, from csv files:

    python docs/write_numbers.py

In a page a generated part stands between `<!-- numbers: NAME -->` and `<!-- end -->`, which nobody sees once it is
rendered: a paragraph or table with both on lines of their own, or some words inside a sentence. tests/test_numbers.py
fails where a file is not what this makes of it.
"""

import itertools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import compared
import search
import speed
import trained

from vit.checks import UsageError
from vit.cli import fail
from vit.files import atomic
from vit.terminal import say

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md", "docs/findings.md", "docs/recipe.md", "docs/reproduce.md", "docs/studies.md", "docs/training.md",
    "docs/using.md", "benchmarks/README.md",
)  # fmt: skip
END = "<!-- end -->"

PARTS: dict[str, Callable[[Path], str]] = {
    "heads": compared.heads,
    "heads_table": compared.heads_table,
    **{f"{study}_in_words": partial(compared.heads_in_words, study=study) for study in ("whole_images", "quickstart")},
    **{
        f"{study}_rates": partial(compared.learning_rates, study=study)
        for study in ("heads", "whole_images", "quickstart")
    },
    "results": trained.results,
    "beside_published": trained.beside_published,
    **{study: partial(compared.changes, study=study) for study in ("ablation", "shapes")},
    "window_gain": compared.window_gain,
    "window_gain_unseen": partial(compared.window_gain, but=compared.CHOOSING),
    "heads_unseen": compared.heads_unseen,
    "pieces": search.pieces,
    "fast_path": compared.fast_path,
    "validation_spread": compared.validation_spread,
    "seed_spread": compared.seed_spread,
    "past_80": trained.past_80,
    "throughput": speed.throughput,
    "against_peers": speed.against_peers,
    "scaling": speed.scaling,
    "export_latency": speed.export_latency,
    "window": speed.window,
    **{f"trials_{base}": partial(search.trials, base=base) for base in search.BASES},
}


def generate(root: Path) -> dict[Path, str]:
    """Every file with generated parts, and the text it should have.

    Raises:
        UsageError: a part has an unknown name or no end, or what it is made from is missing.
    """
    pages = [root / page for page in PAGES if (root / page).exists()]
    names = [*trained.with_twins(root), *(name for name in trained.PLAIN if (root / f"configs/{name}.yaml").exists())]
    configs = {root / "configs" / f"{name}.yaml": trained.with_header(root, name) for name in names}
    return {page: fill(page, root) for page in pages} | configs


def fill(page: Path, root: Path) -> str:
    """A page's text with its generated parts made anew."""
    pieces = re.split(r"(<!-- numbers: \S+ -->|<!-- end -->)", page.read_text())
    openings, ends = pieces[1::4], pieces[3::4]  # if all is well: text, opening, part, end, text, ...
    for opening, end in itertools.zip_longest(openings, ends):
        if end != END or opening == END:
            raise UsageError(f"{page}: each <!-- numbers: NAME --> needs one {END}; see {opening}")
    for at in range(1, len(pieces), 4):
        before, opening, old = pieces[at - 1 : at + 2]
        block = old.startswith("\n")
        if not block and (not before or before.endswith("\n")):
            raise UsageError(f"{page}: {opening} begins a line and is not alone on it, which Markdown takes for HTML")
        try:
            new = part(root, opening.split()[2])
        except UsageError as error:
            raise UsageError(f"{page}: {opening}: {error}") from None
        except KeyError as error:
            raise UsageError(f"{page}: {opening}: its csv file has nothing for {error}") from None
        except ValueError as error:  # too few rows for a mean or a spread, several for what there is one of
            raise UsageError(f"{page}: {opening}: its csv file does not have the rows expected ({error})") from None
        pieces[at + 1] = f"\n{new}\n" if block else new
    return "".join(pieces)


def part(root: Path, name: str) -> str:
    if name in PARTS:
        return PARTS[name](root)
    config, _, figure = name.rpartition("/")
    if figure == "acc" and config in trained.with_twins(root):
        return trained.accuracy(root, config)
    raise UsageError(f"no such part; there are {', '.join([*PARTS, '<config>/acc'])}")


def main() -> None:
    try:
        for path, text in generate(ROOT).items():
            if path.read_text() != text:
                with atomic(path) as part:
                    part.write_text(text)
                say(f"{path.relative_to(ROOT)}: written")
    except UsageError as error:
        fail(str(error), error.code)


if __name__ == "__main__":
    main()
