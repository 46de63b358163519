"""The rows of the comparison as tables for the page: a group for each load, its best figures in bold."""

from html import escape

from benchmarks.compare import contents, finding
from benchmarks.compare.html_parts import cell, framed, server
from benchmarks.compare.rows import is_wrong, label

GENERATOR = "load generator busy"
CLOSED = ("server", "requests/s", "times the article's", "p50, ms", "p95, ms", "p99, ms", GENERATOR)
OPEN = ("server", "p50, ms", "p95, ms", "p99, ms", "longest, ms", "p50, times the article's", GENERATOR)
# Beside a figure where the page is narrow.
TIMES = "\N{MULTIPLICATION SIGN} article's"
RANKED = (finding.THROUGHPUT, finding.P50, finding.P95, finding.P99)


def closed_loop(rows):
    """Return the table of the loads by callers, "" if there are none."""
    rows = [row for row in rows if row["concurrency"]]
    most = max((row["throughput_rps"] for row in rows), default=0) or 1
    return _grouped("closed", CLOSED, rows, lambda row, best: _closed_cells(row, best, most))


def open_loop(rows):
    """Return the table of the loads by rate, "" if there are none."""
    return _grouped("open", OPEN, [row for row in rows if row["rate_rps"]], _open_cells)


def load_name(concurrency, rate):
    """Return a load in words."""
    return f"{rate:g} requests/s arrive" if rate else finding.callers(concurrency)


def _grouped(name, columns, rows, cells_of):
    bodies = []
    for load, group in finding.loads(rows).items():
        best = {what: id(finding.ranked(group, what)[0]) for what in RANKED if finding.ranked(group, what)}
        head = f'<tr class="load"><th scope="rowgroup" colspan="{len(columns)}">{escape(load_name(*load))}</th></tr>'
        lines = [_line(row, cells_of(row, [what for what in RANKED if best.get(what) == id(row)])) for row in group]
        bodies.append("<tbody>\n" + "\n".join([head, *lines]) + "\n</tbody>")
    return framed(columns, "\n".join(bodies), {0}, f"results {name}") if bodies else ""


def _line(row, cells):
    names = ' class="wrong"' if is_wrong(row) else ""
    remarks = "".join(f'<span class="remark">{escape(mark)}</span>' for mark in row["marks"])
    head = f'<th scope="row" class="text">{server(label(row), finding.server_name(row))}{remarks}</th>'
    return f"<tr{names}>{head}{''.join(cells)}</tr>"


def _closed_cells(row, best, most):
    share = f"--share: {100 * row['throughput_rps'] / most:.1f}%"
    names = ["rate"] + ["best"] * (finding.THROUGHPUT in best)
    return [
        cell(f"{row['throughput_rps']:,.0f}", "requests/s", names=names, style=share),
        cell(with_spread(row["ratio_to_article"]["throughput"]), TIMES),
        *_latencies(row, best),
        _busy(row),
    ]


def _open_cells(row, best):
    return [
        *_latencies(row, best),
        cell(contents.number(row["latency_ms"]["max"]), "longest, ms"),
        cell(with_spread(row["ratio_to_article"]["p50"]), TIMES),
        _busy(row),
    ]


def _latencies(row, best):
    names = (finding.P50, finding.P95, finding.P99)
    return [
        cell(contents.number(row["latency_ms"][name]), f"{name}, ms", names=["best"] * (name in best)) for name in names
    ]


def _busy(row):
    busy = row["generator_busy"]
    return cell("-" if busy is None else f"{100 * busy:.0f} %", "generator")


def with_spread(ratio):
    """Return a ratio's median, and smaller its smallest and largest of a round if they differ."""
    if not ratio:
        return "-"
    shown = f"{ratio['median']:.2f}"
    if ratio["min"] == ratio["max"]:
        return shown
    return f'{shown} <span class="spread">{ratio["min"]:.2f}-{ratio["max"]:.2f}</span>'
