"""The application gives the same answers under our worker, under gunicorn's threads and under waitress."""

import contextlib
import json
import sys
import time
from concurrent import futures

import numpy as np
import pytest
import requests
from conftest import BAD_INPUT, publish_copy, started

from benchmarks import server_processes
from rnn_serving import checkpoint

# The same application, started as the documentation of each server shows.
WAITRESS = """
import sys, waitress, flask_server
waitress.serve(flask_server.wsgi_app(model_path=sys.argv[1]), port=sys.argv[2])
"""
GTHREAD = ["-m", "gunicorn", "--worker-class=gthread", "--threads=8", "--no-control-socket"]
COMMANDS = {
    "our worker": lambda path, port: ["flask_server.py", "--model_path", path, "--port", str(port)],
    "gthread": lambda path, port: [
        *GTHREAD,
        f"--bind=127.0.0.1:{port}",
        f'flask_server:wsgi_app(model_path="{path}")',
    ],
    "waitress": lambda path, port: ["-c", WAITRESS, path, str(port)],
}


@pytest.fixture(scope="module")
def base(export_base, tmp_path_factory):
    """A directory of versions that the tests may add to."""
    base = tmp_path_factory.mktemp("wsgi") / "mnist"
    publish_copy(export_base, base, 1)
    return base


@pytest.fixture(scope="module")
def urls(base):
    """{server: URL} of all three, started together."""
    with contextlib.ExitStack() as stack:
        ports = {name: server_processes.free_port() for name in COMMANDS}
        for name, command in COMMANDS.items():
            stack.enter_context(started(sys.executable, *command(str(base), ports[name])))
        urls = {name: f"http://127.0.0.1:{port}/" for name, port in ports.items()}
        for url in urls.values():
            wait_until_ready(url)
        yield urls


def wait_until_ready(url, limit_s=60):
    deadline = time.monotonic() + limit_s
    while True:
        try:
            return requests.get(url + "readyz", timeout=5).raise_for_status()
        except requests.RequestException:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


@pytest.fixture(params=COMMANDS)
def url(urls, request):
    return urls[request.param]


def post(url, body, content_type="application/json"):
    return requests.post(url, data=body, headers={"Content-Type": content_type}, timeout=30)


def test_answers_are_the_probabilities_of_the_checkpoint(url, checkpoint_dir, test_images):
    images = test_images.images[:20]
    answer = post(url, json.dumps({"data": images.tolist()}))
    _, expected = checkpoint.load_model(checkpoint.find(checkpoint_dir))(images)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.headers["X-Model-Version"] == "1"
    np.testing.assert_allclose(answer.json()["y"], expected, atol=1e-5)


def test_concurrent_requests_each_get_their_own_answer(url, checkpoint_dir, test_images):
    images = test_images.images[:64]
    _, expected = checkpoint.load_model(checkpoint.find(checkpoint_dir))(images)
    with futures.ThreadPoolExecutor(16) as threads:
        answers = list(
            threads.map(lambda image: post(url, json.dumps({"data": image.tolist()})).json()["y"][0], images)
        )
    np.testing.assert_allclose(answers, expected, atol=1e-5)


def test_metadata_has_model_version_data_set_and_signature(url):
    assert requests.get(url + "metadata", timeout=10).json() == {
        "model": "mnist",
        "version": 1,
        "dataset": "digits",
        "signature": {
            "inputs": {"x_input": {"name": "Input_X:0", "dtype": "float32", "shape": [None, 28, 28]}},
            "outputs": {"y_output": {"name": "output_layer/add:0", "dtype": "float32", "shape": [None, 10]}},
        },
    }


@pytest.mark.parametrize(("body", "content_type", "status", "message"), BAD_INPUT, ids=lambda value: str(value)[:30])
def test_bad_input_is_an_error_that_says_what_was_expected(url, body, content_type, status, message):
    answer = post(url, body, content_type)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert message in answer.json()["error"]


def test_wrong_methods_and_paths_are_json_errors(url):
    answer = requests.put(url, timeout=10)
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert "PUT /: " in answer.json()["error"]
    answer = requests.get(url + "nowhere", timeout=10)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


def test_health_metrics_and_the_page_are_served(url):
    assert requests.get(url + "healthz", timeout=10).json() == {"status": "alive"}
    assert "flask_batch_size" in requests.get(url + "metrics", timeout=10).text
    assert "<canvas" in requests.get(url, timeout=10).text


def test_a_new_version_goes_live(urls, base, export_base):
    publish_copy(export_base, base, 2)
    deadline = time.monotonic() + 30
    for url in urls.values():
        while requests.get(url + "metadata", timeout=10).headers["X-Model-Version"] != "2":
            assert time.monotonic() < deadline
            time.sleep(0.05)
