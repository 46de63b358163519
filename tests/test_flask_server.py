import contextlib
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
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf

IMAGE = [[0.5] * 28] * 28


def post(url, body, content_type="application/json"):
    return requests.post(url, data=body, headers={"Content-Type": content_type}, timeout=10)


def fake_model(predict):
    """Return the smallest object that `create_app` accepts as a model."""
    x, y = (SimpleNamespace(key=key, name=f"{key}:0", dtype="float32", shape=(None, 2)) for key in "xy")
    signature = SimpleNamespace(inputs={"x": x}, outputs={"y": y}, missing_tensors=list)
    model = SimpleNamespace(name="fake", version=7, dataset=None, signature=signature, predict=predict)
    model.is_ready, model.logits, model.mode = True, ["y"], "in a test"
    model.acquire = lambda: contextlib.nullcontext(model)
    return model


def test_create_app_accepts_any_object_with_the_interface_of_a_served_model():
    app = flask_server.create_app(fake_model(lambda inputs: {"y": inputs["x"]}))
    answer = app.test_client().post("/", json={"data": [1000, 0]})
    np.testing.assert_array_equal(answer.json["y"], [[1, 0]])  # a softmax that is not stable would overflow
    assert answer.headers["X-Model-Version"] == "7"


def test_an_exception_in_the_model_is_a_json_500_without_details():
    def broken(inputs):
        raise RuntimeError("secret")

    answer = flask_server.create_app(fake_model(broken)).test_client().post("/", json={"data": [1, 2]})
    assert answer.status_code == 500
    assert list(answer.json) == ["error"]
    assert "secret" not in answer.text


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_requests_in_flight_are_finished_before_the_server_stops_with_status_0(export_base, how):
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
def test_several_workers_print_one_ready_line_and_answer(export_base):
    with start_flask(export_base, "--workers", "2", "--threads", "2") as server:
        for _ in range(10):
            assert post(server.ready[1], json.dumps({"data": IMAGE})).status_code == 200
        assert server.stop() == 0
        assert server.output().count("ready on") == 1


@pytest.mark.slow
def test_the_model_path_may_be_one_version(export, tmp_path):
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


# Other models, opened in this process as a worker opens them


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
    "softmax of a vector": (of([None, 2], tf.identity), ["--postprocess=softmax"], [[0, 0]], [[0.5, 0.5]]),
    "no softmax by default": (of([None, 2], tf.identity), [], [[0, 0]], [[0, 0]]),
    "softmax on request": (of([2], tf.identity), ["--postprocess=softmax"], [0, 0], [0.5, 0.5]),
    "softmax of ints": (of([2], tf.identity, tf.int32), ["--postprocess=softmax"], [2**30, -(2**30)], [1, 0]),
    "softmax of bytes": (of([2], tf.identity, tf.uint8), ["--postprocess=softmax"], [0, 255], [pytest.approx(0), 1]),
    "softmax of a scalar": (of([], tf.identity), ["--postprocess=softmax"], 3, 1),
    "ints": (of([None], lambda x: x + 1, tf.int32), [], [1, 2], [2, 3]),
    "int64 pairs": (of([None, 2], lambda x: x + 1, tf.int64), [], [[1, 2**53]], [[2, 2**53 + 1]]),
    "half floats": (of([None], lambda x: x / 2, tf.float16), [], [1, 3], [0.5, 1.5]),
    "doubles": (of([None], lambda x: x / 2, tf.float64), [], [1e300], [5e299]),
    "booleans": (of([None], tf.logical_not, tf.bool), [], [True, False], [False, True]),
    "one row": (of([None], lambda x: 2 * x), [], 4, [8]),
    "a scalar": (of([], lambda x: 2 * x), [], 4, 8),
    "many rows to a scalar": (of([None], tf.reduce_sum), [], [1, 2, 3], 6),
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
    "a string as a scalar": (of([], tf.identity, tf.string), [], "a", "a"),
    "strings of rank 2": (of([None, None], tf.identity, tf.string), [], [["a", "b"]], [["a", "b"]]),
    "NaN": (of([None], lambda x: x / 0 - x / 0), [], [1], 422),
    "infinite scores": (of([None, 2], lambda x: x / 0), [], [[1, 1]], 422),
    "a score of minus infinity": (
        of([None, 2], lambda x: -x / [0, 1]),
        ["--postprocess=softmax"],
        [[1, 1]],
        [[0, 1]],
    ),
    "an input that an op rejects": (of([None], lambda x: tf.gather([1.0], tf.cast(x, tf.int32))), [], [7], 422),
    "a fraction for an int": (of([None], tf.identity, tf.int32), [], [1.5], 422),
    "an int out of range": (of([None], tf.identity, tf.int8), [], [128], 422),
    "a wrong number of rows for a fixed batch size": (of([2], tf.identity), [], [1, 2, 3], 422),
    "a number for a string": (of([None], tf.identity, tf.string), [], [1], 422),
    "strings for numbers": (of([None], tf.identity), [], ["1"], 422),
}


@pytest.mark.parametrize(("model", "flags", "data", "expected"), OTHER_MODELS.values(), ids=OTHER_MODELS)
def test_other_models_are_served_as_their_signature_describes(tmp_path, model, flags, data, expected):
    client = served(odd_models.export(tmp_path / "1", model), *flags)
    assert answered(client, data) == expected
    assert client.get("/healthz").status_code == 200


def two_outputs():
    x = v1.placeholder(tf.float32, [None, 2], "x")
    return {"x": x}, {"twice": tf.identity(2 * x), "total": tf.reduce_sum(x), "names": tf.constant(["a", "b"])}


def test_output_key_chooses_one_of_several_outputs(tmp_path):
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
def test_flags_that_do_not_fit_the_model_are_an_error_at_start(tmp_path, model, flags, message):
    with pytest.raises(UserError) as error:
        served(odd_models.export(tmp_path / "1", model), *flags)
    assert message in str(error.value)


def test_a_tensorflow_2_saved_model_is_served(tmp_path):
    class Doubling(tf.Module):
        """A model that tf.saved_model.save writes."""

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
        def double(self, x):
            """Return twice x."""
            return {"y": 2 * x}

    tf.saved_model.save(module := Doubling(), tmp_path / "1", {"serving_default": module.double})
    assert answered(served(tmp_path / "1"), [1, 2]) == [2, 4]


def test_a_model_without_its_variables_is_an_error(tmp_path):
    odd_models.export(tmp_path / "1", odd_models.variable(1))
    shutil.rmtree(tmp_path / "1" / "variables")
    with pytest.raises(UserError, match="does not (load|answer)"):
        served(tmp_path / "1")


def test_a_pinned_version_may_have_leading_zeros_in_its_directory(tmp_path):
    odd_models.export(tmp_path / "m" / "0007", odd_models.variable(1))
    odd_models.export(tmp_path / "m" / "8", odd_models.variable(2))
    client = served(tmp_path / "m", "--model_version", "7")
    assert answered(client, [1]) == [2]
    assert client.get("/metadata").json["version"] == 7


def test_a_pinned_version_that_does_not_exist_is_an_error(export_base):
    ended = run_script("flask_server.py", "--model_path", export_base, "--model_version", "9", "--port", "0")
    assert ended.returncode == 1
    assert ended.stderr == f"flask_server.py: error: {export_base}: no version 9; expected one of [1]\n"


def test_a_large_request_is_split_into_several_calls(tmp_path):
    client = served(odd_models.export(tmp_path / "1", of([None], lambda x: 2 * x)), "--max_batch_size", "7")
    assert answered(client, list(range(1000))) == [2 * number for number in range(1000)]


def test_paths_with_extra_slashes_are_not_redirected(tmp_path):
    client = served(odd_models.export(tmp_path / "1", of([None], tf.identity)))
    answer = client.get("/metadata//")
    assert (answer.status_code, list(answer.json)) == (404, ["error"])
