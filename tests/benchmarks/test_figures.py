import json

import pytest

from benchmarks import figures
from benchmarks.figures import Figure
from rnn_serving.command_line import UserError


def test_figures_are_printed_and_written_with_targets_and_spreads(tmp_path, capsys):
    found = [
        Figure.of("latency, ms", [1.0, 3.0, 2.0]),
        Figure.of("ratio", [0.5, 0.25, 0.5], at_most=0.4),
        Figure.of("requests/s", [900.0, 1000.5], at_least=2, summary=max),
    ]
    figures.report("On what.", found, {"rounds": 3}, tmp_path / "figures.json")
    assert capsys.readouterr().out.splitlines() == [
        "On what.",
        "",
        "| figure | target | measured | spread | rounds |",
        "| --- | --- | --- | --- | --- |",
        "| latency, ms |  | 2.00 | 1.00 - 3.00 | 3 |",
        "| ratio | at most 0.4 | 0.50 (missed) | 0.25 - 0.50 | 3 |",
        "| requests/s | at least 2 | 1000 | 900 - 1000 | 2 |",
    ]
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["rounds"] == 3
    assert [figure["met"] for figure in written["figures"]] == [None, False, True]


def test_failed_requests_are_an_error():
    figures.check_errors([])
    with pytest.raises(UserError, match="2 requests failed, the first with late; expected an answer to each"):
        figures.check_errors(["late", "later"])
