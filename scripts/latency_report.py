"""Write what compare_latency.py measured: latency.json, .md, .png, and latency.html, one file to look at.

    python scripts/latency_report.py --reports_dir reports    # anew from latency.json, with what came beside it since

Of other benchmarks, `breakdown.json` and `habits.json` in the same directory are shown too: {"title", "columns": [...],
"rows": [[...]], "note"}, with a picture of the same stem, .svg or .png, where there is one.
"""

import json
import tempfile
from pathlib import Path

import latency_page
import latency_pictures
from latency_rows import finding, label
from latency_servers import CPP_SERVER

from rnn_serving import command_line, files
from rnn_serving.command_line import UserError

COLUMNS = (
    *("server", "concurrency", "accuracy", "p50 ms", "p95 ms", "p99 ms", "requests/s", "ratio to article", "errors"),
    *("load generator", "remarks"),
)
EXTRAS = ("breakdown", "habits", "batches")


def main(argv=None):
    """Write the reports anew; return the exit status."""
    directory = Path(parse_arguments(argv).reports_dir)
    try:
        result = json.loads((directory / "latency.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{directory}/latency.json: {error}; expected what compare_latency.py wrote") from error
    write(directory, result | {"finding": finding(result["rows"])})
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--reports_dir", default="reports", help="where latency.json is, and the others go")
    return parser.parse_args(argv)


def check_writable(directory):
    """Raise OSError unless files can be written to a directory, before anything is measured."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        pass


def write(directory, result):
    """Print the table and write all reports; if that fails, to another directory, since measuring takes long.

    Raises: UserError naming the other directory.
    """
    print(f"\n{result['finding']}\n\n{markdown_table(result['rows'])}\n")
    try:
        write_files(Path(directory), result)
    except OSError as error:
        other = Path(tempfile.mkdtemp(prefix="latency-"))
        write_files(other, result)
        raise UserError(f"{directory}: {error.strerror or error}; the reports are in {other} instead") from error
    print(f"Wrote {directory}/latency.html, .json, .md and .png")


def write_files(directory, result):
    """Write the four files."""
    files.write_json(directory / "latency.json", result)
    extras = [extra for name in EXTRAS if (extra := read_extra(directory, name))]
    files.write_text(directory / "latency.md", markdown(result, extras))
    files.write_text(directory / "latency.html", latency_page.page(result, COLUMNS, cells, extras))
    latency_pictures.write_png(directory / "latency.png", result["rows"], title(result))


def title(result):
    """Return the heading of all forms."""
    return f"LSTM on {result['dataset']}, one image a request"


def cells(row):
    """Return the texts of a row of the table."""
    latencies = [number(row["latency_ms"][name]) for name in ("p50", "p95", "p99")]
    rate, busy = row["rate_rps"], row["generator_busy"]
    return [
        label(row),
        f"{rate:g}/s" if rate else str(row["concurrency"]),
        f"{100 * row['accuracy']:.2f} %",
        *latencies,
        f"{row['throughput_rps']:.0f}",
        with_spread(row["ratio_to_article"]["throughput"]),
        str(row["errors"]),
        "-" if busy is None else f"{100 * busy:.0f} %",
        "; ".join(row["marks"]),
    ]


def number(value):
    """Return a number with two decimals, a dash where there is none."""
    return "-" if value is None else f"{value:.2f}"


def with_spread(ratio):
    """Return a ratio's median and, in brackets, its smallest and largest of a round."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})" if ratio else "-"


def markdown_table(rows):
    """Return the rows as one Markdown table."""
    return table(COLUMNS, [cells(row) for row in rows])


def table(columns, rows):
    """Return a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join(lines)


def markdown(result, extras):
    """Return the report as Markdown."""
    parts = [f"# Latency: {title(result)}", result["finding"], markdown_table(result["rows"])]
    for extra in extras:
        parts += [f"## {extra['title']}", extra["note"], table(extra["columns"], extra["rows"])]
    parts += ["## Method", "\n".join(f"- {sentence}" for sentence in method(result))]
    parts += ["## Servers", table(latency_page.SERVER_COLUMNS, map(latency_page.server_cells, result["servers"]))]
    parts += ["## Machine", "\n".join(f"- {name}: {value}" for name, value in machine(result))]
    return "\n\n".join(part for part in parts if part) + "\n"


def method(result):
    """Return how it was measured, a list of sentences."""
    rates = ", ".join(f"{each:g}" for each in result["rates_rps"])
    opened = f"Open loop at {rates} requests a second that arrive at random times (Poisson); latency counts from the "
    opened += "scheduled arrival, so that a stall is not hidden."
    return [
        *([] if result["is_whole"] else ["The run was cut short: what was measured until then is shown."]),
        f"Every server has the same SavedModel, version {result['model_version']}, the same {result['num_tests']} "
        f"images of {result['dataset']}, one a request, and {result['threads']} thread(s) for its model calls in all.",
        f"Closed loop at concurrency {', '.join(map(str, result['concurrencies']))}: each caller asks again as soon as "
        "it has its answer.",
        *([opened] if rates else []),
        f"{result['rounds']} rounds, in which the servers take turns of {result['duration_s']:.2f} s, every other "
        "round in reverse order; a warm-up before each turn, "
        f"{100 * result['warm_up_share']:.0f} % of it, does not count.",
        "A ratio is taken round by round; shown are the median and, in brackets, the smallest and the largest. "
        "Requests a second are the rounds' median, percentiles those of all requests.",
        "The load generator is a process of its own on the same machine, with connections that stay open where the "
        "server lets them; it says what share of a core it was busy, and from 90 % on the row is marked.",
        *absent(result),
        "Every answer is compared with the bare model's; a row with a different or missing answer is marked. Accuracy "
        "is the share of the images asked whose digit every answer got right.",
    ]


def absent(result):
    """Return a sentence on the C++ server if it was not measured."""
    if any(server["server"] == CPP_SERVER for server in result["servers"]):
        return []
    return [f"{CPP_SERVER} was not measured: where the machine has it, or its Docker image, the same command does."]


def machine(result):
    """Return (name, value) of what the figures depend on."""
    about, load = result["machine"], result["load_average"]
    averages = {when: " ".join(f"{value:.2f}" for value in values) for when, values in load.items()}
    return [
        ("processor", about["cpu"]),
        ("cores", f"{about['cores']}, shared by server and load generator"),
        ("quota", f"{about['quota_cores']:g} cores" if about.get("quota_cores") else "none"),
        ("memory", f"{about['memory_gib']} GiB"),
        ("system", about["os"]),
        ("load average before", averages.get("before", "-")),
        ("load average after", averages.get("after", "-")),
        ("measured", result["started_at"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in result["versions"].items())),
    ]


def read_extra(directory, name):
    """Return another benchmark's result as {"title", "columns", "rows", "note", "picture"}, None if there is none."""
    path = directory / f"{name}.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        columns, rows = columns_and_rows(found)
        note = str(found.get("note", ""))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        found, columns, rows, note = {}, [], [], f"{path.name} cannot be read: {error}"
    return {
        "title": str(found.get("title", name.capitalize())),
        "columns": [str(column) for column in columns],
        "rows": [[number(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows],
        "note": note,
        "picture": next((path.with_suffix(end) for end in (".svg", ".png") if path.with_suffix(end).exists()), None),
    }


def columns_and_rows(found):
    """Return the table of another benchmark; rows that are objects have their keys as columns."""
    rows = found["rows"]
    if rows and isinstance(rows[0], dict):
        columns = found.get("columns") or list(rows[0])
        return columns, [[row.get(column, "") for column in columns] for row in rows]
    return found["columns"], rows


if __name__ == "__main__":
    command_line.run(main)
