"""The finding of the comparison, from the same rankings from which the page takes the best of each group."""

from dataclasses import dataclass

from benchmarks import colours
from benchmarks.compare.rows import BASELINE, MANY_CALLERS, is_wrong, label, nearest

THROUGHPUT, P50, P95, P99 = "throughput", "p50", "p95", "p99"
# Those with a value for each round, by which servers can be level.
_OF_ROUNDS = {THROUGHPUT: "throughput_of_rounds_rps", P50: "p50_of_rounds_ms"}


def figure(row, what):
    """Return a figure of a row: requests/s, or milliseconds, None without an answer."""
    return row["throughput_rps"] if what == THROUGHPUT else row["latency_ms"][what]


def ranked(rows, what):
    """Return the rows of one load from the best to the worst by a figure; a failed or disturbed row has no place."""
    sign = -1 if what == THROUGHPUT else 1
    good = [row for row in rows if is_good(row) and figure(row, what) is not None]
    return sorted(good, key=lambda row: sign * figure(row, what))


def is_good(row):
    """Return whether a row can be relied on: every answer is the model's, and no note calls it disturbed."""
    return not is_wrong(row) and not row.get("is_disturbed")


def loads(rows):
    """Return {(concurrency, rate): rows} in the order of the rows."""
    found = {}
    for row in rows:
        found.setdefault((row["concurrency"], row["rate_rps"]), []).append(row)
    return found


def server_name(row):
    """Return the name of a row's server in text."""
    return colours.style_of(label(row))[1].name


def callers(concurrency):
    """Return how many callers there are, in words."""
    return "1 caller" if concurrency == 1 else f"{concurrency} callers"


@dataclass(frozen=True)
class Highlight:
    """One large number: what it is, of which row, and the article's server's beside it if that is another."""

    what: str
    number: str
    unit: str
    row: dict
    beside: str


def highlights(rows):
    """Return three large numbers: most requests/s, the shortest median of few callers, the shortest p99 of many."""
    few, many = few_and_many(rows)
    if few is None:
        return []
    of = {number: [row for row in rows if row["concurrency"] == number] for number in (few, many)}
    shown = (
        (f"most requests/s, {callers(many)}", many, THROUGHPUT, "{:,.0f}", "/s"),
        (f"half are faster than, {callers(few)}", few, P50, "{:.2f}", "ms"),
        (f"99 % are faster than, {callers(many)}", many, P99, "{:.2f}", "ms"),
    )
    found = []
    for what, number, name, form, unit in shown:
        best = ranked(of[number], name)[0]
        found.append(
            Highlight(what, form.format(figure(best, name)), unit, best, _beside(of[number], best, name, form))
        )
    return found


def _beside(rows, best, name, form):
    article = next((row for row in rows if row["server"] == BASELINE and row is not best), None)
    if article is None or figure(article, name) is None:
        return ""
    return f"the article's: {form.format(figure(article, name))}"


def few_and_many(rows):
    """Return the fewest callers, and those nearest to the many, of the rows without a failure; None if none fits."""
    good = [row["concurrency"] for row in rows if row["concurrency"] and is_good(row)]
    return min(good, default=None), nearest(good, MANY_CALLERS)


def describe_finding(rows):
    """Return what was found, in a sentence or two, from the rows without a failure."""
    few, many = few_and_many(rows)
    if few is None:
        return "No server gave every answer that the model gives; the remarks of the rows say what came instead."
    most = ranked([row for row in rows if row["concurrency"] == many], THROUGHPUT)
    soonest = ranked([row for row in rows if row["concurrency"] == few], P50)
    return (
        f"Most requests with {callers(many)}: {server_name(most[0])}, {figure(most[0], THROUGHPUT):,.0f} per second"
        f"{_shape_text(most[0], THROUGHPUT)}{_level(most, THROUGHPUT)}. "
        f"Shortest median with {callers(few)}: {server_name(soonest[0])}, {figure(soonest[0], P50):.2f} ms"
        f"{_shape_text(soonest[0], P50)}{_level(soonest, P50)}."
    )


def _shape_text(row, what):
    ratio = row["ratio_to_article"][what]
    if row["server"] == BASELINE or not ratio:
        return ""
    return f", {ratio['median']:.2f} times the article's"


def _level(ranking, what):
    """Return who else may be first: those whose rounds overlap with the first one's, in words."""
    rounds = _OF_ROUNDS[what]
    low, high = min(ranking[0][rounds]), max(ranking[0][rounds])
    others = [server_name(row) for row in ranking[1:] if min(row[rounds]) <= high and max(row[rounds]) >= low]
    if not others:
        return ""
    who = f"{others[0]}, is" if len(others) == 1 else f"{len(others)} others are"
    return f"; {who} level with it within the spread of the rounds"
