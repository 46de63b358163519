import json
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from conftest import ROOT, run_script, start_flask

import flask_server
from rnn_serving import checkpoint

IMAGE = [[0.5] * 28] * 28


def post(url, body, content_type="application/json"):
    return requests.post(url, data=body, headers={"Content-Type": content_type}, timeout=10)


def test_it_answers_the_checkpoints_probabilities(flask_url, checkpoint_dir, test_images):
    images = test_images.images[:20]
    answer = post(flask_url, json.dumps({"data": images.tolist()}))
    _, expected = checkpoint.load_model(checkpoint.latest(checkpoint_dir))(images)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Model-Version"] == "1"
    np.testing.assert_allclose(answer.json()["y"], expected, atol=1e-5)
    np.testing.assert_allclose(np.sum(answer.json()["y"], axis=1), 1, atol=1e-5)


def test_metadata_gives_model_version_data_set_and_signature(flask_url):
    assert requests.get(flask_url + "metadata", timeout=10).json() == {
        "model": "mnist",
        "version": 1,
        "dataset": "digits",
        "signature": {
            "inputs": {"x_input": {"name": "Input_X:0", "dtype": "float32", "shape": [None, 28, 28]}},
            "outputs": {"y_output": {"name": "output_layer/add:0", "dtype": "float32", "shape": [None, 10]}},
        },
    }


TOO_LARGE = b'{"data": [' + b"0," * (9 * 2**20)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b'{"data": [1, 2', "application/json", 400, "the body is no JSON"),
        (b"", "application/json", 400, "the body is no JSON"),
        (b"\xff", "application/json", 400, "the body is no JSON"),
        (b'{"data": [NaN]}', "application/json", 400, "the body is no JSON"),
        (b"[" * 100_000, "application/json", 400, "the body is no JSON"),
        (b'{"images": []}', "application/json", 400, "expected an object with the key 'data'"),
        (b"[1]", "application/json", 400, "expected an object with the key 'data'"),
        (b'{"data": []}', "application/json", 422, "'data' has shape (0,)"),
        (b'{"data": null}', "application/json", 422, "'data' is null"),
        (b'{"data": ["a"]}', "application/json", 422, "'data' holds a string"),
        (b'{"data": [1, 2]}', "application/json", 422, "'data' has shape (2,); expected 784 numbers, 28x28"),
        (json.dumps({"data": [1e39] * 784}), "application/json", 422, "not finite as float32"),
        (b'{"data": []}', "text/plain", 415, "Content-Type is 'text/plain'; expected application/json"),
        (b'{"data": []}', "application/x-www-form-urlencoded", 415, "expected application/json"),
        (TOO_LARGE, "application/json", 413, "exceeds the capacity limit"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bad_input_gets_its_status_and_says_what_was_expected(flask_url, body, content_type, status, message):
    answer = post(flask_url, body, content_type)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


def test_another_method_or_path_is_json_too(flask_url):
    answer = requests.put(flask_url, timeout=10)
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert "PUT /: " in answer.json()["error"]
    answer = requests.get(flask_url + "nowhere", timeout=10)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


def fake_model(predict):
    """The smallest thing that `create_app` takes."""
    x, y = (SimpleNamespace(key=key, name=f"{key}:0", dtype="float32", shape=(None, 2)) for key in "xy")
    signature = SimpleNamespace(inputs={"x": x}, outputs={"y": y})
    return SimpleNamespace(name="fake", version=7, dataset=None, signature=signature, predict=predict)


def test_an_app_takes_anything_with_the_interface_of_a_served_model():
    app = flask_server.create_app(fake_model(lambda inputs: {"y": inputs["x"]}))
    answer = app.test_client().post("/", json={"data": [1000, 0]})
    np.testing.assert_array_equal(answer.json["y"], [[1, 0]])  # a softmax that is not stable would overflow
    assert answer.headers["X-Model-Version"] == "7"


def test_a_model_that_fails_answers_json_without_a_traceback():
    def broken(inputs):
        raise RuntimeError("secret")

    answer = flask_server.create_app(fake_model(broken)).test_client().post("/", json={"data": [1, 2]})
    assert answer.status_code == 500
    assert list(answer.json) == ["error"]
    assert "secret" not in answer.text


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_finished_before_it_stops_with_status_0(export_base, how):
    body = json.dumps({"data": IMAGE}).encode()
    head = ["POST / HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    with start_flask(export_base) as server, requests.Session() as kept_alive:
        address = urlsplit(server.ready[1])
        with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
            connection.sendall("\r\n".join(head).encode() + body[:100])
            assert kept_alive.get(server.ready[1] + "metadata", timeout=10).headers["Connection"] == "keep-alive"
            stopping = threading.Thread(target=server.stop, args=(how,))
            stopping.start()
            # A server that is stopping announces that it will close the connections that it would otherwise keep.
            while kept_alive.get(server.ready[1] + "metadata", timeout=10).headers["Connection"] != "close":
                pass
            connection.sendall(body[100:])
            answer = connection.makefile("rb").read()
        stopping.join(40)
        assert answer.startswith(b"HTTP/1.1 200 OK"), answer
        assert server.process.returncode == 0
        assert "Traceback" not in server.output()


def test_several_workers_print_one_line_and_all_answer(export_base):
    with start_flask(export_base, "--workers", "2", "--threads", "2") as server:
        for _ in range(10):
            assert post(server.ready[1], json.dumps({"data": IMAGE})).status_code == 200
        assert server.stop() == 0
        assert server.output().count("ready on") == 1


def test_one_version_can_be_named(export, tmp_path):
    base = export(export(tmp_path / "mnist"))
    with start_flask(base / "1") as server:
        assert requests.get(server.ready[1] + "metadata", timeout=10).json()["version"] == 1


def test_a_port_that_is_taken_is_an_error(export_base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run_script("flask_server.py", "--model_path", export_base, "--port", taken.getsockname()[1])
    assert ended.returncode == 1
    assert "Address already in use; expected a free port (--port)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_export_is_an_error(tmp_path):
    ended = run_script("flask_server.py", "--model_path", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == (
        f"flask_server.py: error: {tmp_path}: no exported model; expected {tmp_path}/<version>/saved_model.pb, "
        "as export_savedmodel.py writes it\n"
    )


def test_a_broken_export_ends_the_server_with_status_1_and_no_traceback(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"\xff")
    command = [sys.executable, "flask_server.py", "--model_path", str(tmp_path), "--port", "0"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)
    assert ended.returncode == 1
    assert "flask_server.py: error:" in ended.stderr
    assert "does not load" in ended.stderr
    assert "Traceback" not in ended.stderr
