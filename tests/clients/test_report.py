import json

import pytest

from rnn_serving.clients import report
from rnn_serving.clients.load import GradedLoad


def report_of(load, num_tests=10):
    return report.make_report("test", "none", 1, "random", load, num_tests, 1, 1)


def test_the_report_has_the_contracts_keys_and_numpys_percentiles():
    graded = GradedLoad(elapsed_s=2.0, latencies_s=[0.001 * n for n in range(1, 101)], correct=90)
    written = report_of(graded, 100)
    assert list(written) == [
        *("server", "protocol", "model_version", "dataset", "num_tests", "correct", "accuracy", "errors"),
        *("concurrency", "batch_size", "elapsed_s", "throughput_rps", "latency_ms", "error_list"),
    ]
    assert list(written["latency_ms"]) == ["mean", "p50", "p90", "p95", "p99", "max"]
    assert written["latency_ms"]["p50"] == pytest.approx(50.5)
    assert written["latency_ms"]["max"] == pytest.approx(100)
    assert written["throughput_rps"] == 50
    assert written["accuracy"] == 0.9


def test_accuracy_is_a_fraction_of_all_images_and_errors_are_listed():
    written = report_of(GradedLoad(elapsed_s=1.0, latencies_s=[0.1] * 9, correct=8, errors=["image 3: no answer"]))
    assert (written["correct"], written["errors"], written["accuracy"]) == (8, 1, 0.8)
    assert written["error_list"] == ["image 3: no answer"]


def test_a_report_without_any_answer_is_valid_json(tmp_path, capsys):
    graded = GradedLoad(elapsed_s=1.0, errors=["image 0: down"] * 7)
    assert report.finish(report_of(graded), tmp_path / "deep" / "report.json") == 1
    written = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert written["latency_ms"]["p50"] is None
    assert written["errors"] == 7
    output = capsys.readouterr()
    assert "and 2 more" in output.out
    assert "requests without an answer: 7; expected none" in output.err


def test_the_error_rate_counts_wrong_digits_and_is_unknown_if_answers_are_missing(capsys):
    report.print_report(report_of(GradedLoad(elapsed_s=1.0, latencies_s=[0.1] * 8, correct=7), 8))
    report.print_report(report_of(GradedLoad(elapsed_s=1.0, latencies_s=[0.1] * 8, correct=7, errors=["down"]), 9))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Error rate")]
    assert lines == ["Error rate= 12.5 %", "Error rate= - %"]
