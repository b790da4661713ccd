"""Parts of a page: tables, figures, and the page around them. Every word that comes in is escaped here."""

from collections.abc import Sequence
from html import escape

from vit.report.looks import SHAPES, Look

# Nothing may be fetched; Vega compiles its expressions, which is what unsafe-eval allows.
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #20242a; --soft: #59616b; --line: #e2e5e9; --card: #f6f7f9;
  --grid: #e7e9ec; --yes: #00684a; --no: #a63c00; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e8eaed; --soft: #a4acb6; --line: #30353c;
  --card: #1c2026; --grid: #2a2f36; --yes: #4cc79b; --no: #ff9a62; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 920px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 12px; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 48px 0 6px; }
p { margin: 6px 0 12px; }
.finding { font-size: 1.15rem; line-height: 1.45; margin: 0 0 10px; }
.note, figcaption, caption { color: var(--soft); font-size: .875rem; line-height: 1.45; }
.warning { border-left: 3px solid var(--no); padding-left: 12px; }
figure { margin: 12px 0 0; }
figcaption { margin-top: 6px; }
.chart { width: 100%; min-width: 0; }
.chart.vega-embed { display: block; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 20px 24px; }
.panels h3 { font-size: .9375rem; margin: 0 0 4px; font-weight: 600; }
.panels > div { min-width: 0; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 10px 0; padding: 0;
  list-style: none; font-size: .875rem; }
.legend li { display: inline-flex; align-items: center; gap: 6px; }
.legend small { color: var(--soft); font-size: inherit; }
svg.symbol { width: 12px; height: 12px; flex: none; vertical-align: -1px; overflow: visible; }
.picker { display: flex; flex-wrap: wrap; align-items: center; gap: 8px; font-size: .9375rem; }
select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: 5px 8px; max-width: 100%; }
/* A shadow at an edge behind which there is more: two covers move with the content, two shadows do not. */
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; margin: 10px 0; background:
  linear-gradient(to right, var(--paper) 40%, transparent) left / 30px 100% no-repeat local,
  linear-gradient(to left, var(--paper) 40%, transparent) right / 30px 100% no-repeat local,
  linear-gradient(to right, #8888, transparent) left / 12px 100% no-repeat scroll,
  linear-gradient(to left, #8888, transparent) right / 12px 100% no-repeat scroll; }
.scroll:focus-visible, select:focus-visible { outline: 2px solid #2492b8; outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; line-height: 1.4; }
caption { text-align: left; padding: 10px 12px 6px; }
caption span { position: sticky; left: 12px; display: block; max-width: min(860px, calc(100vw - 54px)); }
th, td { padding: 7px 12px; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; border-top: 0; white-space: nowrap; }
tbody th { font-weight: 600; min-width: 8.5em; }
tbody th:has(svg) { white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.words { min-width: 11em; }
td.line { white-space: nowrap; }
td.claim { white-space: pre-line; min-width: 20em; }
.supported, .higher, .lower { color: var(--yes); font-weight: 600; min-width: 8.5em; }
.refuted { color: var(--no); font-weight: 600; min-width: 8.5em; }
.equivalent { font-weight: 600; white-space: nowrap; }
.undecided { color: var(--soft); min-width: 8em; }
code { font-size: .9em; overflow-wrap: anywhere; }
ul.methods { padding-left: 1.2em; margin: 6px 0; font-size: .9375rem; }
ul.methods li { margin: 4px 0; }
.chart svg text { fill: var(--ink); }
.chart svg .role-axis-label text, .chart svg .role-axis-title text { fill: var(--soft); }
.chart svg .role-axis-grid line { stroke: var(--grid); }
.chart svg { background: none !important; }
.chart svg .role-mark text { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; stroke-linejoin: round; }
#vg-tooltip-element { background: var(--card) !important; color: var(--ink) !important;
  border-color: var(--line) !important; font: 13px/1.4 system-ui, sans-serif !important; max-width: 92vw; }
#vg-tooltip-element td { border: 0; padding: 1px 4px; }
#vg-tooltip-element table tr td.key { color: var(--soft) !important; max-width: none !important; }
@media (max-width: 480px) { main { padding: 24px 14px 48px; } h1 { font-size: 1.55rem; } h2 { margin-top: 38px; } }
@media print { .picker { display: none; } .scroll { overflow: visible; } }
"""

SCRIPT = """
const specs = JSON.parse(document.getElementById("specs").textContent);
const options = {renderer: "svg", actions: false, tooltip: {theme: "custom"}};
const draw = (place, name) => vegaEmbed(place, specs[name], options);
for (const place of document.querySelectorAll("[data-spec]")) draw(place, place.dataset.spec);
const picker = document.getElementById("cost");
if (picker) {
  const show = () => draw(document.getElementById("accuracy"), picker.value);
  picker.addEventListener("change", show);
  if (picker.value !== document.getElementById("accuracy").dataset.spec) show();  // a browser may remember the choice
}
"""

Cell = str | tuple[str, str]  # text, or text and a class


def whole(title: str, body: str, specs: str, library: str) -> str:
    """The whole page. `specs` is JSON that is safe in a script, `library` JavaScript."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
<script type="application/json" id="specs">{specs}</script>
<script>{library}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def figure(name: str, caption: str, spec: str = "") -> str:
    """A place that the script draws a chart into."""
    return f"<figure>\n{place(name, spec)}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def place(name: str, spec: str = "") -> str:
    return f'<div class="chart" id="{escape(name)}" data-spec="{escape(spec or name)}"></div>'


def panels(charts: dict[str, str], caption: str) -> str:
    """Several small charts, their names with their titles."""
    each = "\n".join(f"<div>\n<h3>{escape(title)}</h3>\n{place(name)}\n</div>" for name, title in charts.items())
    return f'<figure>\n<div class="panels">\n{each}\n</div>\n<figcaption>{escape(caption)}</figcaption>\n</figure>'


def picker(options: dict[str, str], chosen: str) -> str:
    """The choice of the cost against which accuracy is drawn: names of charts with what they show."""
    each = "".join(
        f'<option value="{escape(name)}"{" selected" * (name == chosen)}>{escape(title)}</option>'
        for name, title in options.items()
    )
    return f'<p class="picker"><label for="cost">Accuracy against</label> <select id="cost">{each}</select></p>'


def legend(look: dict[str, Look], lines: bool = False) -> str:
    """Every arm with its symbol, or with its kind of line."""
    each = "\n".join(
        f"<li>{line(style) if lines else symbol(style)} {escape(arm)}"
        f"{f' <small>{escape(style.rest)}</small>' if style.rest else ''}</li>"
        for arm, style in look.items()
    )
    return f'<ul class="legend" aria-label="Arms">\n{each}\n</ul>'


def symbol(style: Look) -> str:
    path = f'<path d="{SHAPES[style.shape]}" fill="{style.colour}"/>'
    return f'<svg class="symbol" viewBox="-1.1 -1.1 2.2 2.2" aria-hidden="true">{path}</svg>'


def line(style: Look) -> str:
    dash = " ".join(map(str, style.dash))
    path = f'<path d="M0,4H26" stroke="{style.colour}" stroke-width="2.5" stroke-dasharray="{dash}"/>'
    return f'<svg width="26" height="8" aria-hidden="true">{path}</svg>'


def table(caption: str, columns: Sequence[Cell], rows: Sequence[Sequence[Cell]], marks: Sequence[str] = ()) -> str:
    """A table that scrolls within itself. The first cell of a row heads it, after the row's mark (HTML), if given."""
    head = "".join(f'<th scope="col"{kind(cell)}>{escape(text_of(cell))}</th>' for cell in columns)
    lines = []
    for index, row in enumerate(rows):
        first = f'<th scope="row">{marks[index] + " " if marks else ""}{escape(text_of(row[0]))}</th>'
        lines.append(f"<tr>{first}{''.join(f'<td{kind(cell)}>{escape(text_of(cell))}</td>' for cell in row[1:])}</tr>")
    body = "\n".join(lines)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">\n<table>\n'
        f"<caption><span>{escape(caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def bullets(items: Sequence[str]) -> str:
    each = "\n".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<ul class="methods">\n{each}\n</ul>'


def text_of(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def kind(cell: Cell) -> str:
    return "" if isinstance(cell, str) else f' class="{escape(cell[1])}"'
