"""Models of others: their rows may depend on each other, and their outputs need not be logits."""

import json
import logging
from concurrent import futures

import numpy as np
import odd_models
import pytest
import requests
from conftest import start_flask
from odd_models import of

import flask_server
from rnn_serving import exports, publish
from rnn_serving.command_line import UserError
from rnn_serving.endpoint.tensor_from_json import InvalidTensor, tensor_from_json
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.saved_model import ServedModel

from tensorflow.core.protobuf import saved_model_pb2

COUNT = 100
DESCENDING = np.arange(COUNT, 0, -1).astype(np.float32)
# Functions of a batch whose rows depend on each other, or that change their number: model and the same in NumPy.
DEPENDENT_ROWS = {
    "minus the mean": (lambda x: x - tf.reduce_mean(x), lambda x: x - x.mean()),
    "the first two": (lambda x: x[:2], lambda x: x[:2]),
    "cumulative sum": (tf.cumsum, np.cumsum),
    "sorted": (tf.sort, np.sort),
    "reversed": (lambda x: x[::-1], lambda x: x[::-1]),
    "share of the sum": (lambda x: x / tf.reduce_sum(x), lambda x: x / x.sum()),
    "rank": (lambda x: tf.cast(tf.argsort(tf.argsort(x)), tf.float32), lambda x: x.argsort().argsort()),
    "every second": (lambda x: x[::2], lambda x: x[::2]),
    "twice": (lambda x: tf.concat([x, x], 0), lambda x: np.concatenate([x, x])),
    "above the mean": (lambda x: tf.boolean_mask(x, x > tf.reduce_mean(x)), lambda x: x[x > x.mean()]),
}


def served(directory, *flags):
    """Return a client of the endpoint for the SavedModel in a version's directory, opened as under a WSGI server."""
    app, model = flask_server.open_app(flask_server.parse_arguments(["--model_path", str(directory), *flags]))
    model.load()
    return app.test_client()


def export(tmp_path, function):
    return odd_models.export(tmp_path / "1", of([None], function, output_shape=[None]))


def ask(client, data):
    answer = client.post("/", json={"data": np.asarray(data).tolist()})
    assert answer.status_code == 200, answer.json
    return answer.json["y"]


@pytest.mark.parametrize("flags", [(), ("--max_batch_size=1",), ("--max_batch_size=1000",), ("--batching=off",)])
@pytest.mark.parametrize(("function", "expected"), DEPENDENT_ROWS.values(), ids=DEPENDENT_ROWS)
def test_a_request_is_one_call_and_never_split(tmp_path, function, expected, flags):
    client = served(export(tmp_path, function), *flags)
    np.testing.assert_allclose(ask(client, DESCENDING), expected(DESCENDING), rtol=1e-5)


def test_concurrent_requests_do_not_affect_each_other(tmp_path):
    base = tmp_path / "m"
    odd_models.export(base / "1", of([None], lambda x: x - tf.reduce_mean(x), output_shape=[None]))
    with start_flask(base) as server, futures.ThreadPoolExecutor(16) as threads:
        assert "batching off, 'y' as it is" in server.output()

        def ask(number):
            body = json.dumps({"data": [number, number + 2]})
            return requests.post(server.ready[1], body, headers={"Content-Type": "application/json"}, timeout=20).json()

        assert list(threads.map(ask, range(200))) == [{"y": [-1.0, 1.0]}] * 200


def test_auto_logs_one_line_that_batching_is_off_and_how_to_turn_it_on(tmp_path, caplog):
    directory = export(tmp_path, lambda x: 2 * x)
    with caplog.at_level(logging.WARNING):
        served(directory)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("batching is off: ")
    assert "--batching on" in line
    caplog.clear()
    for flag in ("--batching=on", "--batching=off"):
        served(directory, flag)
    assert not caplog.records


def test_batching_on_splits_and_joins_a_foreign_model(tmp_path):
    client = served(export(tmp_path, lambda x: 2 * x), "--batching=on", "--max_batch_size=7")
    assert ask(client, DESCENDING) == (2 * DESCENDING).tolist()


def test_batching_on_stops_splitting_once_parts_lose_rows(tmp_path):
    client = served(export(tmp_path, lambda x: x[:2]), "--batching=on", "--max_batch_size=7")
    assert ask(client, DESCENDING) == [100, 99]


def publish_model(base, model, inputs, logits=()):
    examples = [publish.ExampleInputs("serving_default", inputs, logits)]
    with publish.publish(base, 1, {}, examples) as version:
        version.staging.rmdir()
        odd_models.export(version.staging, model)
    return base


@pytest.mark.parametrize(
    ("function", "expected"),
    [(lambda x: 2 * x, True), *((function, False) for function, _ in DEPENDENT_ROWS.values())],
    ids=["doubled", *DEPENDENT_ROWS],
)
def test_publishing_records_whether_rows_are_independent(tmp_path, function, expected):
    base = publish_model(tmp_path / "m", of([None], function, output_shape=[None]), {"x": DESCENDING})
    assert exports.provenance(base / "1")["signatures"]["serving_default"]["independent_rows"] is expected
    with ServedModel(base) as model:
        assert model.has_independent_rows is expected


def test_the_pipelines_own_export_is_batched_and_gets_a_softmax(export_base, test_images):
    with start_flask(export_base) as server:
        assert "batching on, softmax of 'y_output'" in server.output()
    with ServedModel(export_base) as model:
        assert (model.has_independent_rows, model.logits) == (True, ["y_output"])


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"signatures": []},
        {"signatures": {"serving_default": 1}},
        {"signatures": {"serving_default": {"logits": 5}}},
        {"signatures": {"serving_default": {"independent_rows": "yes"}}},
        {"signatures": {"other": {"independent_rows": True}}},
    ],
)
def test_an_unexpected_model_json_is_ignored(tmp_path, content):
    directory = export(tmp_path, lambda x: x)
    (directory / "assets.extra").mkdir()
    (directory / "assets.extra" / "model.json").write_text(json.dumps(content))
    with ServedModel(directory) as model:
        assert (model.has_independent_rows, list(model.logits)) == (False, [])


OUTPUTS_THAT_ARE_NOT_LOGITS = {
    "half plus two": ([None, 1], lambda x: x / 2 + 2, [[1.0], [2.0]], [[2.5], [3.0]]),
    "boxes": ([None, 4], lambda x: x * 10, [[0, 1, 2, 3]], [[0, 10, 20, 30]]),
    "probabilities": ([None, 2], tf.nn.softmax, [[0, 0], [0, 0]], [[0.5, 0.5], [0.5, 0.5]]),
    "embeddings": ([None, 3], lambda x: -x, [[1, 2, 3]], [[-1, -2, -3]]),
    "an image": ([None, 2, 2], lambda x: x, [[[1, 2], [3, 4]]], [[[1, 2], [3, 4]]]),
}


@pytest.mark.parametrize(
    ("shape", "function", "data", "expected"), OUTPUTS_THAT_ARE_NOT_LOGITS.values(), ids=OUTPUTS_THAT_ARE_NOT_LOGITS
)
def test_by_default_an_output_is_returned_unchanged(tmp_path, shape, function, data, expected):
    client = served(odd_models.export(tmp_path / "1", of(shape, function)))
    assert ask(client, data) == expected


def test_logits_of_an_export_get_a_softmax_unless_the_flag_says_none(tmp_path):
    inputs = {"x": np.zeros((3, 2), np.float32)}
    base = publish_model(tmp_path / "m", of([None, 2], tf.identity, output_shape=[None, 2]), inputs, logits=("y",))
    assert ask(served(base), [[0, 0]]) == [[0.5, 0.5]]
    assert ask(served(base, "--postprocess=none"), [[0, 0]]) == [[0, 0]]


@pytest.mark.parametrize(
    ("shape", "function", "data"),
    [
        ([None], lambda x: x / 0, [1]),
        ([None], lambda x: x / 0 - x / 0, [1]),
        ([None, 2], lambda x: x / [0, 1], [[1, 1]]),
        ([None, 2], lambda x: -x / [0, 1], [[1, 1]]),
        ([], lambda x: x / 0, 1),
        ([None], lambda x: tf.cast(x, tf.float16) * 1e4, [1e4]),
        ([None], lambda x: tf.cast(x, tf.float64) / 0, [1]),
    ],
    ids=["inf", "nan", "one of a row", "minus inf", "a scalar", "half", "double"],
)
@pytest.mark.parametrize("flags", [(), ("--postprocess=none",)])
def test_numbers_that_are_not_finite_are_an_error(tmp_path, shape, function, data, flags):
    client = served(odd_models.export(tmp_path / "1", of(shape, function)), *flags)
    answer = client.post("/", json={"data": data})
    assert (answer.status_code, list(answer.json)) == (422, ["error"])
    assert "not finite" in answer.json["error"]


class OddSignatures(tf.Module):
    """What tf.saved_model.save writes of ragged and sparse tensors."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def plain(self, x):
        """Return twice x."""
        return {"y": 2 * x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def ragged(self, x):
        """Return a ragged tensor beside a dense one."""
        return {"rows": tf.RaggedTensor.from_tensor(x[:, None]), "y": 3 * x}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def sparse(self, x):
        """Return a sparse tensor beside a dense one."""
        return {"sparse": tf.sparse.from_dense(x), "y": 4 * x}


@pytest.fixture(scope="module")
def odd_signatures(tmp_path_factory):
    """A version that has a signature with dense tensors, and others with ragged and sparse ones."""
    directory, module = tmp_path_factory.mktemp("odd") / "1", OddSignatures()
    signatures = {"serving_default": module.plain, "ragged": module.ragged, "sparse": module.sparse}
    tf.saved_model.save(module, directory, signatures)
    return directory


def test_a_version_with_odd_signatures_serves_the_others(odd_signatures):
    assert ask(served(odd_signatures), [1, 2]) == [2, 4]


@pytest.mark.parametrize(("name", "factor"), [("ragged", 3), ("sparse", 4)])
def test_the_dense_output_of_an_odd_signature_is_served(odd_signatures, name, factor):
    client = served(odd_signatures, "--signature_name", name, "--output_key", "y")
    assert ask(client, [1, 2]) == [factor, 2 * factor]


@pytest.mark.parametrize(("name", "key"), [("ragged", "rows"), ("sparse", "sparse")])
def test_an_output_without_a_tensor_is_an_error_at_the_start(odd_signatures, name, key):
    with pytest.raises(UserError, match=f"has no tensor '' for '{key}'; expected a dense tensor"):
        served(odd_signatures, "--signature_name", name, "--output_key", key)


def change_signature(directory, change):
    """Rewrite a SavedModel after `change(SignatureDef)`."""
    path = directory / "saved_model.pb"
    message = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(message.meta_graphs[0].signature_def["serving_default"])
    path.write_bytes(message.SerializeToString())
    return directory


def test_a_tensor_that_the_graph_lacks_is_an_error_at_the_start(tmp_path):
    def rename(signature):
        signature.outputs["y"].name = "nowhere:0"

    with pytest.raises(UserError, match="has no tensor 'nowhere:0' for 'y'"):
        served(change_signature(export(tmp_path, lambda x: x), rename))


@pytest.mark.parametrize("data", [[1.0, 2.0, 5.0], [[1.0], [2.0]], [[[1.0, 2.0]]], 4.0])
def test_a_shape_that_is_absent_is_any_shape(tmp_path, data):
    def forget_shapes(signature):
        for info in (signature.inputs["x"], signature.outputs["y"]):
            info.ClearField("tensor_shape")

    client = served(change_signature(export(tmp_path, lambda x: x / 2 + 3), forget_shapes))
    assert ask(client, data) == (np.array(data) / 2 + 3).tolist()


@pytest.mark.parametrize("dtype", ["float", "int32", "string"])
def test_a_reference_type_is_the_type_itself(tmp_path, dtype):
    def refer(signature):
        for info in (signature.inputs["x"], signature.outputs["y"]):
            info.dtype += 100

    kind = {"float": tf.float32, "int32": tf.int32, "string": tf.string}[dtype]
    directory = odd_models.export(tmp_path / "1", of([None], tf.identity, kind))
    data = ["a"] if dtype == "string" else [1, 2]
    assert ask(served(change_signature(directory, refer)), data) == data


BASE64 = {
    "/w==": b"\xff",
    "/w": b"\xff",
    "/w..": b"\xff",
    " / w = = ": b"\xff",
    "/\nw\t==\r\n": b"\xff",
    "//8=": b"\xff\xff",
    "//8": b"\xff\xff",
    "////": b"\xff\xff\xff",
    "": b"",
    "  ": b"",
}


@pytest.mark.parametrize(("text", "expected"), BASE64.items())
def test_base64_is_read_as_tensorflow_serving_reads_it(text, expected):
    assert tensor_from_json([{"b64": text}], "data", (None,), "string")[0] == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"b64": "_w=="}, "'_' at position 0; expected A-Z"),
        ({"b64": "-w"}, "'-' at position 0"),
        ({"b64": "/w="}, "1 characters of padding; expected 2"),
        ({"b64": "/w==="}, "3 characters of padding"),
        ({"b64": "////="}, "1 characters of padding; expected 0"),
        ({"b64": "/"}, "1 characters, 1 more than a multiple of 4"),
        ({"b64": "=/w="}, "'=' at position 0"),
        ({"b64": "/w==/w=="}, "at position"),
        ({"b64": "data:;base64,/w=="}, "':' at position"),
        ({"b64": "ä"}, "expected"),
        ({"b64": 5}, "holds an object; expected strings"),
        ({"b64": None}, "holds an object; expected strings"),
        ({"b64": "/w==", "more": 1}, "holds an object; expected strings"),
        ({}, "holds an object; expected strings"),
    ],
)
def test_invalid_base64_is_an_error_that_says_why(value, message):
    with pytest.raises(InvalidTensor) as error:
        tensor_from_json([value], "data", (None,), "string")
    assert message in str(error.value)
