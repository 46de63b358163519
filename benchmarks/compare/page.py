"""Lay out the report of the comparison as one HTML file: light and dark, for phones too, without external resources."""

import base64
from html import escape
from pathlib import Path

from benchmarks import colours, plots
from benchmarks.compare import baseline, charts, contents, finding, pictures, results_table
from benchmarks.compare.html_parts import figure, items, section, server, table
from benchmarks.compare.rows import label

STYLE_SHEET = Path(__file__).with_name("page.css")
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="note">{about}</p>
{highlights}
<p class="finding">{finding}</p>
</header>
{parts}
</body>
</html>
"""
CLOSED_NOTE = (
    "Each caller sends again as soon as it has its answer. p99: 99 % of the requests are faster. Bold is the best of "
    "the servers that gave every answer right; a ratio is the median of the rounds' ratios, behind it the smallest and "
    "the largest."
)
OPEN_NOTE = (
    "Requests arrive at random times at this rate, whether or not the server is done. Latency counts from the "
    "scheduled arrival."
)

BASELINE_NOTE = "Ratios to the article's server that moved beyond their spreads since the report named by --baseline."


def page(result, extras):
    """Return the report as HTML, with the tables of other benchmarks."""
    rows = result["rows"]
    title = escape(contents.title(result))
    style = colours.style_sheet() + STYLE_SHEET.read_text(encoding="utf-8")
    return PAGE.format(
        title=title,
        style=style,
        about=escape(contents.about(result)),
        highlights=highlights(rows),
        finding=escape(result["finding"]),
        parts="\n".join(parts(result, rows, extras)),
    )


def parts(result, rows, extras):
    """Yield the sections of the page."""
    if found := curves(rows):
        yield section("Curves", legend(rows) + found)
    if found := results_table.closed_loop(rows):
        yield section("Closed loop", found, f"{CLOSED_NOTE} {contents.correctness(rows)}")
    if found := results_table.open_loop(rows):
        yield section("Open loop", found, OPEN_NOTE)
    if "baseline" in result:
        yield section("Since the earlier report", items(baseline.describe_changes(result["baseline"])), BASELINE_NOTE)
    for extra in extras:
        yield section(extra["title"], extra_part(extra))
    yield section("Method", items(contents.method(result)))
    yield section("Servers", table(contents.SERVER_COLUMNS, list(map(contents.server_cells, result["servers"]))))
    yield section("Machine", table(("what", "value"), contents.machine(result)))


def highlights(rows):
    """Return the three large numbers."""
    entries = []
    for each in finding.highlights(rows):
        who = server(label(each.row), finding.server_name(each.row))
        beside = f'<div class="beside">{escape(each.beside)}</div>' if each.beside else ""
        number = f'<div class="number">{each.number}<span class="unit">{each.unit}</span></div>'
        entries.append(f'<li><div class="what">{each.what}</div>{number}<div class="who">{who}</div>{beside}</li>')
    return f'<ul class="highlights">{"".join(entries)}</ul>' if entries else ""


def legend(rows):
    """Return each server's name after a dot in its colour, and the name at the end of its line."""
    entries = []
    for name in dict.fromkeys(label(row) for row in rows if row["distribution_ms"]):
        _, style = colours.style_of(name)
        entries.append(f"<li>{server(name, style.name)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'


def curves(rows):
    """Return the pictures, "" if there are none."""
    figures = [figure(pictures.svg(chart), chart.title, chart.title) for chart in charts.make_charts(rows)]
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def extra_part(extra):
    """Return the picture of another benchmark, its note and its table."""
    picture = extra["drawing"] and figure(extra["drawing"], extra["title"])
    picture = picture or (embedded(extra["picture"], extra["title"]) if extra["picture"] else "")
    names = "picture several" if picture.count("<svg") > 1 else "picture"
    shown = f'<div class="{names}">{picture}</div>\n' if picture else ""
    shown += f'<p class="note">{escape(extra["note"])}</p>\n' if extra["note"] else ""
    if not extra["columns"]:
        return shown
    found = table(extra["columns"], extra["rows"])
    return f"{shown}<details{'' if picture else ' open'}><summary>All figures</summary>{found}</details>"


def embedded(path, description):
    """Return a file's picture as a part of the page, an SVG so that its text can be selected."""
    if path.suffix == ".svg":
        try:
            return figure(plots.inline(path.read_text(encoding="utf-8"), path.stem), description)
        except ValueError as error:
            return f'<p class="note">{escape(path.name)} is left out: {escape(str(error))}</p>'
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return figure(f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">', description)
