"""How an arm is drawn, the same in every figure of a page, and what all charts have in common."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vit.report.arms import Arm
from vit.study import Study

# A colour for each head count, the same in every study. Colour-blind eyes tell them apart, and all have a contrast of
# at least 3 : 1 on white and on the page's dark background (tests/test_looks.py); shapes help where hues are many.
COLOURS = {"1": "#e1781e", "2": "#964b78", "4": "#0f69b4", "8": "#a58778", "16": "#c31e2d", "3": "#d278a5",
           "6": "#8787ff", "12": "#f05a4b"}  # fmt: skip
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 3], [4, 1], [1, 3], [10, 2, 2, 2])
INK = "#7a828e"  # what belongs to no arm
# Outlines of Vega's shapes of these names within a square from -1 to 1, for the page's own legend.
SHAPES = {
    "circle": "M-1,0A1,1,0,1,1,1,0A1,1,0,1,1,-1,0Z",
    "square": "M-.9,-.9H.9V.9H-.9Z",
    "triangle-up": "M0,-1L1,.9H-1Z",
    "diamond": "M0,-1.1L1.1,0L0,1.1L-1.1,0Z",
    "cross": "M-1,-.4H-.4V-1H.4V-.4H1V.4H.4V1H-.4V.4H-1Z",
    "triangle-down": "M0,1L1,-.9H-1Z",
    "triangle-right": "M1,0L-.9,1V-1Z",
    "triangle-left": "M-1,0L.9,1V-1Z",
}


@dataclass(frozen=True)
class Look:
    """How an arm is drawn everywhere: a hue for its heads (or itself), a shape for its other settings."""

    colour: str
    shape: str
    dash: list[int]
    heads: str  # what the hue says
    rest: str  # what the shape says


def looks(study: Study, arms: Sequence[Arm], keys: Sequence[str]) -> dict[str, Look]:
    """The look of each arm. `keys` are the settings in which arms differ."""
    by_heads = "model.heads" in keys
    base = {**study.base_settings, **study.settings}
    others = [key for key in keys if key != "model.heads"] if by_heads else []
    said = {arm.name: heads_of(arm) if by_heads else arm.name for arm in arms}
    rests = {arm.name: describe({key: arm.settings.get(key) for key in others}, base) for arm in arms}
    fixed = COLOURS if by_heads else {}
    hues = {head: fixed[head] for head in said.values() if head in fixed}
    free = [colour for colour in COLOURS.values() if colour not in hues.values()]
    for head in dict.fromkeys(said.values()):
        if head not in hues:
            hues[head] = free.pop(0) if free else list(COLOURS.values())[len(hues) % len(COLOURS)]
    order = list(dict.fromkeys(rests.values()))
    found: dict[str, Look] = {}
    taken: set[tuple[str, int]] = set()
    for name, rest in rests.items():
        hue, first = hues[said[name]], order.index(rest)
        numbers = [(first + step) % len(DASHES) for step in range(len(DASHES))]
        number = next((each for each in numbers if (hue, each) not in taken), numbers[0])  # where one is left
        taken.add((hue, number))
        found[name] = Look(hue, list(SHAPES)[number], DASHES[number], said[name], rest)
    return found


def heads_of(arm: Arm) -> str:
    return json.dumps(arm.settings.get("model.heads")).replace("[", "").replace("]", "")


def describe(settings: dict[str, Any], base: dict[str, Any]) -> str:
    """What differs from the study's base, e.g. `adamw, weight_decay 0.05`."""
    parts = []
    for key, value in settings.items():
        if value != base.get(key):
            text = value if isinstance(value, str) else json.dumps(value)
            parts.append(text if key.endswith("name") else f"{key.rsplit('.', 1)[-1]} {text}")
    return ", ".join(parts)
