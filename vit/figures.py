"""The charts of a study's page, with Altair. Text and axes get their colours from the page's style sheet."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from vit.arms import Arm, Quantity, costs_of, quantity, spread
from vit.findings import ACCURACY, Difference, Findings, amount, between, front, main_cost
from vit.looks import INK, Look
from vit.statistics import mean_interval

DECADE = 10.0  # costs that span more are drawn on a logarithmic axis
HEAD_COSTS = (
    "compute/train_flops",
    "compute/train_seconds",
    "compute/peak_memory_bytes",
    "inference/batch_1_seconds",
    "inference/batch_256_seconds",
)


@dataclass(frozen=True)
class Chart:
    """A chart by its name in the page, with what it shows, and the file that it goes to ("" for none)."""

    name: str
    title: str
    about: str
    picture: alt.LayerChart
    file: str = ""


def charts(findings: Findings, look: dict[str, Look]) -> list[Chart]:
    """All charts of a page, in its order; accuracy once against every cost that was measured, but one file of it."""
    arms, made = findings.arms, []
    for cost in costs_of(arms):
        about = f"Test accuracy of {len(arms)} arms against {cost.title}: means, intervals, seeds and Pareto front."
        file = "accuracy" if cost == main_cost(arms) else ""
        picture = accuracy_against(cost, findings, look)
        made.append(Chart(f"accuracy_{slug(cost)}", cost.axis, about, picture, file))
    if any(test.paired for test in findings.comparisons):
        about = "Differences in test accuracy of every comparison, paired by seed, with interval and margin."
        made.append(Chart("differences", "Differences", about, differences(findings, look), "differences"))
    if curve := curves(findings, look):
        about = "Validation accuracy against training compute, mean of each arm."
        made.append(Chart("curves", "Learning curves", about, curve, "curves"))
    for cost, picture in costs_by_heads(arms, look):
        about = f"{cost.title} of many heads over that of one head, by number of heads."
        made.append(Chart(f"cost_{slug(cost)}", cost.title.capitalize(), about, picture, "cost"))
    return made


def slug(cost: Quantity) -> str:
    return cost.key.split("/")[-1]


def accuracy_against(cost: Quantity, findings: Findings, look: dict[str, Look]) -> alt.LayerChart:
    """Mean test accuracy of each arm with its interval, its seeds behind it, and the Pareto front of the means."""
    arms = findings.arms
    far = spread(arms, cost.key) >= DECADE
    scale = alt.Scale(type="log" if far else "linear", zero=False, nice=not far, padding=26)
    x = alt.X("x:Q", title=cost.axis, scale=scale, axis=alt.Axis(tickCount=5, format="~s" if far else "~g"))
    y = alt.Y("y:Q", title="test accuracy (%)", scale=alt.Scale(zero=False, padding=16))
    best = front(arms, cost.key)
    steps = [{"x": (arm.mean(cost.key) or 0) * cost.scale, "y": 100 * arm.accuracy} for arm in best]
    step = alt.Chart(alt.InlineData(steps)).mark_line(interpolate="step-after", color=INK, strokeDash=[3, 3])
    layers = [step.encode(x=x, y=y)]
    offsets = side_by_side(arms, cost.key)
    for arm in arms:
        # Also the interval and the mean carry the offset: arms of equal cost stand side by side, not on each other.
        drawn: dict[str, Any] = {"xOffset": offsets[arm.name], "color": look[arm.name].colour}
        shape = look[arm.name].shape
        seeds = sorted(arm.values[ACCURACY].keys() & arm.values[cost.key].keys())
        dots = [{"x": arm.values[cost.key][s] * cost.scale, "y": 100 * arm.values[ACCURACY][s]} for s in seeds]
        mean = point_of(arm, cost, findings)
        points = alt.Chart(alt.InlineData(dots)).mark_point(size=16, opacity=0.45, filled=True, shape=shape, **drawn)
        layers.append(points.encode(x=x, y=y))
        if "low" in mean:
            rule = alt.Chart(alt.InlineData([mean])).mark_rule(strokeWidth=2, **drawn)
            layers.append(rule.encode(x=x, y=alt.Y("low:Q"), y2="high:Q"))
        mark = alt.Chart(alt.InlineData([mean])).mark_point(size=120, filled=True, opacity=1, shape=shape, **drawn)
        shown = [alt.Tooltip(f"{field}:N") for field in mean if field not in ("x", "y", "low", "high")]
        layers.append(mark.encode(x=x, y=y, tooltip=shown))
    for arm in best:
        last = arm is best[-1] and len(best) > 1
        name = alt.Chart(alt.InlineData([point_of(arm, cost, findings)])).mark_text(
            align="right" if last else "left", dx=-10 if last else 10, dy=-10, fontWeight=600, xOffset=offsets[arm.name]
        )
        layers.append(name.encode(x=x, y=y, text="arm:N"))
    return alt.layer(*layers).properties(height=360)


def side_by_side(arms: Sequence[Arm], key: str) -> dict[str, float]:
    """Pixels by which arms of (nearly) equal cost are moved apart, the most accurate staying in its place."""
    offsets: dict[str, float] = {}
    taken: list[tuple[float, int]] = []
    for arm in sorted(arms, key=lambda arm: -arm.accuracy):
        cost = arm.mean(key) or 0.0
        near = sum(abs(other - cost) <= 0.002 * cost for other, _ in taken)
        offsets[arm.name] = (1 if near % 2 else -1) * 9 * ((near + 1) // 2)
        taken.append((cost, near))
    return offsets


def point_of(arm: Arm, cost: Quantity, findings: Findings) -> dict[str, Any]:
    """A mean with everything that hovering over it tells."""
    x, y = (arm.mean(cost.key) or 0.0) * cost.scale, 100 * arm.accuracy
    low, high = mean_interval(arm.of(ACCURACY))
    point: dict[str, Any] = {"x": x, "y": y, "arm": arm.name, "seeds": str(arm.n), "test accuracy": f"{y:.2f} %"}
    if not math.isnan(low):
        point |= {"low": 100 * low, "high": 100 * high, "95 % interval": f"{100 * low:.2f} to {100 * high:.2f} %"}
    for each in costs_of(findings.arms):
        point[each.title] = each.show(arm.mean(each.key) or 0.0)
    return point


def differences(findings: Findings, look: dict[str, Look]) -> alt.LayerChart:
    """Of every comparison the mean difference, its interval and a dot for each seed, on the band of the margin."""
    tests = [test for test in findings.comparisons + findings.interactions if test.paired]
    step, margin = 50, findings.study.margin
    values = [100 * value for test in tests for value in test.differences.values()]
    bounds = [100 * bound for test in tests if test.paired for bound in (test.paired.low, test.paired.high)]
    reach = [*values, *(bound for bound in bounds if not math.isnan(bound)), -1.4 * margin, 1.4 * margin]
    room = 0.04 * (max(reach) - min(reach))
    scale = alt.Scale(domain=[min(reach) - room, max(reach) + room], nice=False)
    x = alt.X("x:Q", title="difference in test accuracy (points)", scale=scale, axis=alt.Axis(tickCount=6))
    rows = alt.Scale(domain=[0, step * len(tests)], nice=False, reverse=True)
    y = alt.Y("y:Q", title=None, axis=None, scale=rows)
    band = alt.Chart(alt.InlineData([{"x": -margin, "x2": margin}])).mark_rect(color=INK, opacity=0.16)
    zero = alt.Chart(alt.InlineData([{"x": 0}])).mark_rule(color=INK)
    layers = [band.encode(x=x, x2="x2:Q"), zero.encode(x=x)]
    for index, test in enumerate(tests):
        paint = look[test.b] if test.b in look else Look(INK, "circle", [1, 0], "", "")
        layers += difference_row(test, test.read(findings.margin), paint, index * step + 34, x, y)
    return alt.layer(*layers).properties(height=step * len(tests) + 4)


def difference_row(test: Difference, reading: str, look: Look, row: int, x: alt.X, y: alt.Y) -> list[alt.Chart]:
    assert test.paired is not None
    colour = alt.value(look.colour)
    told = {"comparison": test.label, "difference": amount(test, test.paired.mean), "n": str(test.paired.n)}
    told |= {"95 % interval": between(test) or "none: too few seeds", "reading": reading}
    mean = {"x": 100 * test.paired.mean, "y": row, **told}
    title = alt.Chart(alt.InlineData([{"y": row - 20, "label": test.label, "reading": reading}]))
    dots = [{"x": 100 * value, "y": row} for _, value in sorted(test.differences.items())]
    spots = alt.Chart(alt.InlineData(dots)).mark_point(size=22, filled=True, opacity=0.4, shape="circle")
    layers = [
        title.mark_text(align="left", fontSize=12, fontWeight=600).encode(x=alt.value(4), y=y, text="label:N"),
        spots.encode(x=x, y=y, color=colour),
    ]
    if between(test):
        ends = {"x": 100 * test.paired.low, "x2": 100 * test.paired.high, "y": row}
        rule = alt.Chart(alt.InlineData([ends])).mark_rule(strokeWidth=2.5)
        layers.append(rule.encode(x=x, x2="x2:Q", y=y, color=colour))
    mark = alt.Chart(alt.InlineData([mean])).mark_point(size=120, filled=True, opacity=1)
    shown = [alt.Tooltip(f"{field}:N") for field in told]
    layers.append(mark.encode(x=x, y=y, color=colour, shape=alt.value(look.shape), tooltip=shown))
    return layers


def curves(findings: Findings, look: dict[str, Look]) -> alt.LayerChart | None:
    """Validation accuracy against training FLOPs: the mean of each arm and the 95 % interval of it."""
    points = []
    for arm in findings.arms:
        runs = [dict(curve) for curve in arm.curves.values()]
        for flops in sorted(set.intersection(*(set(run) for run in runs))) if runs else []:
            values = [run[flops] for run in runs]
            low, high = (statistics.fmean(values),) * 2 if len(values) == 1 else mean_interval(values)
            points.append(
                {"arm": arm.name, "x": flops / 1e15, "y": 100 * statistics.fmean(values), "low": 100 * low}
                | {"high": 100 * high, "validation accuracy": f"{100 * statistics.fmean(values):.2f} %"}
                | {"training compute": f"{flops / 1e15:.3g} PFLOP", "seeds": str(len(values))}
            )
    if not points:
        return None
    names = list(dict.fromkeys(point["arm"] for point in points))
    far = max(point["x"] for point in points) > 2 * DECADE * min(point["x"] for point in points) > 0
    scale = alt.Scale(type="log" if far else "linear", nice=False, padding=8)
    x = alt.X("x:Q", title="training compute (PFLOP)", scale=scale, axis=alt.Axis(tickCount=5, format="~g"))
    y = alt.Y("y:Q", title="validation accuracy (%)", scale=alt.Scale(zero=False))
    colour = alt.Color("arm:N", scale=alt.Scale(domain=names, range=[look[n].colour for n in names]), legend=None)
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=names, range=[look[n].dash for n in names]), legend=None)
    base = alt.Chart(alt.InlineData(points))
    shown = [alt.Tooltip(f"{field}:N") for field in ("arm", "seeds", "validation accuracy", "training compute")]
    return alt.layer(
        base.mark_area(opacity=0.15).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour),
        base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour, strokeDash=dash),
        base.mark_point(size=90, opacity=0, filled=True).encode(x=x, y=y, color=colour, tooltip=shown),
    ).properties(height=340)


def costs_by_heads(arms: Sequence[Arm], look: dict[str, Look]) -> Iterator[tuple[Quantity, alt.LayerChart]]:
    """A chart for each cost: that of many heads over that of one, among arms that differ in nothing else."""
    for cost in map(quantity, HEAD_COSTS):
        lines = [points for family in families(arms, look) if (points := relative(family, cost))]
        if not lines:
            continue
        heads = sorted({point["heads"] for points in lines for point in points})
        x = alt.X("heads:O", title="heads", sort=heads, axis=alt.Axis(labelAngle=0))
        reach = [point[end] for points in lines for point in points for end in ("low", "high")]
        # At least from 0.8 to 1.25, so that noise does not look like a difference.
        scale = alt.Scale(domain=[min([0.8, *reach]), max([1.25, *reach])], nice=False)
        y = alt.Y("y:Q", title="times that of one head", scale=scale, axis=alt.Axis(tickCount=5, format=".3~f"))
        layers = [alt.Chart(alt.InlineData([{"y": 1}])).mark_rule(color=INK, strokeDash=[3, 3]).encode(y=y)]
        for points in lines:
            style = look[points[0]["arm"]]
            line = alt.Chart(alt.InlineData(points)).mark_line(color=INK, strokeDash=style.dash)
            layers.append(line.encode(x=x, y=y))
            for point in points:
                colour, one = look[point["arm"]].colour, alt.Chart(alt.InlineData([point]))
                shown = [alt.Tooltip(f"{field}:N") for field in ("arm", "times that of", "seeds", "ratio")]
                rule = one.mark_rule(strokeWidth=2, color=colour)
                mark = one.mark_point(size=90, filled=True, opacity=1, shape=style.shape, color=colour)
                layers.append(rule.encode(x=x, y=alt.Y("low:Q"), y2="high:Q"))
                layers.append(mark.encode(x=x, y=y, tooltip=shown))
        yield cost, alt.layer(*layers).properties(height=220)


def families(arms: Sequence[Arm], look: dict[str, Look]) -> Iterator[list[Arm]]:
    """Arms that differ in their number of heads alone, by that number, one head first."""
    for rest in dict.fromkeys(look[arm.name].rest for arm in arms):
        counts = {int(look[arm.name].heads): arm for arm in arms if is_count(arm) and look[arm.name].rest == rest}
        if 1 in counts and len(counts) > 1:
            yield [counts[heads] for heads in sorted(counts)]


def is_count(arm: Arm) -> bool:
    """Whether all blocks have the same number of heads."""
    return isinstance(arm.settings.get("model.heads"), int)


def relative(family: Sequence[Arm], cost: Quantity) -> list[dict[str, Any]]:
    """Each arm's cost over that of the one-head arm, paired by seed: mean and 95 % interval; [] if not measured."""
    base = family[0].values.get(cost.key, {})
    points = []
    for arm in family:
        own = arm.values.get(cost.key, {})
        ratios = [own[seed] / base[seed] for seed in sorted(own.keys() & base.keys()) if base[seed]]
        if not ratios:
            return []
        mean = statistics.fmean(ratios)
        low, high = (mean, mean) if len(ratios) == 1 else mean_interval(ratios)
        told = {"arm": arm.name, "times that of": family[0].name, "seeds": str(len(ratios)), "ratio": f"{mean:.3f}"}
        points.append({"heads": arm.settings["model.heads"], "y": mean, "low": low, "high": high, **told})
    return points
