"""What the report of the comparison says, in Markdown and in HTML: titles, cells, the method and the machine."""

from benchmarks import colours, cpp_server
from benchmarks.compare import notes
from benchmarks.compare.finding import server_name
from benchmarks.compare.rows import is_wrong

COLUMNS = (
    *(
        "server",
        "callers",
        "accuracy",
        "p50, ms",
        "p95, ms",
        "p99, ms",
        "requests/s",
        "requests/s, times the article's",
    ),
    *("errors", "load generator", "remarks"),
)
SERVER_COLUMNS = ("server", "threads of its model calls, settings", "started as")


def title(result):
    """Return the heading of all forms."""
    return f"LSTM on {result['dataset']}, one image per request"


def about(result):
    """Return one line on where and when."""
    machine = result["machine"]
    cores = f"{machine['cores']} cores, shared by servers and load generator"
    return f"{machine['cpu']}, {cores}; {result['started_at']}; {result['rounds']} rounds"


def correctness(rows):
    """Return a sentence on the answers of the rows that have a load of callers."""
    wrong = sum(is_wrong(row) for row in rows)
    if wrong:
        return f"In {wrong} of {len(rows)} rows an answer is missing or differs from the model's: in red."
    accuracies = sorted(row["accuracy"] for row in rows if row["concurrency"])
    shares = " to ".join(f"{100 * each:.1f} %" for each in sorted({accuracies[0], accuracies[-1]}))
    return f"Every request got the model's answer, which is right for {shares} of the images sent."


def cells(row):
    """Return the texts of a row of the table; in an open loop, requests/s are the load and compare nothing."""
    latencies = [number(row["latency_ms"][name]) for name in ("p50", "p95", "p99")]
    rate, busy = row["rate_rps"], row["generator_busy"]
    return [
        server_name(row),
        f"{rate:g}/s arrive" if rate else str(row["concurrency"]),
        f"{100 * row['accuracy']:.2f} %",
        *latencies,
        "-" if rate else f"{row['throughput_rps']:.0f}",
        "-" if rate else with_spread(row["ratio_to_article"]["throughput"]),
        str(row["errors"]),
        "-" if busy is None else f"{100 * busy:.0f} %",
        "; ".join(row["marks"]),
    ]


def server_cells(server):
    """Return the texts of a server's row."""
    protocol = "" if server["protocol"] == "HTTP/JSON" else f" {server['protocol']}"
    name = colours.style_of(server["server"] + protocol)[1].name
    # A report may be older than the settings.
    settings = "; ".join(filter(None, (server["threads"], server.get("settings"))))
    return [name, settings, f"`{server['command']}`"]


def number(value):
    """Return a number with two decimals, a dash for None."""
    return "-" if value is None else f"{value:.2f}"


def with_spread(ratio):
    """Return a ratio's median and, in brackets, its smallest and largest of a round."""
    return f"{ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f})" if ratio else "-"


def method(result):
    """Return how it was measured, a list of sentences."""
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    return [
        *([] if result["is_whole"] else ["The run was cut short; this report shows what was measured until then."]),
        *notes_on_all(result),
        f"Every server has the same SavedModel, version {result['model_version']}, the same {result['num_tests']:,} "
        f"images of {result['dataset']}, one a request, and {threads} for its model calls in all.",
        f"Closed loop at concurrency {', '.join(map(str, result['concurrencies']))}: each caller sends again as soon "
        "as it has its answer.",
        *_open_loop(result),
        f"{result['rounds']} rounds, in which the servers take turns of {result['duration_s']:.2f} s, every other "
        "round in reverse order; a warm-up before each turn, "
        f"{100 * result['warm_up_share']:.0f} % of it, does not count.",
        "A ratio is taken round by round; shown are the median and, in brackets, the smallest and the largest. "
        "Requests per second are the rounds' median, percentiles those of all requests.",
        "The load generator is a process of its own on the same machine, with keep-alive connections where the server "
        "allows them; the table shows what share of a core it was busy, and from 90 % on the row is marked.",
        *_missing_cpp_server(result),
        "Every answer is compared with the bare model's; a row with a different or missing answer is marked. Accuracy "
        "is the share of the images sent whose digit every answer got right.",
    ]


def notes_on_all(result):
    """Return the texts of the notes that name no row."""
    return [note["text"] for note in notes.notes_of(result) if not set(note) & set(notes.KEYS)]


def _open_loop(result):
    """Return a sentence on the rates if any were measured."""
    if not result["rates_rps"]:
        return []
    rates = ", ".join(f"{each:g}" for each in result["rates_rps"])
    return [
        f"Open loop at {rates} requests per second that arrive at random times (Poisson); latency counts from the "
        "scheduled arrival, so that a stall is not hidden."
    ]


def _missing_cpp_server(result):
    """Return a sentence on the C++ server if it was not measured."""
    name = cpp_server.NAME
    if any(server["server"].startswith(name) for server in result["servers"]):
        return []
    return [f"{name} was not measured: where the machine has it, or its Docker image, the same command measures it."]


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
