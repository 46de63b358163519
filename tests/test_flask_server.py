import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import odd_models
import pytest
import requests
from conftest import ROOT, run_script, start_flask

import flask_server
from rnn_serving import checkpoint
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf

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
        (TOO_LARGE, "application/json", 413, "bytes; expected at most 16777216"),
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


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
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


@pytest.mark.slow
def test_several_workers_print_one_line_and_all_answer(export_base):
    with start_flask(export_base, "--workers", "2", "--threads", "2") as server:
        for _ in range(10):
            assert post(server.ready[1], json.dumps({"data": IMAGE})).status_code == 200
        assert server.stop() == 0
        assert server.output().count("ready on") == 1


@pytest.mark.slow
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


# Other models: in this process, as a worker opens them


def served(directory, *flags):
    """Return a client of the endpoint for the SavedModel in a version's directory, opened as a worker does it."""
    app, model = flask_server.open_app(flask_server.parse_arguments(["--model_path", str(directory), *flags]))
    model.load()
    return app.test_client()


def answered(client, data):
    """Return what the endpoint answers, in JSON."""
    answer = client.post("/", json={"data": data})
    assert list(answer.json) == (["y"] if answer.status_code == 200 else ["error"])
    return answer.json.get("y", answer.status_code)


v1 = odd_models.v1
of = odd_models.of

OTHER_MODELS = {
    "vectors": (
        of([None, 3], lambda x: 2 * x, output_shape=[None, 3]),
        ["--postprocess=none"],
        [[1, 2, 3]],
        [[2, 4, 6]],
    ),
    "one vector": (of([None, 3], lambda x: 2 * x), ["--postprocess=none"], [1, 2, 3], [[2, 4, 6]]),
    "softmax of a vector": (of([None, 2], tf.identity), [], [[0, 0]], [[0.5, 0.5]]),
    "softmax that is asked for": (of([2], tf.identity), ["--postprocess=softmax"], [0, 0], [0.5, 0.5]),
    "softmax of ints": (of([2], tf.identity, tf.int32), ["--postprocess=softmax"], [2**30, -(2**30)], [1, 0]),
    "softmax of bytes": (of([2], tf.identity, tf.uint8), ["--postprocess=softmax"], [0, 255], [pytest.approx(0), 1]),
    "softmax of a scalar": (of([], tf.identity), ["--postprocess=softmax"], 3, 1),
    "ints": (of([None], lambda x: x + 1, tf.int32), [], [1, 2], [2, 3]),
    "ints are no scores": (of([None, 2], lambda x: x + 1, tf.int64), [], [[1, 2**53]], [[2, 2**53 + 1]]),
    "half floats": (of([None], lambda x: x / 2, tf.float16), [], [1, 3], [0.5, 1.5]),
    "doubles": (of([None], lambda x: x / 2, tf.float64), [], [1e300], [5e299]),
    "booleans": (of([None], tf.logical_not, tf.bool), [], [True, False], [False, True]),
    "one of many": (of([None], lambda x: 2 * x), [], 4, [8]),
    "a scalar": (of([], lambda x: 2 * x), [], 4, 8),
    "a scalar of many": (of([None], tf.reduce_sum), [], [1, 2, 3], 6),
    "unknown inner sizes": (
        of([None, None], lambda x: 2 * x),
        ["--postprocess=none"],
        [[1, 2], [3, 4]],
        [[2, 4], [6, 8]],
    ),
    "unknown rank": (of(None, lambda x: 2 * x), [], [[[1]], [[2]]], [[[2]], [[4]]]),
    "fixed batch size": (of([2, 2], lambda x: 2 * x), ["--postprocess=none"], [[1, 2], [3, 4]], [[2, 4], [6, 8]]),
    "more rows out than in": (
        of([None], lambda x: tf.concat([x, x], 0), output_shape=[None]),
        [],
        [1, 2],
        [1, 2, 1, 2],
    ),
    "strings": (of([None], lambda x: tf.strings.join([x, "!"]), tf.string), [], ["a", "\u00e9"], ["a!", "\u00e9!"]),
    "a string": (of([None], tf.identity, tf.string), [], "a", ["a"]),
    "bytes": (of([None], tf.identity, tf.string), [], [{"b64": "/w=="}, ""], [{"b64": "/w=="}, ""]),
    "strings to ints": (of([None], tf.strings.length, tf.string), [], ["abc", ""], [3, 0]),
    "one string out": (of([], tf.identity, tf.string), [], "a", "a"),
    "strings of several depths": (of([None, None], tf.identity, tf.string), [], [["a", "b"]], [["a", "b"]]),
    "no number": (of([None], lambda x: x / 0 - x / 0), [], [1], [None]),
    "scores that are no numbers": (of([None, 2], lambda x: x / 0), [], [[1, 1]], 422),
    "scores that are no more than minus infinity": (of([None, 2], lambda x: -x / [0, 1]), [], [[1, 1]], [[0, 1]]),
    "what an op refuses": (of([None], lambda x: tf.gather([1.0], tf.cast(x, tf.int32))), [], [7], 422),
    "an int that is none": (of([None], tf.identity, tf.int32), [], [1.5], 422),
    "an int that is too large": (of([None], tf.identity, tf.int8), [], [128], 422),
    "another count than fixed": (of([2], tf.identity), [], [1, 2, 3], 422),
    "a number for a string": (of([None], tf.identity, tf.string), [], [1], 422),
    "strings for numbers": (of([None], tf.identity), [], ["1"], 422),
}


@pytest.mark.parametrize(("model", "flags", "data", "expected"), OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_other_models_are_served_by_what_their_signature_says(tmp_path, model, flags, data, expected):
    client = served(odd_models.export(tmp_path / "1", model), *flags)
    assert answered(client, data) == expected
    assert client.get("/healthz").status_code == 200


def two_outputs():
    x = v1.placeholder(tf.float32, [None, 2], "x")
    return {"x": x}, {"twice": tf.identity(2 * x), "total": tf.reduce_sum(x), "names": tf.constant(["a", "b"])}


def test_one_of_several_outputs_is_chosen_by_its_key(tmp_path):
    odd_models.export(tmp_path / "1", two_outputs, name="other")
    flags = [tmp_path / "1", "--signature_name", "other"]
    assert answered(served(*flags, "--output_key=total"), [[1, 2]]) == 3
    assert answered(served(*flags, "--output_key=names", "--input_key=x"), [[1, 2]]) == ["a", "b"]
    assert answered(served(*flags, "--output_key=twice", "--postprocess=none"), [[1, 2], [3, 4]]) == [[2, 4], [6, 8]]


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        (two_outputs, [], "has outputs ['names', 'total', 'twice']; expected one output, or --output_key to choose"),
        (two_outputs, ["--output_key=y"], "expected 'y'"),
        (two_outputs, ["--output_key=total", "--input_key=z"], "has inputs ['x']; expected 'z'"),
        (two_outputs, ["--signature_name=none"], "no signature 'none'; expected one of ['serving_default']"),
        (
            two_outputs,
            ["--output_key=names", "--postprocess=softmax"],
            "'names' of string; expected numbers for a soft",
        ),
        (of([None], tf.identity, tf.complex64), [], "'x' of complex64; expected numbers or strings"),
        (of([None], tf.identity, tf.bool), ["--postprocess=softmax"], "'y' of bool; expected numbers for a softmax"),
        (lambda: ({}, {"y": tf.constant(1.0)}), [], "has inputs []; expected one input"),
    ],
)
def test_a_model_that_the_flags_do_not_fit_is_an_error_at_the_start(tmp_path, model, flags, message):
    with pytest.raises(UserError) as error:
        served(odd_models.export(tmp_path / "1", model), *flags)
    assert message in str(error.value)


def test_a_model_of_tensorflow_2_is_served(tmp_path):
    class Doubling(tf.Module):
        """What tf.saved_model.save writes."""

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def double(self, x):
            """Return twice x."""
            return {"y": 2 * x}

    tf.saved_model.save(module := Doubling(), tmp_path / "1", {"serving_default": module.double})
    assert answered(served(tmp_path / "1"), [1, 2]) == [2, 4]


def test_a_model_without_its_variables_is_broken(tmp_path):
    odd_models.export(tmp_path / "1", odd_models.variable(1))
    shutil.rmtree(tmp_path / "1" / "variables")
    with pytest.raises(UserError, match="does not (load|answer)"):
        served(tmp_path / "1")


def test_a_pinned_version_is_found_whatever_zeros_its_directory_has(tmp_path):
    odd_models.export(tmp_path / "m" / "0007", odd_models.variable(1))
    odd_models.export(tmp_path / "m" / "8", odd_models.variable(2))
    client = served(tmp_path / "m", "--model_version", "7")
    assert answered(client, [1]) == [2]
    assert client.get("/metadata").json["version"] == 7


def test_a_pinned_version_that_does_not_exist_is_an_error(export_base):
    ended = run_script("flask_server.py", "--model_path", export_base, "--model_version", "9", "--port", "0")
    assert ended.returncode == 1
    assert ended.stderr == f"flask_server.py: error: {export_base}: no version 9; expected one of [1]\n"


def test_a_large_request_is_answered_in_parts(tmp_path):
    client = served(odd_models.export(tmp_path / "1", of([None], lambda x: 2 * x)), "--max_batch_size", "7")
    assert answered(client, list(range(1000))) == [2 * number for number in range(1000)]


def test_paths_with_more_slashes_are_not_redirected(tmp_path):
    client = served(odd_models.export(tmp_path / "1", of([None], tf.identity)))
    answer = client.get("/metadata//")
    assert (answer.status_code, list(answer.json)) == (404, ["error"])
