"""Tables of the pages from a report of the comparison, as Markdown."""

import re

from benchmarks.compare.notes import is_disturbed, notes_of
from benchmarks.compare.rows import label
from benchmarks.markdown import markdown_table

SHORT_COLUMNS = (
    *("server, one image per request", "p50 at 1 caller, ms", "requests/s at 8 callers", "requests/s at 32"),
    "times the article's, at 32",
)
# What the short table shows: label, and what it is called there. `flask, N workers` is that with the most workers.
SHORT_ROWS = {
    "article": "the article's Flask server",
    "flask, N workers": "Flask endpoint, {workers} workers",
    "tensorflow_model_server REST": "TensorFlow Serving (C++), REST",
    "tensorflow_model_server gRPC": "TensorFlow Serving (C++), gRPC{client}",
    "tensorflow_model_server, batching REST": "TensorFlow Serving (C++), batching, REST",
    "tensorflow_model_server, batching gRPC": "TensorFlow Serving (C++), batching, gRPC{client}",
    "rnn_serving.model_server gRPC": "`rnn_serving.model_server` (ours, Python), gRPC",
}
LATENCIES = ("p50", "p95", "p99")
LATENCY_COLUMNS = tuple(f"{name}, ms" for name in LATENCIES)
CLOSED_COLUMNS = ("callers", "server", "requests/s", *LATENCY_COLUMNS, "times the article's", "load generator")
OPEN_COLUMNS = ("requests/s", "server", *LATENCY_COLUMNS, "load generator", "mark")
DISTURBED = "\\*"


def short(report):
    """Return the table of the README: a row for each way to serve that the report has."""
    rows = []
    for name, shown in SHORT_ROWS.items():
        by_callers = _by_callers(report, name.replace("N workers", f"{_workers(report)} workers"))
        if by_callers:
            rows.append([_short_name(shown, report), *_short_cells(by_callers, report)])
    return _with_notes(_aligned(SHORT_COLUMNS, rows), report)


def of_loop(report, loop):
    """Return the table of all rows in a "closed" or an "open" loop."""
    columns, cells, key = {
        "closed": (CLOSED_COLUMNS, _closed_cells, "concurrency"),
        "open": (OPEN_COLUMNS, _open_cells, "rate_rps"),
    }[loop]
    rows = [cells(row, report) for row in report["rows"] if row[key]]
    return _with_notes(_aligned(columns, rows), report)


def long_name(row):
    """Return what a row's server is called in a chapter."""
    name = label(row)
    for pattern, shown in (
        ("article$", "article's Flask server"),
        ("flask$", "Flask endpoint, 1 worker"),
        ("flask, ", "Flask endpoint, "),
        ("flask gateway$", "Flask gateway"),
        (r"rnn_serving\.model_server(.*) (\S+)$", r"our model server\1, \2"),
        (r"tensorflow_model_server(.*) (\S+)$", r"C++ server\1, \2"),
    ):
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", shown, name)
    return name


def _workers(report):
    found = [re.fullmatch(r"flask, (\d+) workers", row["server"]) for row in report["rows"]]
    return max((int(match[1]) for match in found if match), default=0)


def _short_name(shown, report):
    # Before `grpc_client` was in the reports, Python's gRPC client sent the requests.
    client = "" if report.get("grpc_client") else ", Python client"
    return shown.format(workers=_workers(report), client=client)


def _by_callers(report, name):
    return {row["concurrency"]: row for row in report["rows"] if label(row) == name and row["concurrency"]}


def _short_cells(by_callers, report):
    def cell(callers, text):
        row = by_callers.get(callers)
        return _marked(text(row), row, report) if row and _is_answered(row) else "-"

    return [
        cell(1, lambda row: _number(row["latency_ms"]["p50"])),
        cell(8, _throughput),
        cell(32, _throughput),
        cell(32, lambda row: _ratio(row, lambda ratio: f"{ratio['median']:.1f}")),
    ]


def _is_answered(row):
    return row["latency_ms"]["p50"] is not None


def _closed_cells(row, report):
    ratio = _ratio(row, lambda ratio: f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})")
    name = _marked(long_name(row), row, report)
    return [row["concurrency"], name, _throughput(row), *_latencies(row), ratio, _busy(row)]


def _open_cells(row, report):
    name = _marked(long_name(row), row, report)
    return [f"{row['rate_rps']:g}", name, *_latencies(row), _busy(row), "; ".join(row["marks"])]


def _latencies(row):
    return [_number(row["latency_ms"][name]) for name in LATENCIES]


def _throughput(row):
    return f"{row['throughput_rps']:,.0f}"


def _ratio(row, text):
    ratio = row["ratio_to_article"]["throughput"]
    return text(ratio) if ratio else "-"


def _busy(row):
    return "-" if row["generator_busy"] is None else f"{100 * row['generator_busy']:.0f} %"


def _number(value):
    return "-" if value is None else f"{value:.2f}"


def _marked(text, row, report):
    return text + DISTURBED if is_disturbed(row, report) else text


def _aligned(columns, rows):
    """Return a Markdown table whose columns of numbers are aligned to the right."""
    lines = markdown_table(columns, rows).split("\n")
    lines[1] = "| " + " | ".join("---" if name.startswith(("server", "mark")) else "---:" for name in columns) + " |"
    return "\n".join(lines)


def _with_notes(table, report):
    """Return a table with the report's notes on rows below it, if a row of it is marked."""
    if DISTURBED not in table:
        return table
    texts = [note["text"] for note in notes_of(report) if note.get("disturbed")]
    return f"{table}\n\n{DISTURBED} disturbed: {'; '.join(texts)}"
