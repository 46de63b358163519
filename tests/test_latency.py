import contextlib
import json
import threading

import numpy as np
import pytest
from conftest import random_split

from rnn_serving import latency
from rnn_serving.command_line import UserError
from rnn_serving.dataset import Split
from rnn_serving.latency import RequestError

SPLIT = Split(*random_split(10))


def connecting(ask):
    """A `connect` whose every connection is the one function."""
    return lambda: contextlib.nullcontext(ask)


def right_answers(images):
    """The one-hot scores of the labels of `SPLIT`."""
    indices = [int(np.argmax((SPLIT.images == image).all(axis=(1, 2)))) for image in images]
    return np.eye(10)[SPLIT.labels[indices]]


def report_of(load, num_tests=10):
    return latency.make_report("test", "none", 1, "random", load, num_tests, 1, 1)


@pytest.mark.parametrize(("batch_size", "concurrency"), [(1, 1), (3, 1), (1, 4), (4, 3), (100, 2)])
def test_every_image_is_asked_once_and_graded(batch_size, concurrency):
    load = latency.run_load(connecting(right_answers), SPLIT, batch_size, concurrency)
    assert load.correct == 10
    assert len(load.latencies_s) == -(-10 // batch_size)
    assert load.errors == []


def test_the_warm_up_request_of_each_caller_is_outside_the_clock():
    calls = []
    latency.run_load(connecting(lambda images: calls.append(len(images)) or right_answers(images)), SPLIT, 5, 3)
    assert sorted(calls) == [5] * (3 + 2)


def test_concurrent_callers_ask_at_the_same_time():
    barrier = threading.Barrier(5, timeout=10)

    def ask(images):
        barrier.wait()
        return right_answers(images)

    assert latency.run_load(connecting(ask), SPLIT, 1, 5).errors == []


def test_a_wrong_digit_is_wrong_and_an_error_is_an_error():
    def ask(images):
        index = int(np.argmax((SPLIT.images == images[0]).all(axis=(1, 2))))
        if index == 3:
            raise RequestError("no answer")
        return np.eye(10)[[(SPLIT.labels[index] + (index == 5)) % 10]]

    report = report_of(latency.run_load(connecting(ask), SPLIT))
    assert (report["correct"], report["errors"], report["accuracy"]) == (8, 1, 0.8)
    assert report["error_list"] == ["image 3: no answer"]


def test_an_answer_of_the_wrong_length_is_an_error():
    load = latency.run_load(connecting(lambda images: np.zeros((1, 10))), SPLIT, 5)
    assert (
        load.errors[0]
        == "image 0: answer has shape (1, 10) or numbers that are not finite; expected 5 rows of 10 finite numbers"
    )


def test_a_defect_of_the_client_is_raised_not_counted():
    def ask(images):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        latency.run_load(connecting(ask), SPLIT, concurrency=2)


def test_the_report_has_the_contracts_keys_and_numpys_percentiles():
    load = latency.Load(elapsed_s=2.0, latencies_s=[0.001 * n for n in range(1, 101)], correct=90)
    report = report_of(load, 100)
    assert list(report) == [
        *("server", "protocol", "model_version", "dataset", "num_tests", "correct", "accuracy", "errors"),
        *("concurrency", "batch_size", "elapsed_s", "throughput_rps", "latency_ms", "error_list"),
    ]
    assert list(report["latency_ms"]) == ["mean", "p50", "p90", "p95", "p99", "max"]
    assert report["latency_ms"]["p50"] == pytest.approx(50.5)
    assert report["latency_ms"]["max"] == pytest.approx(100)
    assert report["throughput_rps"] == 50
    assert report["accuracy"] == 0.9


def test_without_one_answer_the_report_is_still_json(tmp_path, capsys):
    load = latency.Load(elapsed_s=1.0, errors=["image 0: down"] * 7)
    assert latency.finish(report_of(load), tmp_path / "deep" / "report.json") == 1
    written = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert written["latency_ms"]["p50"] is None
    assert written["errors"] == 7
    output = capsys.readouterr()
    assert "and 2 more" in output.out
    assert "requests without an answer: 7; expected none" in output.err


def test_the_error_rate_is_of_wrong_digits_and_unknown_where_answers_are_missing(capsys):
    latency.print_report(report_of(latency.Load(elapsed_s=1.0, latencies_s=[0.1] * 8, correct=7), 8))
    latency.print_report(report_of(latency.Load(elapsed_s=1.0, latencies_s=[0.1] * 8, correct=7, errors=["down"]), 9))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Error rate")]
    assert lines == ["Error rate= 12.5 %", "Error rate= - %"]


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        ((None, 28, 28), (28, 28)),
        ((1, None, 28), (28, 28)),
        (None, (28, 28)),
        ((None, 784), (784,)),
        ((None, None), (784,)),
        ([None, 28, 28, 1], (28, 28, 1)),
    ],
)
def test_images_are_sent_in_the_shape_that_a_signature_takes(shape, form):
    assert latency.image_form("x", "float32", shape) == form


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        ("float32", (None, 783), "takes float32 (None, 783) as 'x'; expected float32 (None, 28, 28), (None, 784) or"),
        ("float32", (784,), "takes float32 (784,) as 'x'"),
        ("float32", (None, 28, 28, 3), "takes float32 (None, 28, 28, 3) as 'x'"),
        ("string", (None,), "takes string (None,) as 'x'"),
        ("uint8", None, "takes uint8 any shape as 'x'"),
    ],
)
def test_a_signature_that_takes_no_images_is_an_error(dtype, shape, message):
    with pytest.raises(UserError) as error:
        latency.image_form("x", dtype, shape)
    assert message in str(error.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "http://127.0.0.1", "http://127.0.0.1/"])
def test_a_host_may_be_given_with_or_without_http(host):
    assert latency.host_name(host) == "127.0.0.1"
    assert latency.host_name("::1") == latency.host_name("http://[::1]") == "[::1]"
