"""Say which ratios of a comparison moved beyond their spreads since an earlier report.

Only ratios are compared, since only they carry over to another day or machine. The changes are a list, `"baseline"` in
latency.json, of {"row", "concurrency", "rate_rps", "figure", "then", "now", "direction"}: `row` is the label of the
server, `figure` "throughput" or "p50", `then` and `now` the ratios to the article's server as {"median", "min", "max"},
`direction` "up" or "down". Where a row is in one report only, `direction` is "only then" or "only now", and the other
ratio and `figure` are null.
"""

import json

from benchmarks.compare.contents import with_spread
from benchmarks.compare.rows import Point, label
from rnn_serving.command_line import UserError

# In an open loop the throughput is the rate itself.
FIGURES = {"closed": ("throughput", "p50"), "open": ("p50",)}
FIGURE_NAMES = {"throughput": "requests/s", "p50": "p50"}


def read_report(path):
    """Return an earlier latency.json. Raises: UserError unless it is one, with rows that have ratios."""
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        has_ratios = any(_ratio(row) for row in report["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; expected what compare_latency.py wrote") from error
    if not has_ratios:
        raise UserError(f"{path}: no ratio to the article's server; expected a report that measured it")
    return report


def compare(earlier, rows):
    """Return the changes between the rows of an earlier report and those of this one."""
    then, now = _by_load(earlier), _by_load(rows)
    changes = [change for key in now if key in then for change in _moved(key, then[key], now[key])]
    changes += [_change(key, None, None, _ratio(now[key]), "only now") for key in now if key not in then]
    return changes + [_change(key, None, _ratio(then[key]), None, "only then") for key in then if key not in now]


def describe(earlier, result):
    """Return the changes as text."""
    lines = [f"Ratios to the article's server beyond their spreads since {earlier.get('started_at', 'the baseline')}:"]
    lines += [f"- {line}" for line in describe_changes(result["baseline"])]
    if _hardware(earlier) != _hardware(result):
        lines.append("The earlier report is of another machine, on which ratios may differ for that reason alone.")
    return "\n".join(lines)


def describe_changes(changes):
    """Return a line for each ratio that moved, and for each server with rows in one report only."""
    lines = [_describe_moved(change) for change in changes if change["figure"]] or ["none"]
    for direction, where in (("only then", "the earlier report"), ("only now", "this report")):
        lines += [f"in {where} only: {each}" for each in _loads_of_rows(changes, direction)]
    return lines


def _by_load(rows):
    """Return {(label, concurrency, rate): row} of the rows with a ratio."""
    return {(label(row), row["concurrency"], row["rate_rps"]): row for row in rows if _ratio(row)}


def _ratio(row, figure="throughput"):
    return row["ratio_to_article"][figure]


def _moved(key, then, now):
    """Return the changes of one row: the spreads of a figure that moved have no value in common."""
    changes = []
    for figure in FIGURES["open" if now["rate_rps"] else "closed"]:
        before, after = _ratio(then, figure), _ratio(now, figure)
        if before and after and (after["min"] > before["max"] or after["max"] < before["min"]):
            direction = "up" if after["median"] > before["median"] else "down"
            changes.append(_change(key, figure, before, after, direction))
    return changes


def _change(key, figure, then, now, direction):
    row, concurrency, rate = key
    found = {"row": row, "concurrency": concurrency, "rate_rps": rate, "figure": figure}
    return found | {"then": then, "now": now, "direction": direction}


def _describe_moved(change):
    then, now = with_spread(change["then"]), with_spread(change["now"])
    return f"{change['row']}, {_load(change)}: {FIGURE_NAMES[change['figure']]} {change['direction']}, {then} -> {now}"


def _load(change):
    return str(Point(change["concurrency"], change["rate_rps"]))


def _loads_of_rows(changes, direction):
    """Return a line for each server with rows in one report only: its name, and the loads."""
    loads = {}
    for change in changes:
        if change["direction"] == direction:
            loads.setdefault(change["row"], []).append(_load(change))
    return [f"{row} ({', '.join(each)})" for row, each in loads.items()]


def _hardware(report):
    machine = report.get("machine", {})
    return machine.get("cpu"), machine.get("cores")
