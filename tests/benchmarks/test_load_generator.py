import itertools
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from benchmarks.load_connections import HTTPTarget
from benchmarks.load_generator import LoadGenerator
from benchmarks.load_process import ARRIVALS

STALL_S = 0.3


class OneAtATime(BaseHTTPRequestHandler):
    """Answers one request after the other; a request `stall` takes long."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(STALL_S if body == b"stall" else 0)
        self.send_response(500 if body == b"error" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        """Keep quiet."""


@pytest.fixture(scope="module")
def url():
    with HTTPServer(("127.0.0.1", 0), OneAtATime) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def generator():
    with LoadGenerator() as process:
        yield process


def test_answers_come_with_the_index_of_their_request(generator, url):
    load = generator.run(HTTPTarget(url, [b"first", b"second"]), concurrency=1, duration_s=0.1)
    assert {(index, answer) for index, _, answer in load.answered} == {(0, b"first"), (1, b"second")}
    assert load.errors == []
    assert 0 < load.busy < 1.5
    load = generator.run(HTTPTarget(url, [b"first", b"second"]), concurrency=1, duration_s=0.1, first=1)
    assert load.answered[0][0] == 1


def test_an_open_loop_counts_the_latency_of_a_stall_for_all_requests_due_in_it(generator, url):
    bodies = [b"stall"] + [b"quick"] * 99
    load = generator.run(HTTPTarget(url, bodies), concurrency=None, duration_s=0.6, rate=100)
    assert 30 < len(load.answered) < 100
    assert np.percentile(load.latencies_s(), 75) > STALL_S / 4  # about half of them were due while it stalled
    closed = generator.run(HTTPTarget(url, bodies), concurrency=1, duration_s=0.6)
    assert (
        np.percentile(closed.latencies_s(), 75) < STALL_S / 4
    )  # the one caller waited, and sent nothing in the meantime


def test_an_error_and_an_answer_that_takes_too_long_are_listed(generator, url):
    load = generator.run(HTTPTarget(url, [b"error"]), concurrency=1, duration_s=0.05)
    assert load.answered == []
    assert set(load.errors) == {"500: error"}
    late = generator.run(HTTPTarget(url, [b"stall"]), concurrency=1, duration_s=0.05, timeout_s=0.1)
    assert late.errors[0] == "no answer within 0.1 s"


@pytest.mark.parametrize(
    ("arrivals", "due_s"),
    [("even", [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]), ("bursts", [0.0, 0.0, 0.0, 0.0, 1.0, 1.0])],
)
def test_requests_can_arrive_at_even_intervals_or_at_once(arrivals, due_s):
    until_next = ARRIVALS[arrivals]
    assert list(itertools.accumulate(until_next(4, number) for number in range(6))) == due_s


def test_the_warm_up_uses_the_same_connections_and_does_not_count(generator, url):
    load = generator.run(HTTPTarget(url, [b"first", b"second"]), 1, duration_s=0.1, warm_up_s=0.1, first=1)
    assert load.answered[0][0] == 1
    assert load.elapsed_s < 0.2
