"""Charts made into files and into parts of a page. Vega and Vega-Lite come with vl-convert; nothing is fetched."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

from vit.files import atomic
from vit.figures import Chart
from vit.looks import Look

PAGE_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
FILE_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # the first comes with vl-convert: the same everywhere
CONFIG: dict[str, Any] = {
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        **{"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelColor": "#3d434b"},
        **{"titleColor": "#3d434b", "gridColor": "#e7e9ec", "domainColor": "#aeb4bb", "tickColor": "#aeb4bb"},
        "titlePadding": 8,
    },
    "text": {"color": "#20242a", "fontSize": 12},
    "title": {"anchor": "start", "fontSize": 16, "subtitleFontSize": 12, "subtitleColor": "#3d434b", "offset": 14},
    "legend": {"titleFontSize": 12, "labelFontSize": 12, "titleFontWeight": "normal", "symbolSize": 90},
}


def for_page(chart: alt.LayerChart, about: str) -> dict[str, Any]:
    """The Vega-Lite of a chart as wide as its place in the page; `about` is read to who cannot see it."""
    fitted = chart.properties(width="container", description=about, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
    return fitted.configure(**CONFIG, font=PAGE_FONT).to_dict()


def bundle() -> str:
    """JavaScript with Vega, Vega-Lite and Vega-Embed, which sets `vegaEmbed`."""
    import vl_convert

    return vl_convert.javascript_bundle(vl_version=version())


def version() -> str:
    """That of Vega-Lite, as vl-convert takes it."""
    return ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


def script_json(value: Any) -> str:
    """JSON that can stand in a script element whatever it holds."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True).replace("<", "\\u003c")


def save(charts: Sequence[Chart], path: Path, title: str, subtitle: str, look: dict[str, Look]) -> None:
    """Write PATH.svg and PATH.png: charts side by side under a title, with the legend that the page has as text."""
    import vl_convert

    if len(charts) == 1:
        pictures = [charts[0].picture.properties(width=620)]
    else:
        pictures = [chart.picture.properties(width=180, title=chart.title) for chart in charts]
    words = alt.TitleParams(title, subtitle=textwrap.wrap(subtitle, 120))
    whole = alt.hconcat(*pictures, legend(look), spacing=28).properties(title=words)
    svg = vl_convert.vegalite_to_svg(whole.configure(**CONFIG, font=FILE_FONT).to_dict(), vl_version=version())
    with atomic(path.with_suffix(".svg")) as part:
        part.write_text(svg, encoding="utf-8")
    with atomic(path.with_suffix(".png")) as part:
        part.write_bytes(vl_convert.svg_to_png(svg, scale=2))


def legend(look: dict[str, Look]) -> alt.LayerChart:
    """Every arm with its symbol, as a chart of its own."""
    rows = [{"arm": arm, "y": index} for index, arm in enumerate(look)]
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.5, max(len(rows), 2) - 0.5], reverse=True, nice=False))
    layers = [
        alt.Chart(alt.InlineData([row]))
        .mark_point(size=90, filled=True, opacity=1, shape=look[row["arm"]].shape, color=look[row["arm"]].colour)
        .encode(x=alt.value(8), y=y)
        for row in rows
    ]
    names = alt.Chart(alt.InlineData(rows)).mark_text(align="left", dx=12).encode(x=alt.value(8), y=y, text="arm:N")
    return alt.layer(*layers, names).properties(height=20 * max(len(rows), 2), width=120)


