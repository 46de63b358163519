"""Servers that behave as scripted: the loads that the comparison measures, without any server."""

from types import SimpleNamespace

import numpy as np

from benchmarks.compare import turns
from benchmarks.compare.expected_answers import ExpectedAnswers
from benchmarks.compare.grading import Grader
from benchmarks.compare.rows import Point, make_rows
from benchmarks.compare.servers import MeasuredServer
from benchmarks.load_process import RawLoad
from benchmarks.protocols import Protocol


def answers(count, busy=0.1, milliseconds=1.0):
    """A load of one second in which image 0 was answered `count` times."""
    return RawLoad([(0, milliseconds / 1000, b"right")] * count, [], 1.0, busy)


def down():
    return RawLoad([], ["connection refused"] * 3, 1.0, 0.1)


class ScriptedGenerator:
    """Returns the loads of a script, {server: [load or exception, ...]}; a warm-up is not in it."""

    def __init__(self, script):
        self._script = {name: iter(loads) for name, loads in script.items()}

    def run(self, target, concurrency, duration_s, rate, warm_up_s, timeout_s, first):
        if duration_s == turns.FIRST_WARM_UP_S:
            return answers(1)
        load = next(self._script[target])
        if isinstance(load, BaseException):
            raise load
        return load


def measured(script, concurrency=(32,), rate=(), rounds=2):
    """The exit status and the rows of a run in which the servers behave as scripted."""
    scores = np.full((1, 10), 0.1, np.float32)
    decode = lambda body: scores if body == b"right" else scores + 1  # noqa: E731
    expected = ExpectedAnswers(Protocol("HTTP/JSON", "probabilities", None, decode), [b""], scores)
    servers = [MeasuredServer(name, "HTTP/JSON", "", "", 1, name, Grader(expected, np.zeros(1))) for name in script]
    points = [*(Point(number) for number in concurrency), *(Point(rate=each) for each in rate)]
    args = SimpleNamespace(concurrency=concurrency, rounds=rounds, timeout=1.0)
    status = turns.measure(ScriptedGenerator(script), servers, points, args, 1.0)
    return status, make_rows(servers, points, "digits", 1)
