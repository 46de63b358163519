import functools
import os
import signal
import sys
import threading

import gevent
import numpy as np
import pytest
import requests
from conftest import run_script, start_flask, start_model_server, started
from endpoint_processes import wait_until
from test_backend import Fake, echo, serving
from werkzeug.exceptions import GatewayTimeout, HTTPException, ServiceUnavailable

from benchmarks import server_processes
from rnn_serving.endpoint import gateway_model
from rnn_serving.endpoint import signature as signatures
from rnn_serving.endpoint.threads import Threads
from rnn_serving.http_worker.greenlets import Greenlets
from rnn_serving.saved_model import ServedModel


@pytest.fixture(scope="module")
def gateway_url(grpc_address):
    """The URL of a running `flask_server.py` in front of a model server."""
    with start_flask("nowhere", "--backend", grpc_address, "--workers", "2") as server:
        yield server.ready[1]


def post(url, data):
    return requests.post(url, json={"data": data}, timeout=30)


def test_the_gateway_answers_as_its_backend_does(gateway_url, export_base, test_images):
    import flask_server

    images = test_images.images[:40]
    answer = post(gateway_url, images.tolist())
    with ServedModel(export_base) as model:
        expected = flask_server.softmax(model.predict({"x_input": images})["y_output"])
    assert (answer.status_code, answer.headers["X-Model-Version"]) == (200, "1")
    np.testing.assert_allclose(answer.json()["y"], expected, atol=1e-5)


def test_metadata_has_the_signature_of_the_backends_model(gateway_url):
    metadata = requests.get(gateway_url + "metadata", timeout=10).json()
    assert metadata == {
        "model": "mnist",
        "version": 1,
        "dataset": "digits",
        "signature": {
            "inputs": {"x_input": {"name": "Input_X:0", "dtype": "float32", "shape": [None, 28, 28]}},
            "outputs": {"y_output": {"name": "output_layer/add:0", "dtype": "float32", "shape": [None, 10]}},
        },
    }
    assert requests.get(gateway_url + "readyz", timeout=10).status_code == 200


def test_the_flask_client_grades_the_gateway(gateway_url, data_dir):
    port = gateway_url.rstrip("/").rpartition(":")[2]
    ended = run_script("flask_client.py", "--data_dir", data_dir, "--port", port, "--num_tests", "50")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(("data", "status"), [([1, 2], 422), ("a", 422), ([[0.5] * 784, [0.5] * 783], 422)])
def test_bad_input_is_rejected_before_it_is_forwarded(gateway_url, data, status):
    answer = post(gateway_url, data)
    assert (answer.status_code, list(answer.json())) == (status, ["error"])


@pytest.mark.slow
def test_no_request_is_lost_when_one_of_two_backends_is_killed_under_load(export_base, test_images):
    image, statuses, stop = test_images.images[0].tolist(), [], threading.Event()

    def send_requests():
        with requests.Session() as session:
            while not stop.is_set():
                statuses.append(session.post(gateway.ready[1], json={"data": image}, timeout=30).status_code)

    with start_model_server(export_base) as first, start_model_server(export_base) as second:
        with start_flask("nowhere", "--backend", f"{first.ready[1]},{second.ready[1]}") as gateway:
            callers = [threading.Thread(target=send_requests) for _ in range(8)]
            for caller in callers:
                caller.start()
            wait_until(lambda: len(statuses) >= 200)
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait()
            killed_at = len(statuses)
            wait_until(lambda: len(statuses) >= killed_at + 400)
            stop.set()
            for caller in callers:
                caller.join()
            assert set(statuses) == {200}
            second.process.kill()
            second.process.wait()
            answer = post(gateway.ready[1], image)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert "UNAVAILABLE" in answer.json()["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "status", "message"),
    [
        ("127.0.0.1", 2, "'127.0.0.1' in '127.0.0.1' is not HOST:PORT"),
        ("127.0.0.1:{port}", 1, "expected a model server there that serves mnist"),
    ],
)
def test_an_invalid_or_unreachable_backend_is_an_error_at_start(backend, status, message):
    backend = backend.format(port=server_processes.free_port())
    ended = run_script("flask_server.py", "--port", "0", "--backend", backend, "--request_timeout", "2")
    assert ended.returncode == status
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_gateway_without_a_backend_says_so_while_it_waits(export_base):
    port = server_processes.free_port()
    command = [sys.executable, "flask_server.py", "--port", "0", "--backend", f"127.0.0.1:{port}"]
    with started(*command, "--request_timeout", "60") as gateway:
        gateway.wait_for(f"backend 127.0.0.1:{port}: UNAVAILABLE: .*Connection refused; .*; asking again")
        with start_model_server(export_base, f"--port={port}"):
            gateway.wait_for("Flask server ready on ")


def test_a_gateway_whose_backend_has_gone_says_so(monkeypatch, caplog):
    monkeypatch.setattr(gateway_model, "SIGNATURE_INTERVAL_S", 0.0)
    fake = Fake()
    with serving(fake) as address:
        model = gateway_model.GatewayModel(address, "mnist", "serving_default", 0.5, Threads, lambda backend: None)
        model.load()
        model.refresh()
        assert caplog.text == ""
    for _ in range(2):
        model.refresh()
    model.close()
    assert caplog.text.count("UNAVAILABLE") == 2
    assert caplog.text.count("; keeping the signature of version 1") == 2


@pytest.mark.parametrize(
    ("inputs", "name", "reason"),
    [
        (("x", "another"), "serving_default", "model mnist has inputs ['another', 'x']; expected one input"),
        ((), "serving_default", "model mnist has inputs []; expected one input"),
        (("x",), "other", "has no signature 'serving_default'; expected one of ['other']"),
    ],
)
def test_a_new_version_that_the_endpoint_cannot_serve_leaves_the_signature(monkeypatch, caplog, inputs, name, reason):
    monkeypatch.setattr(gateway_model, "SIGNATURE_INTERVAL_S", 0.0)
    fake = Fake()
    with serving(fake) as address:
        check = functools.partial(signatures.check_model, input_key=None, output_key="y", postprocess=None)
        model = gateway_model.GatewayModel(address, "mnist", "serving_default", 5.0, Threads, check)
        model.load()
        fake.version, fake.inputs, fake.signature_name = 2, inputs, name
        model.refresh()
        with model.acquire() as request:
            assert (request.version, list(request.signature.inputs)) == (1, ["x"])
            outputs = request.predict({"x": np.float32([1, 2])})
            assert (sorted(outputs), request.version) == (["x", "y"], 2)
        assert f"{reason}; keeping the signature of version 1" in caplog.text
        fake.inputs, fake.signature_name = ("z",), "serving_default"
        model.refresh()
        with model.acquire() as request:
            assert (request.version, list(request.signature.inputs)) == (2, ["z"])
        model.close()


def test_a_gateway_that_was_never_loaded_can_be_closed():
    gateway_model.GatewayModel("127.0.0.1:1", "mnist", "serving_default", 0.5, Threads, lambda backend: None).close()


def test_beyond_the_limit_a_request_is_refused_and_those_in_flight_end_at_their_deadline(monkeypatch):
    monkeypatch.setattr(gateway_model, "MAX_CALLS", 2)
    gate = threading.Event()
    fake = Fake(lambda request, context: gate.wait(30) and echo(request, context))
    with serving(fake) as address:
        model = gateway_model.GatewayModel(address, "mnist", "serving_default", 1.0, Greenlets, lambda backend: None)
        model.load()
        errors = outcomes(model, 3)
        assert [type(error) for error in errors] == [GatewayTimeout, GatewayTimeout, ServiceUnavailable]
        assert errors[2].description == "2 requests are in flight; expected fewer at a time"
        gate.set()
        assert [type(outcome) for outcome in outcomes(model, 2)] == [dict, dict]
        model.close()


def test_requests_in_flight_when_the_connections_are_closed_get_an_error():
    gate, arrived = threading.Event(), threading.Event()
    fake = Fake(lambda request, context: arrived.set() or (gate.wait(30) and echo(request, context)))
    with serving(fake) as address:
        model = gateway_model.GatewayModel(address, "mnist", "serving_default", 20.0, Greenlets, lambda backend: None)
        model.load()
        asking = gevent.spawn(outcomes, model, 1)
        while not arrived.is_set():
            gevent.sleep(0.01)
        model.close()
        assert isinstance(asking.get(timeout=10)[0], HTTPException)
        gate.set()


def outcomes(model, count):
    """Send requests from greenlets of their own; return the outputs or the error of each."""

    def ask():
        try:
            with model.acquire() as request:
                return request.predict({"x": np.float32([1, 2])})
        except HTTPException as error:
            return error

    greenlets = [gevent.spawn(ask) for _ in range(count)]
    gevent.joinall(greenlets, 30, raise_error=True)
    return [greenlet.value for greenlet in greenlets]
