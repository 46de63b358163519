"""The charts of the comparison: which lines of which servers over what."""

import math
from dataclasses import dataclass

from benchmarks.compare.finding import callers
from benchmarks.compare.rows import MANY_CALLERS, label, nearest

# Of the distribution: where its axis has ticks, in percent of the requests.
PERCENTS = (50, 90, 99, 99.9)


@dataclass(frozen=True)
class Chart:
    """A picture: lines of (x, y) for each server's label. The x axis doubles from tick to tick, or is linear."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: dict
    is_log: bool
    doubles: bool
    x_ticks: tuple
    x_tick_labels: tuple


def make_charts(rows):
    """Return the charts that the rows have points for."""
    closed = [row for row in rows if row["concurrency"] and row["distribution_ms"]]
    opened = [row for row in rows if row["rate_rps"] and row["distribution_ms"]]
    found = [
        _over(
            "concurrency", closed, "throughput", "Requests answered", "requests/s", lambda row: row["throughput_rps"]
        ),
        _over("concurrency", closed, "p50", "Half are faster than", "p50, ms", lambda row: row["latency_ms"]["p50"]),
        _over("concurrency", closed, "p99", "99 % are faster than", "p99, ms", _p99),
        _over("rate_rps", opened, "open-p99", "99 % are faster than, open loop", "p99, ms", _p99),
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
    x_label = "callers" if what == "concurrency" else "requests/s that arrive"
    labels = tuple(f"{x:g}" for x in ticks)
    return Chart(name, title, x_label, y_label, lines, y_label.endswith("ms"), True, ticks, labels)


def _percentiles(concurrency, rows):
    """Return the chart of the latency that a share of the requests stays below, each nine of it as wide as the last."""
    lines = {
        label(row): [(nines(float(p)), ms) for p, ms in row["distribution_ms"].items() if float(p) <= PERCENTS[-1]]
        for row in rows
    }
    title = f"Latency of {callers(concurrency)}"
    ticks, labels = tuple(map(nines, PERCENTS)), tuple(f"{percent:g} %" for percent in PERCENTS)
    return Chart(
        f"distribution-{concurrency}",
        title,
        "share of the requests that are faster",
        "ms",
        lines,
        True,
        False,
        ticks,
        labels,
    )


def nines(percent):
    """Return where a percentage stands on an axis on which 90, 99 and 99.9 % are as far apart: at 1, 2 and 3."""
    return -math.log10(1 - percent / 100)
