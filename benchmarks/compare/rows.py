"""Sum up turns of load as the rows of the comparison, with ratios and marks."""

import math
import statistics
from collections import Counter
from dataclasses import dataclass

import numpy as np

from rnn_serving.clients.load import GradedLoad
from rnn_serving.clients.report import make_report

BASELINE, FLASK = "article", "flask"
# The share of a core from which on the load generator, a single thread, counts as the bottleneck.
BUSY_LIMIT = 0.9
# The share of the requests due that may be missing for a server to keep up with a rate.
MISSING_LIMIT = 0.05
# The finding is about this number of callers, and about the fewest.
MANY_CALLERS = 32
DISTRIBUTION = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 100)


@dataclass(frozen=True)
class Point:
    """A load: `concurrency` callers in a closed loop, or `rate` requests per second in an open one."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self):
        return f"{self.rate:g} requests/s" if self.rate else f"concurrency {self.concurrency}"


def make_rows(servers, points, dataset_name, num_tests):
    """Return the rows: for each point those of all servers; a server that failed has one that says so."""
    baselines = {name: next((each for each in servers if each.server == name), None) for name in (BASELINE, FLASK)}
    rows, reported = [], set()
    for point in points:
        for server in servers:
            turns = server.turns.get(point, [])
            if not turns and (not server.failure or id(server) in reported):
                continue
            if not turns or not turns[-1].latencies_s:
                reported.add(id(server))
            row = _row(server, point, turns, dataset_name, num_tests) | _ratios(turns, point, baselines)
            rounds = max(len(other.turns.get(point, [])) for other in servers)
            rows.append(row | {"marks": marks(row, server, rounds)})
    return rows


def _row(server, point, turns, dataset_name, num_tests):
    """Return the clients' report of all turns of a server at a point, with the fields of the comparison."""
    asked, not_right = (set().union(*sets) for sets in ([t.asked for t in turns], [t.not_right for t in turns]))
    errors = [error for turn in turns for error in turn.errors] or ([] if turns else [server.failure])
    whole = GradedLoad(
        sum(turn.elapsed_s for turn in turns) or 1.0,
        [seconds for turn in turns for seconds in turn.latencies_s],
        len(asked - not_right),
        errors,
    )
    report = make_report(
        *(server.server, server.protocol, server.version, dataset_name, whole),
        *(len(asked) or num_tests, point.concurrency, 1),
    )
    return report | {
        "rate_rps": point.rate,
        "remark": server.remark,
        "elapsed_s": sum(turn.elapsed_s for turn in turns),
        "requests": len(whole.latencies_s) + len(errors),
        "different": sum(turn.different for turn in turns),
        "throughput_rps": statistics.median([turn.throughput_rps for turn in turns] or [0.0]),
        "throughput_of_rounds_rps": [turn.throughput_rps for turn in turns],
        "p50_of_rounds_ms": [turn.p50_ms for turn in turns],
        "distribution_ms": _distribution(whole.latencies_s),
        "generator_busy": max((turn.busy for turn in turns), default=None),
        "error_list": [f"{error} ({count} times)" for error, count in Counter(errors).most_common()],
    }


def _distribution(latencies_s):
    """Return {percent: milliseconds}, empty without an answer."""
    return {
        f"{percent:g}": 1000 * float(np.percentile(latencies_s, percent)) for percent in DISTRIBUTION if latencies_s
    }


def marks(row, server, rounds):
    """Return remarks for the reader of a row; the other servers had `rounds` turns."""
    medians = row["p50_of_rounds_ms"]
    found = [server.failure] if server.failure and (not medians or medians[-1] is None) else []
    found += [server.remark] if server.remark else []
    if medians and len(medians) < rounds:
        found.append(f"measured in {len(medians)} of {rounds} rounds")
    if row["errors"] and medians:
        found.append(f"{row['errors']} requests without an answer: {row['error_list'][0]}")
    if row["different"]:
        found.append(f"{row['different']} answers differ from the model's")
    if row["rate_rps"] and not _keeps_up(row):
        found.append("could not keep up with the rate")
    if row["generator_busy"] and row["generator_busy"] > BUSY_LIMIT:
        found.append("the load generator was the bottleneck: the server may be faster")
    return found


def _keeps_up(row):
    """Return whether the answers match the rate; the number of random arrivals varies by its square root."""
    due = row["rate_rps"] * row["elapsed_s"]
    return row["requests"] - row["errors"] >= due - max(MISSING_LIMIT * due, 3 * due**0.5)


def nearest(concurrencies, wanted):
    """Return the concurrency that is nearest to the wanted one, as a ratio; None if there is none."""
    return min(concurrencies, key=lambda number: abs(math.log(number / wanted)), default=None)


def is_wrong(row):
    """Return whether a request of a row had no answer, or another one than the model's."""
    return bool(row["errors"] or row["different"] or row["remark"])


def _ratios(turns, point, baselines):
    """Return the ratios to the article's server, and of the throughput to the Flask endpoint with one worker."""
    article, flask = (server.turns.get(point, []) if server else [] for server in baselines.values())
    to_flask = spread(_round_by_round(turns, flask, "throughput_rps"))
    return {
        "ratio_to_article": {
            "throughput": spread(_round_by_round(turns, article, "throughput_rps")),
            "p50": spread(_round_by_round(turns, article, "p50_ms")),
        },
        "ratio_to_flask": to_flask and to_flask["median"],
    }


def _round_by_round(turns, others, what):
    """Return the ratios of a figure for each round that both have."""
    of_round = {turn.round: getattr(turn, what) for turn in others}
    pairs = [(getattr(turn, what), of_round.get(turn.round)) for turn in turns]
    return [mine / its for mine, its in pairs if mine is not None and its]


def spread(values):
    """Return the median, the smallest and the largest of the rounds' values, None if there are none."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)} if values else None


def label(row):
    """Return the name of a row's server, with the protocol where it has several."""
    return row["server"] if row["protocol"] == "HTTP/JSON" else f"{row['server']} {row['protocol']}"
