"""Charts made into files and into parts of a page. Vega and Vega-Lite come with vl-convert; nothing is fetched."""

import json
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt

from vit.files import atomic
from vit.report.figures import COLOUR, SHAPE, Chart
from vit.report.looks import Look

PAGE_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
FILE_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first comes with vl-convert: the same everywhere
CONFIG: dict[str, Any] = {
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "labelColor": "#3d434b",
        "titleColor": "#3d434b",
        "gridColor": "#e7e9ec",
        "domainColor": "#aeb4bb",
        "tickColor": "#aeb4bb",
    },
    "text": {"color": "#20242a", "fontSize": 12},
    "title": {"anchor": "start", "fontSize": 16, "subtitleFontSize": 12, "subtitleColor": "#3d434b", "offset": 14},
}


def for_page(chart: Chart) -> dict[str, Any]:
    """The Vega-Lite of a chart as wide as its place in the page; what it is about is read to who cannot see it."""
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    fitted = chart.picture.properties(width="container", description=chart.about, autosize=fit)
    return fitted.configure(**CONFIG, font=PAGE_FONT).to_dict() | {"datasets": chart.data}


@cache
def bundle() -> str:
    """JavaScript with Vega, Vega-Lite and Vega-Embed, which sets `vegaEmbed`."""
    import vl_convert

    return vl_convert.javascript_bundle(vl_version=version())  # type: ignore[call-arg]  # its stub asks for more


def version() -> str:
    """That of Vega-Lite, as vl-convert takes it."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


def script_json(value: Any) -> str:
    """JSON that can stand in a script element whatever it holds."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True).replace("<", "\\u003c")


def save(charts: Sequence[Chart], path: Path, title: str, subtitle: str, look: dict[str, Look]) -> None:
    """Write PATH.svg and PATH.png: charts side by side under a title, with a legend of the arms that they draw.

    A PNG of the same SVG stays: its pixels depend on the machine too.
    """
    import vl_convert

    if len(charts) == 1:
        pictures = [charts[0].picture.properties(width=620)]
    else:
        pictures = [chart.picture.properties(width=180, title=chart.title) for chart in charts]
    words = alt.TitleParams(title, subtitle=textwrap.wrap(subtitle, 120))
    drawn = {point.get("arm") for chart in charts for data in chart.data.values() for point in data}
    key = legend({arm: style for arm, style in look.items() if arm in drawn})
    whole = alt.hconcat(*pictures, key, spacing=28).properties(title=words)
    spec = whole.configure(**CONFIG, font=FILE_FONT).to_dict()
    spec["datasets"] = spec.get("datasets", {}) | {name: data for chart in charts for name, data in chart.data.items()}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=version())
    vector, pixels = path.with_suffix(".svg"), path.with_suffix(".png")
    if pixels.exists() and vector.exists() and vector.read_bytes() == svg.encode():
        return
    with atomic(pixels) as part:
        part.write_bytes(vl_convert.svg_to_png(svg, scale=2))
    with atomic(vector) as part:
        part.write_text(svg, encoding="utf-8")


def legend(look: dict[str, Look]) -> alt.LayerChart | alt.FacetChart:
    """Arms with their symbols, as a chart of its own."""
    rows = [
        {"arm": arm, "row": index, "colour": style.colour, "shape": style.shape}
        for index, (arm, style) in enumerate(look.items())
    ]
    deep = max(len(rows), 2)
    y = alt.Y("row:Q", axis=None, scale=alt.Scale(domain=[-0.5, deep - 0.5], reverse=True, nice=False))
    base = alt.Chart(alt.InlineData(rows)).encode(x=alt.value(8), y=y)
    symbols = base.mark_point(size=90, filled=True, opacity=1).encode(color=COLOUR, shape=SHAPE)
    names = base.mark_text(align="left", dx=12).encode(text="arm:N")
    return alt.layer(symbols, names).properties(height=20 * deep, width=120)
