"""Lay out the report of the comparison as one HTML file: light and dark, on a phone too, nothing loaded."""

import base64
from html import escape

import latency_pictures
import latency_report
from latency_rows import is_wrong, label

SERVER_COLUMNS = ("server", "protocol", "threads of its model calls", "started as")

STYLE = """
:root { color-scheme: light dark; --page: #fff; --card: #f6f7f9; --ink: #1b1f24; --soft: #59626d; --line: #dadfe5;
  --bad: #b3261e; %(light)s }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2126; --ink: #e8eaed; --soft: #a2abb6;
  --line: #363c44; --bad: #ff8a80; %(dark)s } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
.finding { font-size: 1.1rem; border-left: 4px solid var(--s1); padding-left: .8rem }
.note, figcaption, .legend { color: var(--soft); font-size: .9rem }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .5rem 0; padding: 0; list-style: none }
.legend svg { width: 2rem; height: .6rem; margin-right: .4rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%%, 26rem), 1fr)); gap: 1rem }
figure { margin: 0; padding: .5rem; background: var(--card); border-radius: .5rem }
figure svg, figure img { display: block; width: 100%%; height: auto }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: .5rem }
table { border-collapse: collapse; width: 100%%; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { background: var(--card); font-weight: 600 }
th:first-child, td:first-child, td.text, th.text { text-align: left }
td:first-child { position: sticky; left: 0; background: var(--page); white-space: normal; min-width: 7rem }
td.text { white-space: normal; min-width: 16rem } tr.first td { border-top: 2px solid var(--line) }
tr.wrong td { color: var(--bad) } code { font-size: .8rem; overflow-wrap: anywhere }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="finding">{finding}</p>
{parts}
</body>
</html>
"""


def page(result, columns, cells, extras):
    """Return the report as HTML; `cells(row)` gives the texts of a row below `columns`."""
    rows = result["rows"]
    parts = [
        section("Curves", legend(rows) + charts(rows)),
        section("Percentiles", results_table(rows, columns, cells)),
        *(section(extra["title"], other(extra)) for extra in extras),
        section("Method", items(latency_report.method(result))),
        section("Servers", table(SERVER_COLUMNS, [server_cells(server) for server in result["servers"]], {2, 3})),
        section("Machine", table(("what", "value"), latency_report.machine(result), {1})),
    ]
    title = escape(latency_report.title(result))
    return PAGE.format(title=title, style=style(), finding=escape(result["finding"]), parts="\n".join(parts))


def style():
    """Return the style sheet, with a variable for each server's colour."""
    colours = [*latency_pictures.STYLES.values(), latency_pictures.OTHER]
    light, dark = ("; ".join(f"--s{i}: {each[k]}" for i, each in enumerate(colours)) for k in (0, 1))
    return STYLE % {"light": light, "dark": dark}


def section(title, body):
    """Return a part of the page."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def legend(rows):
    """Return which colour is which server."""
    entries = []
    for name in dict.fromkeys(label(row) for row in rows if row["distribution_ms"]):
        number, *_ = latency_pictures.style_of(name)
        dashes = ' stroke-dasharray="5 3"' if name == latency_pictures.BASELINE else ""
        line = f'<line x1="0" y1="5" x2="32" y2="5" stroke="var(--s{number})" stroke-width="4"{dashes}/>'
        entries.append(f'<li><svg viewBox="0 0 32 10" aria-hidden="true">{line}</svg>{escape(name)}</li>')
    return f'<ul class="legend">{"".join(entries)}</ul>'


def charts(rows):
    """Return the pictures."""
    figures = [figure(latency_pictures.svg(chart), chart.title) for chart in latency_pictures.charts(rows)]
    return f'<div class="charts">{"".join(figures)}</div>'


def figure(picture, description):
    """Return a picture with what it shows."""
    return f'<figure role="img" aria-label="{escape(description)}">{picture}</figure>'


def results_table(rows, columns, cells):
    """Return the table of the rows; a thicker line sets off each point, those with wrong answers are in red."""
    lines, before = [], None
    for row in rows:
        point = (row["concurrency"], row["rate_rps"])
        names = ["first"] * (point != before) + ["wrong"] * is_wrong(row)
        lines.append(table_row(cells(row), {len(columns) - 1}, " ".join(names)))
        before = point
    return framed(columns, lines, {len(columns) - 1})


def table(columns, rows, texts=frozenset()):
    """Return a table; the columns whose numbers are in `texts` hold words."""
    return framed(columns, [table_row(row, texts) for row in rows], texts)


def framed(columns, lines, texts):
    """Return rows below a head, in a frame that scrolls sideways by itself."""
    head = "".join(f"<th{_text(i in texts)}>{escape(str(column))}</th>" for i, column in enumerate(columns))
    body = "\n".join(lines)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def table_row(values, texts, names=""):
    """Return a row of a table."""
    inner = "".join(f"<td{_text(i in texts)}>{escape(str(value))}</td>" for i, value in enumerate(values))
    return f"<tr{f' class={chr(34)}{names}{chr(34)}' if names else ''}>{inner}</tr>"


def _text(is_text):
    return ' class="text"' if is_text else ""


def items(sentences):
    """Return a list."""
    return "<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def server_cells(server):
    """Return the texts of a server's row."""
    return [server[name] for name in ("server", "protocol", "threads", "command")]


def other(extra):
    """Return what another benchmark has to show."""
    note = f'<p class="note">{escape(extra["note"])}</p>' if extra["note"] else ""
    shown = table(extra["columns"], extra["rows"]) if extra["columns"] else ""
    return note + (embedded(extra["picture"], extra["title"]) if extra["picture"] else "") + shown


def embedded(path, description):
    """Return a file's picture as a part of the page, an SVG so that its text can be selected."""
    if path.suffix == ".svg":
        try:
            return figure(latency_pictures.inline(path.read_text(encoding="utf-8"), path.stem), description)
        except ValueError as error:
            return f'<p class="note">{escape(path.name)} is left out: {escape(str(error))}</p>'
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return figure(f'<img alt="{escape(description)}" src="data:image/png;base64,{data}">', description)
