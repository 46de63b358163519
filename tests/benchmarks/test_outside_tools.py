import json

import pytest

from benchmarks import outside_tools
from benchmarks.http_load import Speed
from rnn_serving.command_line import UserError

AUTOCANNON = {"2xx": 410, "duration": 4.1, "errors": 0, "timeouts": 0, "non2xx": 0, "latency": {"p50": 20, "p99": 95}}
H2LOAD = """finished in 3.00s, 1843.50 req/s, 360.09KB/s
requests: 3687 total, 3687 started, 3687 done, 3687 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 3687 2xx, 0 3xx, 0 4xx, 0 5xx
"""
LOG = "1795666000000000\t200\t400\n1795666000000500\t200\t500\n1795666000001000\t200\t600\n"


def test_the_speed_is_read_from_what_autocannon_prints():
    assert outside_tools.read_autocannon(json.dumps(AUTOCANNON)) == Speed(pytest.approx(100), 20.0, 95.0)


def test_the_speed_is_read_from_what_h2load_prints_and_logs():
    assert outside_tools.read_h2load(H2LOAD, LOG) == Speed(1843.5, pytest.approx(0.5), pytest.approx(0.598))


def test_failed_requests_are_an_error():
    with pytest.raises(UserError, match="2 requests failed, the first with autocannon: errors 0, status other"):
        outside_tools.read_autocannon(json.dumps(AUTOCANNON | {"non2xx": 2}))
    with pytest.raises(UserError, match="3 requests failed, the first with h2load: requests: 3687 total"):
        outside_tools.read_h2load(H2LOAD.replace("0 failed", "3 failed"), LOG)
