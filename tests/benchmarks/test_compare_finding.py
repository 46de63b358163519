from scripted_servers import answers, down, measured

from benchmarks.compare import finding, results_table
from benchmarks.compare.rows import label


def scripted_rows():
    loads = {"article": (10, 10), "flask": (40, 50), "flask gateway": (45, 45), "odd": (99, 99)}
    script = {
        name: [answers(count, milliseconds=100 / count) for count in counts for _ in (1, 32)]
        for name, counts in loads.items()
    }
    script["odd"][1] = down()
    _, rows = measured(script, concurrency=(1, 32))
    return [row for row in rows if row["server"] != "odd" or row["errors"]]


def test_the_finding_names_the_best_of_the_rows_and_what_it_is_not_sure_of():
    sentence = finding.describe_finding(scripted_rows())
    assert sentence.startswith(
        "Most requests with 32 callers: Flask endpoint, 1 worker, 45 per second, 4.50 times the article's; "
        "Flask gateway, is level with it within the spread of the rounds. Shortest median with 1 caller: "
    )


def test_the_large_numbers_are_those_in_bold_in_the_table():
    rows = scripted_rows()
    shown = finding.highlights(rows)
    assert [(each.what, each.number, each.unit) for each in shown] == [
        ("most requests/s, 32 callers", "45", "/s"),
        ("half are faster than, 1 caller", "2.00", "ms"),
        ("99 % are faster than, 32 callers", "2.22", "ms"),
    ]
    assert shown[0].beside == "the article's: 10"
    table = results_table.closed_loop(rows)
    best = finding.ranked([row for row in rows if row["concurrency"] == 32], finding.THROUGHPUT)[0]
    line = next(line for line in table.splitlines()[::-1] if finding.server_name(best) in line)
    assert label(best) == label(shown[0].row)
    assert 'class="rate best"' in line


def test_a_row_with_a_failure_has_no_place_and_is_in_red():
    rows = scripted_rows()
    assert "odd" not in [row["server"] for row in finding.ranked(rows, finding.P50)]
    odd = next(line for line in results_table.closed_loop(rows).splitlines() if ">odd<" in line)
    assert odd.startswith('<tr class="wrong">')
    assert "connection refused" in odd


def test_an_open_loop_shows_latency_and_compares_no_throughput():
    _, rows = measured({"article": [answers(100)] * 4}, rate=(100,))
    table = results_table.open_loop(rows)
    assert "100 requests/s arrive" in table
    assert "p50, times the article&#x27;s" in table
    assert 'class="rate' not in table
