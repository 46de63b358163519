import pytest

from benchmarks import cross_check, paired_loads
from benchmarks.http_load import Speed
from rnn_serving.command_line import UserError


def test_the_difference_is_the_median_of_the_rounds():
    own = iter([Speed(100, 1.0, 10.0), Speed(105, 1.0, 10.0), Speed(300, 1.0, 10.0)])
    outside = iter([Speed(100, 1.0, 20.0), Speed(100, 1.0, 20.0), Speed(200, 1.0, 0.0)])
    pair = paired_loads.Pair("a server", "8 callers", "wrk", lambda: next(own), lambda: next(outside))
    throughput, p50, p99 = cross_check.measure([pair], 3)
    assert throughput[:4] == ["a server", "8 callers", "wrk", "requests/s"]
    assert throughput[4:] == ["105.00", "100.00", "+5 % (+0 % to +50 %)"]
    assert p50[4:] == ["1.00", "1.00", "+0 % (+0 % to +0 %)"]
    assert p99[4:] == ["10.00", "20.00", "-50 % (-50 % to -50 %) (beyond 10 %)"]


def test_without_any_tool_it_says_what_is_missing(monkeypatch, capfd):
    monkeypatch.setattr(cross_check.shutil, "which", lambda name: None)
    monkeypatch.setattr(cross_check.server_processes, "end_on_sigterm", lambda: None)
    with pytest.raises(UserError, match="there is no tool to check against"):
        cross_check.main([])
    assert capfd.readouterr().out == "Not installed: wrk, h2load, autocannon\n"
