"""Draw the rows of the comparison: SVG for the report, in its colours of light and dark, and one PNG for a README."""

import io
import re
from dataclasses import dataclass

from latency_rows import BASELINE, MANY_CALLERS, label, nearest

# A server's colour in the PNG and on a light page, on a dark page, and its marker, by the beginning of its label; the
# longest that fits counts.
STYLES = {
    BASELINE: ("#6b7280", "#9aa3b2", "o"),
    "flask": ("#1f6fd1", "#6ea8ff", "s"),
    "flask,": ("#0b8a96", "#3cc8d4", "^"),
    "flask gateway": ("#7c4ddb", "#b69cff", "D"),
    "rnn_serving.model_server REST": ("#b87900", "#f0b429", "v"),
    "rnn_serving.model_server gRPC": ("#d6453d", "#ff7b72", "P"),
    "tensorflow_model_server REST": ("#6f8000", "#c3d14a", "X"),
    "tensorflow_model_server gRPC": ("#2e8b3d", "#63d07a", "*"),
}
OTHER = ("#444444", "#bbbbbb", "h")
# Stand-ins that matplotlib takes; in the SVG, variables of the page's style sheet take their place.
INK, LINE, SERIES = "#0a0b0c", "#0a0b0d", "#ab00{:02d}"
# Inches. So small because a page scales it up: on a phone the letters are then still letters.
FIGURE_SIZE = (4.6, 3.2)


def style_of(name):
    """Return (number of the colour, colour on a light page, on a dark one, marker) of a server's label."""
    fits = [prefix for prefix in STYLES if name.startswith(prefix)]
    if not fits:
        return (len(STYLES), *OTHER)
    prefix = max(fits, key=len)
    return (list(STYLES).index(prefix), *STYLES[prefix])


@dataclass(frozen=True)
class Chart:
    """A picture: lines of (x, y) for each server's label."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: dict
    is_log: bool = False
    x_ticks: tuple = ()
    x_tick_labels: tuple = ()


def charts(rows):
    """Return the charts that the rows have points for."""
    closed = [row for row in rows if row["concurrency"] and row["distribution_ms"]]
    opened = [row for row in rows if row["rate_rps"] and row["distribution_ms"]]
    found = [
        _over("concurrency", closed, "throughput", "Throughput", "requests/s", lambda row: row["throughput_rps"]),
        _over("concurrency", closed, "p50", "Median latency", "p50, ms", lambda row: row["latency_ms"]["p50"]),
        _over("concurrency", closed, "p99", "Slow requests", "p99, ms", lambda row: row["latency_ms"]["p99"]),
        _over("rate_rps", opened, "open-p99", "Slow requests at a given rate", "p99, ms", _p99),
    ]
    concurrencies = sorted({row["concurrency"] for row in closed})
    many = nearest(concurrencies, MANY_CALLERS)
    for concurrency in dict.fromkeys([*concurrencies[:1], *([many] if many else [])]):
        found.append(_percentiles(concurrency, [row for row in closed if row["concurrency"] == concurrency]))
    return [chart for chart in found if chart.lines]


def _p99(row):
    return row["latency_ms"]["p99"]


def _over(what, rows, name, title, y_label, value):
    """Return the chart of a figure over the concurrency or the rate."""
    lines = {}
    for row in rows:
        lines.setdefault(label(row), []).append((row[what], value(row)))
    ticks = tuple(sorted({row[what] for row in rows}))
    x_label = "concurrency" if what == "concurrency" else "requests/s that arrive"
    return Chart(name, title, x_label, y_label, lines, y_label.endswith("ms"), ticks, tuple(f"{x:g}" for x in ticks))


def _percentiles(concurrency, rows):
    """Return the chart of the latency that a share of the requests stays below."""
    lines = {
        label(row): [(milliseconds, float(percent)) for percent, milliseconds in row["distribution_ms"].items()]
        for row in rows
    }
    title = f"Latency distribution, concurrency {concurrency}"
    return Chart(f"distribution-{concurrency}", title, "latency, ms", "requests answered, %", lines)


def svg(chart):
    """Return a chart as an SVG element without references to anything outside of it; colours are the page's."""
    plt = _pyplot()
    settings = {"svg.fonttype": "none", "svg.hashsalt": chart.name, "font.size": 9, "text.color": INK}
    settings |= dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), INK)
    settings |= {"axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(settings):
        figure, axis = plt.subplots(figsize=FIGURE_SIZE, layout="constrained")
        _draw(axis, chart, lambda name: SERIES.format(style_of(name)[0]), LINE)
        written = io.StringIO()
        no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=no_metadata)
        plt.close(figure)
    return with_page_colours(inline(written.getvalue(), chart.name))


def inline(text, prefix):
    """Return the SVG of a file as an element of a page: no prolog, no metadata, its ids its own.

    Raises: ValueError if it would load or run something.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    if re.search(r"<script|<foreignObject|\son\w+\s*=|https?:", text, re.IGNORECASE):
        raise ValueError("the SVG has scripts or references to the outside; expected neither")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text).replace("url(#", f"url(#{prefix}-")
    # The page decides how large it is; the viewBox keeps its proportions.
    return re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))


def with_page_colours(text):
    """Put the page's variables in the place of the stand-ins."""
    text = text.replace(INK, "currentColor").replace(LINE, "var(--line)")
    return re.sub(r"#ab00(\d\d)", lambda match: f"var(--s{int(match[1])})", text)


def write_png(path, rows, title):
    """Draw throughput, median and slow requests over the concurrency side by side."""
    plt = _pyplot()
    shown = [chart for chart in charts(rows) if chart.name in ("throughput", "p50", "p99")]
    figure, axes = plt.subplots(1, max(1, len(shown)), figsize=(13, 4.6), layout="constrained", squeeze=False)
    for axis, chart in zip(axes[0], shown):
        _draw(axis, chart, lambda name: style_of(name)[1], "#dddddd")
    if shown:
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw(axis, chart, colour_of, grid_colour):
    for name, points in chart.lines.items():
        marker = "" if "distribution" in chart.name else style_of(name)[3]
        dashes = "--" if name == BASELINE else "-"
        xs, ys = zip(*points)
        axis.plot(xs, ys, dashes, color=colour_of(name), marker=marker, markersize=5, linewidth=1.6, label=name)
    axis.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axis.grid(color=grid_colour, linewidth=0.8)
    if chart.x_ticks:
        axis.set_xscale("log", base=2)
        axis.set_xticks(chart.x_ticks, chart.x_tick_labels)
        axis.minorticks_off()
    else:
        _plain_log(axis.xaxis, axis.set_xscale)
    if chart.is_log:
        _plain_log(axis.yaxis, axis.set_yscale)
    else:
        axis.set_ylim(0, None)


def _plain_log(axis, set_scale):
    """Make an axis logarithmic, its numbers written out."""
    from matplotlib import ticker

    set_scale("log")
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
