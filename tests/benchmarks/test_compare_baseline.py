import json

import pytest

from benchmarks.compare import baseline
from rnn_serving.command_line import UserError

MACHINE = {"cpu": "AMD EPYC", "cores": 2}


def row(server, throughput, p50=(0.5, 0.4, 0.6), concurrency=8, rate=None):
    """A row with ratios, each (median, min, max)."""
    ratios = {"throughput": throughput, "p50": p50}
    spreads = {name: ratio and dict(zip(("median", "min", "max"), ratio)) for name, ratio in ratios.items()}
    load = {"concurrency": concurrency, "rate_rps": rate}
    return {"server": server, "protocol": "HTTP/JSON", "ratio_to_article": spreads} | load


def change_of(earlier, now):
    return [(each["row"], each["figure"], each["direction"]) for each in baseline.compare(earlier, now)]


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ((5.4, 5.1, 5.6), []),
        ((5.8, 5.5, 6.0), []),  # the spreads touch
        ((6.0, 5.6, 6.2), [("flask", "throughput", "up")]),
        ((4.0, 3.9, 4.9), [("flask", "throughput", "down")]),
    ],
)
def test_a_ratio_has_moved_if_its_spreads_have_no_value_in_common(now, found):
    assert change_of([row("flask", (5.2, 5.0, 5.5))], [row("flask", now)]) == found


def test_in_an_open_loop_only_latency_is_compared():
    then = row("flask", (1, 1, 1), (0.5, 0.4, 0.6), None, 100)
    now = row("flask", (2, 2, 2), (0.9, 0.8, 1.0), None, 100)
    assert change_of([then], [now]) == [("flask", "p50", "up")]


def test_rows_of_one_report_only_are_listed():
    earlier = [row("flask", (5, 5, 5)), row("gone", (1, 1, 1)), row("failed", None, None)]
    now = [row("flask", (5, 5, 5)), row("new", (2, 2, 2))]
    assert change_of(earlier, now) == [("new", None, "only now"), ("gone", None, "only then")]


def test_the_changes_are_told_in_words():
    then = [row("flask", (5.2, 5.0, 5.5)), row("gone", (1, 1, 1), concurrency=1), row("gone", (1, 1, 1))]
    earlier = {"rows": then, "machine": MACHINE, "started_at": "2026-11-26"}
    now = [row("flask", (6.0, 5.6, 6.2))]
    result = {"machine": MACHINE, "baseline": baseline.compare(then, now)}
    assert baseline.describe(earlier, result).splitlines() == [
        "Ratios to the article's server beyond their spreads since 2026-11-26:",
        "- flask, concurrency 8: requests/s up, 5.20 (5.00-5.50) -> 6.00 (5.60-6.20)",
        "- in the earlier report only: gone (concurrency 1, concurrency 8)",
    ]
    other = {"machine": MACHINE | {"cores": 64}, "baseline": []}
    assert "- none\nThe earlier report is of another machine" in baseline.describe(earlier, other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"rows": [{}]}', "KeyError"),
        (json.dumps({"rows": [row("flask", None, None)]}), "no ratio to the article's server"),
    ],
)
def test_a_file_that_is_not_a_report_is_an_error(tmp_path, content, message):
    (tmp_path / "latency.json").write_text(content)
    with pytest.raises(UserError, match=message):
        baseline.read_report(tmp_path / "latency.json")
