"""Colours of charts: seen by every eye, on light and on dark."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vit.report.arms import Arm, differing
from vit.report.looks import COLOURS, INK, looks
from vit.run_folder import material
from vit.study_file import load_study

ROOT = Path(__file__).parents[1]
PAPERS = {"light": "#ffffff", "dark": "#14171b"}
# Linear RGB as seen with each kind of dichromacy (Machado, Oliveira & Fernandes 2009, severity 1).
EYES = {
    "ordinary": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(colour: str) -> NDArray[np.float64]:
    values = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* of linear sRGB, (3,)."""
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(matrix @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089])  # none is so dark that this would not hold
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("name", ["ablation", "heads", "heads_more", "shapes"])
def test_no_two_arms_look_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sixteen that differ in anything but heads, or of nine ways of having some heads."""
    monkeypatch.chdir(ROOT)
    study = load_study(f"configs/studies/{name}.yaml")
    arms = [Arm(arm, material(study.config(arm, {}))) for arm in study.arms]
    found = looks(study, arms, differing(arms))
    assert len({(look.colour, look.shape) for look in found.values()}) == len(arms)
    assert len({(look.colour, *look.dash) for look in found.values()}) == len(arms)


@pytest.mark.parametrize("paper", PAPERS)
def test_contrast_is_at_least_3_to_1(paper: str) -> None:
    luminance = np.array([0.2126, 0.7152, 0.0722])
    ground = luminance @ linear(PAPERS[paper]) + 0.05
    for colour in [*COLOURS.values(), INK]:
        ratio = (luminance @ linear(colour) + 0.05) / ground
        assert max(ratio, 1 / ratio) >= 3, colour


@pytest.mark.parametrize("eye", EYES)
def test_colours_are_told_apart_by_every_eye(eye: str) -> None:
    seen = {heads: lab(np.array(EYES[eye]) @ linear(colour)) for heads, colour in COLOURS.items()}
    for one, other in itertools.combinations(seen, 2):
        usual = {one, other} <= {"1", "2", "4", "8", "16"}
        assert np.linalg.norm(seen[one] - seen[other]) > (25 if usual else 15), (one, other)
