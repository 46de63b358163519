import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import odd_models
import pytest
import requests
from conftest import start_flask
from endpoint_processes import metric
from werkzeug.exceptions import ServiceUnavailable

import flask_server

TIMEOUT_S = 1.5
# More loop iterations than the model completes in that time.
ENDLESS = 1e9


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of a slow model, with one row a call and a queue of two."""
    base = tmp_path_factory.mktemp("models") / "slow"
    odd_models.export(base / "1", odd_models.slow)
    flags = ["--request_timeout", TIMEOUT_S, "--max_batch_size", "1", "--max_enqueued_batches", "2", "--access_log"]
    with start_flask(base, *map(str, flags)) as server:
        yield server


@pytest.fixture
def url(server):
    return server.ready[1]


def ask(url, iterations):
    """Return the answer to a request that runs the model's loop `iterations` times, and the seconds it took."""
    began = time.monotonic()
    answer = requests.post(url, json={"data": [[iterations]]}, timeout=30)
    return answer, time.monotonic() - began


def test_a_request_that_takes_too_long_is_a_504_at_its_deadline(url):
    answer, seconds = ask(url, ENDLESS)
    assert answer.status_code == 504
    assert answer.json() == {"error": "POST /: no answer within 1.5 s"}
    assert TIMEOUT_S <= seconds < TIMEOUT_S + 1
    assert ask(url, 1)[0].json() == {"y": [[1.0]]}


def test_a_full_queue_is_a_503_at_once_and_health_checks_are_still_answered(url):
    with ThreadPoolExecutor(12) as callers:
        pending = [callers.submit(ask, url, ENDLESS) for _ in range(12)]
        first = time.monotonic()
        while time.monotonic() - first < TIMEOUT_S / 2:
            began = time.monotonic()
            assert requests.get(url + "healthz", timeout=10).json() == {"status": "alive"}
            assert requests.get(url + "readyz", timeout=10).json() == {"status": "ready"}
            assert time.monotonic() - began < TIMEOUT_S / 2
        answers = [call.result() for call in pending]
    rejected = [(answer, seconds) for answer, seconds in answers if answer.status_code == 503]
    # One runs, two wait.
    assert sorted(answer.status_code for answer, _ in answers) == [503] * 9 + [504] * 3
    assert all(seconds < TIMEOUT_S / 2 for _, seconds in rejected)
    assert {answer.headers["Retry-After"] for answer, _ in rejected} == {"1"}
    assert all(list(answer.json()) == ["error"] for answer, _ in rejected)
    assert ask(url, 1)[0].status_code == 200


def test_metrics_count_requests_by_status_and_batches_and_show_the_version(url):
    before = {status: requests_of(url, status) for status in (200, 422)}
    batches = metric(url, "flask_batch_size_count")
    seconds = metric(url, 'flask_request_seconds_count{path="/"}')
    assert ask(url, 1)[0].status_code == 200
    assert ask(url, "1")[0].status_code == 422
    assert requests_of(url, 200) == before[200] + 1
    assert requests_of(url, 422) == before[422] + 1
    assert metric(url, "flask_batch_size_count") == batches + 1
    assert metric(url, 'flask_request_seconds_count{path="/"}') == seconds + 2
    assert metric(url, 'flask_workers{model="slow",version="1"}') == 1


def requests_of(url, status):
    return metric(url, f'flask_requests_total{{path="/",status="{status}"}}')


def test_unknown_paths_share_one_label(url):
    before = metric(url, 'flask_requests_total{path="other",status="404"}')
    for number in range(3):
        assert requests.get(f"{url}made/up/{number}", timeout=10).status_code == 404
    text = requests.get(url + "metrics", timeout=10).text
    assert "made" not in text
    assert metric(url, 'flask_requests_total{path="other",status="404"}') == before + 3


def test_metrics_are_in_prometheus_format(url):
    answer = requests.get(url + "metrics", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    assert "# TYPE flask_requests_total counter" in answer.text or "# TYPE flask_requests counter" in answer.text


@pytest.mark.parametrize("path", ["healthz", "readyz", "metrics", "metadata", ""])
def test_head_is_get_without_the_body_and_post_elsewhere_is_405(url, path):
    answer = requests.head(url + path, timeout=10)
    assert (answer.status_code, answer.content) == (200, b"")
    if path:
        answer = requests.post(url + path, json={}, timeout=10)
        assert (answer.status_code, list(answer.json())) == (405, ["error"])


def test_the_access_log_has_a_line_of_json_for_each_request(server, url):
    for data in ([[1]], "wrong"):
        requests.post(url + "?marked", json={"data": data}, headers={"User-Agent": "marker é"}, timeout=10)
    lines = wait_for_lines(server, "marker", 2)
    assert [line["status"] for line in lines] == [200, 422]
    for line in lines:
        assert (line["method"], line["path"], line["remote"], line["model_version"]) == ("POST", "/", "127.0.0.1", "1")
        assert line["bytes_in"] > 0
        assert line["bytes_out"] > 0
        assert 0 < line["ms"] < 10_000


def wait_for_lines(server, word, count):
    server.wait_for(word)
    deadline = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in server.lines if word in line]
        if len(lines) >= count:
            return lines
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_before_the_model_is_loaded_the_server_is_alive_but_not_ready():
    def raise_loading():
        raise ServiceUnavailable("the model is still loading", retry_after=1)

    client = flask_server.create_app(SimpleNamespace(is_ready=False, acquire=raise_loading)).test_client()
    assert client.get("/healthz").status_code == 200
    for answer in (client.get("/readyz"), client.get("/metadata"), client.post("/", json={"data": 1})):
        assert (answer.status_code, answer.headers["Retry-After"], list(answer.json)) == (503, "1", ["error"])
        assert "X-Model-Version" not in answer.headers


def test_a_flood_of_small_requests_does_not_delay_predictions(url):
    stop = threading.Event()

    def flood():
        with requests.Session() as session:
            while not stop.is_set():
                session.get(url + "healthz", timeout=10)

    threads = [threading.Thread(target=flood) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        assert [ask(url, 1)[0].status_code for _ in range(10)] == [200] * 10
    finally:
        stop.set()
        for thread in threads:
            thread.join()
