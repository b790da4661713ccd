"""The charts of a study's page, with Altair. Text and axes get their colours from the page's style sheet."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from vit.report.arms import Arm, Quantity, common_seeds, costs_of, quantity, spread
from vit.report.findings import ACCURACY, NEAR, Findings, front, main_cost
from vit.report.looks import INK, Look
from vit.report.wording import SIGNS, amount, between, said
from vit.statistics import mean_interval

Points = list[dict[str, Any]]

DECADE = 10.0  # costs that span more are drawn on a logarithmic axis
ROW = 50  # pixels
# What is drawn as data say: a colour, a shape.
COLOUR, SHAPE = alt.Color("colour:N", scale=None), alt.Shape("shape:N", scale=None)
HEAD_COSTS = (
    "compute/train_flops",
    "compute/train_seconds",
    "compute/peak_memory_bytes",
    "inference/batch_1_seconds",
    "inference/batch_256_seconds",
)


@dataclass(frozen=True)
class Chart:
    """A chart by its name in the page, with what it shows, and the file that it goes to ("" for none).

    The data are apart from the picture, which knows them by name: Altair copies what it holds many times over.
    """

    name: str
    title: str
    about: str
    picture: alt.LayerChart | alt.FacetChart  # layers, whose type Altair cannot tell
    data: dict[str, Points]
    file: str = ""


def charts(findings: Findings, look: dict[str, Look]) -> list[Chart]:
    """All charts of a page, in its order; accuracy once against every cost that was measured, but one file of it."""
    made = [accuracy_against(cost, findings, look) for cost in costs_of(findings.arms)]
    if any(test.paired for test in findings.comparisons):
        made.append(differences(findings, look))
    if any(arm.curves for arm in findings.arms):
        made.append(curves(findings, look))
    return [*made, *costs_by_heads(findings.arms, look)]


def accuracy_against(cost: Quantity, findings: Findings, look: dict[str, Look]) -> Chart:
    """Mean test accuracy of each arm with its interval, its seeds behind it, and the Pareto front of the means."""
    arms = findings.arms
    best = front(arms, cost.key)
    roomy = with_room(best, arms, cost.key)
    places = side_by_side(arms, cost.key)
    means: Points = []
    dots: Points = []
    for arm in arms:
        at, offset = places[arm.name]
        drawn = {"x": at * cost.scale, "offset": offset, "colour": look[arm.name].colour, "shape": look[arm.name].shape}
        named = arm.name if arm in roomy else ""
        means.append({**mean_point(arm, findings), **drawn, "name": named, "last": len(best) > 1 and arm is best[-1]})
        accuracy, costs = arm.values[ACCURACY], arm.values[cost.key]
        seeds = sorted(accuracy.keys() & costs.keys())
        # Moved with their mean: what a seed's cost differs from it stays.
        moved = at - (arm.mean(cost.key) or 0.0)
        dots += [{**drawn, "x": (costs[seed] + moved) * cost.scale, "y": 100 * accuracy[seed]} for seed in seeds]
    steps = [point for arm in best for point in means if point["arm"] == arm.name]
    data = {f"{name}_{slug(cost)}": points for name, points in (("steps", steps), ("dots", dots), ("means", means))}
    line, spots, marks = (alt.Chart(alt.NamedData(name)) for name in data)

    far = spread(arms, cost.key) >= DECADE
    scale = alt.Scale(type="log", nice=False, padding=26) if far else alt.Scale(zero=False, padding=26)
    x = alt.X("x:Q", title=cost.axis, scale=scale, axis=alt.Axis(tickCount=5, format=",.4~r"))
    y = alt.Y("y:Q", title="test accuracy (%)", scale=alt.Scale(zero=False, padding=16))
    shown = [
        alt.Tooltip(f"{key}:N") for key in means[0] if key not in (*drawn, "x", "y", "low", "high", "name", "last")
    ]
    layers = [line.mark_line(interpolate="step-after", color=INK, strokeDash=[3, 3]).encode(x=x, y=y)]
    for offset in sorted({offset for _, offset in places.values()}):  # Vega-Lite shifts all of a layer or nothing
        here = alt.datum.offset == offset
        some, several = spots.transform_filter(here), marks.transform_filter(here)
        symbols = some.mark_point(size=16, opacity=0.45, filled=True, xOffset=offset)
        layers.append(symbols.encode(x=x, y=y, color=COLOUR, shape=SHAPE))
        bars = several.mark_rule(strokeWidth=2, xOffset=offset)
        layers.append(bars.encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=COLOUR))
        symbols = several.mark_point(size=90, filled=True, opacity=1, xOffset=offset)
        layers.append(symbols.encode(x=x, y=y, color=COLOUR, shape=SHAPE, tooltip=shown))
    first = marks.transform_filter("datum.name && !datum.last").mark_text(align="left", dx=8, dy=-11, fontWeight=600)
    layers.append(first.encode(x=x, y=y, text="name:N"))
    if len(best) > 1:  # the last name would reach over the edge
        last = marks.transform_filter("datum.last").mark_text(align="right", dx=-8, dy=-11, fontWeight=600)
        layers.append(last.encode(x=x, y=y, text="name:N"))
    about = f"Test accuracy of {len(arms)} arms against {cost.title}: means, intervals, seeds and Pareto front."
    file = "accuracy" if cost == main_cost(arms) else ""
    return Chart(f"accuracy_{slug(cost)}", cost.axis, about, alt.layer(*layers).properties(height=360), data, file)


def with_room(best: Sequence[Arm], arms: Sequence[Arm], key: str) -> list[Arm]:
    """Those of the front whose names do not run into each other: the most accurate, and others far enough from it."""

    def place(arm: Arm) -> float:
        cost = arm.mean(key) or 0.0
        return math.log(cost) if spread(arms, key) >= DECADE else cost

    width = max(map(place, arms)) - min(map(place, arms))
    named: list[Arm] = []
    for arm in reversed(best):
        if all(abs(place(arm) - place(other)) > width / 3 for other in named):
            named.append(arm)
    return named


def slug(cost: Quantity) -> str:
    return cost.key.split("/")[-1]


def side_by_side(arms: Sequence[Arm], key: str) -> dict[str, tuple[float, int]]:
    """The cost at which to draw each arm, and by how many pixels beside it.

    Arms of nearly equal cost and accuracy would cover each other: they stand around the cost of the most accurate of
    them, in the order of their costs, those of one cost in the study's.
    """
    close = 0.1 * (max(arm.accuracy for arm in arms) - min(arm.accuracy for arm in arms))
    cost = {arm.name: arm.mean(key) or 0.0 for arm in arms}
    crowds: list[list[Arm]] = []
    for arm in sorted(arms, key=lambda arm: -arm.accuracy):
        for crowd in crowds:
            low, high = sorted(cost[each.name] for each in (arm, crowd[0]))
            if high < NEAR * low and crowd[0].accuracy - arm.accuracy <= close:
                crowd.append(arm)
                break
        else:
            crowds.append([arm])
    places: dict[str, tuple[float, int]] = {}
    for crowd in crowds:
        in_order = sorted(crowd, key=lambda arm: (cost[arm.name], arms.index(arm)))
        places |= {arm.name: (cost[crowd[0].name], 5 * (2 * at - len(crowd) + 1)) for at, arm in enumerate(in_order)}
    return places


def mean_point(arm: Arm, findings: Findings) -> dict[str, Any]:
    """A mean with everything that hovering over it tells."""
    low, high = mean_interval(arm.of(ACCURACY))
    single = math.isnan(low)
    return {
        "y": 100 * arm.accuracy,
        "low": 100 * (arm.accuracy if single else low),
        "high": 100 * (arm.accuracy if single else high),
        "arm": arm.name,
        "seeds": str(arm.n),
        "test accuracy": f"{100 * arm.accuracy:.2f} %",
        "95 % interval": "one seed: none" if single else f"{100 * low:.2f} to {100 * high:.2f} %",
        **{each.title: each.show(arm.mean(each.key) or 0.0) for each in costs_of(findings.arms)},
    }


def differences(findings: Findings, look: dict[str, Look]) -> Chart:
    """Of every comparison the mean difference, its interval and a dot for each seed, on the band of the margin."""
    margin = findings.study.margin
    means: Points = []
    dots: Points = []
    for test in findings.all:
        if test.paired is None:
            continue
        style = look.get(test.b, Look(INK, "circle", [1, 0], "", ""))  # an interaction is of no arm
        drawn = {"row": ROW * len(means) + 34, "colour": style.colour}
        mean = 100 * test.paired.mean
        single = math.isnan(test.paired.low)
        ends = (mean, mean) if single else (100 * test.paired.low, 100 * test.paired.high)
        told = {"comparison": test.label, "difference": amount(test, test.paired.mean), "seeds": str(test.paired.n)}
        told |= {"95 % interval": between(test) or "too few seeds", "reading": test.read(findings.margin)}
        value = told["difference"].split()[0]
        words = {
            "long": f"{value} {said(test, findings.margin)}",
            "brief": f"{value} {SIGNS[test.read(findings.margin)]}",
        }
        place = {"arm": test.b, "x": mean, "low": ends[0], "high": ends[1], "shape": style.shape}
        means.append({**words, **place, **drawn, **told})
        dots += [{"x": 100 * value, **drawn} for _, value in sorted(test.differences.items())]
    reach = [*(dot["x"] for dot in dots), *(point[end] for point in means for end in ("low", "high"))]
    low, high = min(*reach, -1.3 * margin), max(*reach, 1.3 * margin)
    room = 0.04 * (high - low)
    height = ROW * len(means) + 4
    x = alt.X(
        "x:Q",
        title="difference in test accuracy (points)",
        scale=alt.Scale(domain=[low - room, high + room], nice=False),
        axis=alt.Axis(tickCount=6, format=".3~r"),
    )
    y = alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[0, height], nice=False, reverse=True))
    data = {"band": [{"x": -margin, "x2": margin, "zero": 0}], "differences": dots, "mean_differences": means}
    band, spots, marks = (alt.Chart(alt.NamedData(name)) for name in data)
    shown = [alt.Tooltip(f"{key}:N") for key in told]
    worded = marks.transform_calculate(said="width > 450 ? datum.long : datum.brief")
    picture = alt.layer(
        band.mark_rect(color=INK, opacity=0.16).encode(x=x, x2="x2:Q"),
        band.mark_rule(color=INK).encode(x=alt.X("zero:Q")),
        spots.mark_point(size=22, filled=True, opacity=0.4, shape="circle").encode(x=x, y=y, color=COLOUR),
        marks.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=COLOUR),
        marks.mark_point(size=120, filled=True, opacity=1).encode(x=x, y=y, color=COLOUR, shape=SHAPE, tooltip=shown),
        marks.mark_text(align="left", fontWeight=600, dy=-19).encode(x=alt.value(4), y=y, text="comparison:N"),
        worded.mark_text(align="right", dy=-19).encode(x=alt.value("width"), y=y, text="said:N"),
    )
    about = "Differences in test accuracy of every comparison, paired by seed, with interval and margin."
    return Chart("differences", "Differences", about, picture.properties(height=height), data, "differences")


def curves(findings: Findings, look: dict[str, Look]) -> Chart:
    """Validation accuracy against training FLOPs: the mean of each arm and the 95 % interval of it."""
    points: Points = []
    for arm in findings.arms:
        runs = [dict(curve) for curve in arm.curves.values()]
        for flops in sorted(set.intersection(*(set(run) for run in runs))) if runs else []:
            values = [run[flops] for run in runs]
            mean = statistics.fmean(values)
            low, high = mean_interval(values) if len(values) > 1 else (mean, mean)
            told = {"validation accuracy": f"{100 * mean:.2f} %", "training compute": f"{flops / 1e15:.3g} PFLOP"}
            place = {"x": flops / 1e15, "y": 100 * mean, "low": 100 * low, "high": 100 * high}
            points.append({"arm": arm.name, "seeds": str(len(values)), **place, **told})
    names = list(dict.fromkeys(point["arm"] for point in points))
    far = max(point["x"] for point in points) > 2 * DECADE * min(point["x"] for point in points) > 0
    scale = alt.Scale(type="log" if far else "linear", nice=False, padding=8)
    x = alt.X("x:Q", title="training compute (PFLOP)", scale=scale, axis=alt.Axis(tickCount=5, format=",.4~r"))
    y = alt.Y("y:Q", title="validation accuracy (%)", scale=alt.Scale(zero=False))
    colour = alt.Color("arm:N", scale=alt.Scale(domain=names, range=[look[n].colour for n in names]), legend=None)
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=names, range=[look[n].dash for n in names]), legend=None)
    base = alt.Chart(alt.NamedData("curves"))
    shown = [alt.Tooltip(f"{key}:N") for key in ("arm", "seeds", "validation accuracy", "training compute")]
    picture = alt.layer(
        base.mark_area(opacity=0.12).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour),
        base.mark_line(strokeWidth=2, point={"size": 18}).encode(x=x, y=y, color=colour, strokeDash=dash),
        base.mark_point(size=90, opacity=0, filled=True).encode(x=x, y=y, color=colour, tooltip=shown),
    )
    about = "Validation accuracy against training compute, mean of each arm."
    return Chart("curves", "Learning curves", about, picture.properties(height=340), {"curves": points}, "curves")


def costs_by_heads(arms: Sequence[Arm], look: dict[str, Look]) -> Iterator[Chart]:
    """A chart for each cost: that of many heads over that of one, among arms that differ in nothing else."""
    for cost in map(quantity, HEAD_COSTS):
        points = [point for family in families(arms, look) for point in relative(family, cost, look)]
        if not points:
            continue
        heads = sorted({point["heads"] for point in points})
        reach = [point[end] for point in points for end in ("low", "high")]
        # At least from 0.8 to 1.25, so that noise does not look like a difference.
        scale = alt.Scale(domain=[0.98 * min([0.82, *reach]), 1.02 * max([1.23, *reach])], nice=False)
        x = alt.X("heads:O", title="heads", sort=heads, axis=alt.Axis(labelAngle=0))
        y = alt.Y("y:Q", title="times that of one head", scale=scale, axis=alt.Axis(tickCount=5, format=".3~r"))
        data = {"one": [{"y": 1}], f"ratios_{slug(cost)}": points}
        one, marks = (alt.Chart(alt.NamedData(name)) for name in data)
        shown = [alt.Tooltip(f"{key}:N") for key in ("arm", "times that of", "seeds", "ratio")]
        picture = alt.layer(
            one.mark_rule(color=INK, strokeDash=[3, 3]).encode(y=y),
            marks.mark_line(color=INK, strokeWidth=1.5).encode(x=x, y=y, detail="times that of:N"),
            marks.mark_rule(strokeWidth=2).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=COLOUR),
            marks.mark_point(size=90, filled=True, opacity=1).encode(
                x=x, y=y, color=COLOUR, shape=SHAPE, tooltip=shown
            ),
        )
        about = f"{cost.title} of many heads over that of one head, by number of heads."
        title = cost.title[0].upper() + cost.title[1:]
        yield Chart(f"cost_{slug(cost)}", title, about, picture.properties(height=220), data, "cost")


def families(arms: Sequence[Arm], look: dict[str, Look]) -> Iterator[list[Arm]]:
    """Arms that differ in their number of heads alone, by that number, one head first."""
    for rest in dict.fromkeys(look[arm.name].rest for arm in arms):
        alike = [
            arm for arm in arms if look[arm.name].rest == rest and isinstance(arm.settings.get("model.heads"), int)
        ]
        counts = {arm.settings["model.heads"]: arm for arm in alike}
        if 1 in counts and len(counts) > 1:
            yield [counts[heads] for heads in sorted(counts)]


def relative(family: Sequence[Arm], cost: Quantity, look: dict[str, Look]) -> Points:
    """Each arm's cost over that of the one-head arm, paired by seed; [] if one has none.

    The geometric mean and its 95 % interval: of logarithms, so that the bounds of few seeds stay above 0, and twice as
    much counts like half.
    """
    points: Points = []
    for arm in family:
        seeds = common_seeds(cost.key, [family[0], arm])
        pairs = [(family[0].values[cost.key][seed], arm.values[cost.key][seed]) for seed in seeds]
        logs = [math.log(own / base) for base, own in pairs if base and own]
        if not logs:
            return []
        mean = math.exp(statistics.fmean(logs))
        low, high = map(math.exp, mean_interval(logs)) if len(logs) > 1 else (mean, mean)
        told = {"arm": arm.name, "times that of": family[0].name, "seeds": str(len(logs)), "ratio": f"{mean:.3f}"}
        drawn = {"colour": look[arm.name].colour, "shape": look[arm.name].shape}
        points.append({"heads": arm.settings["model.heads"], "y": mean, "low": low, "high": high, **drawn, **told})
    return points
