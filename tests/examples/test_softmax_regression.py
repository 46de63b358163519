import base64
import contextlib

import grpc
import numpy as np
import pytest
from served_example import export_to_a_full_disk, grades_by_every_client, scores_by, serve

import flask_server
import tfserving_client
from examples.softmax_regression import __main__ as softmax_regression
from examples.softmax_regression import tf_examples
from rnn_serving import exports, saved_model
from rnn_serving.clients.http_json import direct_session
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.saved_model import ServedModel

from tensorflow_serving.apis import classification_pb2, prediction_log_pb2, prediction_service_pb2_grpc

NAME = ("--model_name", "softmax_regression")
PREDICT = (*NAME, "--signature_name", "predict_images", "--input_key", "images", "--output_key", "scores")
CLASSIFY = (*NAME, "--method", "classify")


@pytest.fixture(scope="module")
def base(data_dir, tmp_path_factory):
    """A directory `softmax_regression` with version 1, trained for a moment."""
    directory = tmp_path_factory.mktemp("exports") / "softmax_regression"
    assert export(data_dir, directory, "--training_iteration", "150") == 0
    return directory


def export(data_dir, base, *flags):
    return softmax_regression.main(["--data_dir", str(data_dir), "--export_base_path", str(base), *flags])


@pytest.fixture(scope="module")
def expected(base, test_images):
    """The scores of the test images by the export itself, (360, 10)."""
    with ServedModel(base, "predict_images") as model:
        return model.predict({"images": test_images.images.reshape(-1, 784)})["scores"]


@pytest.fixture(scope="module")
def servers(base):
    with serve(base, "--signature_name", "predict_images") as servers:
        yield servers


@pytest.mark.parametrize(
    ("protocol", "flags"),
    [("flask", ()), ("grpc", PREDICT), ("rest", PREDICT), ("grpc", CLASSIFY), ("rest", CLASSIFY)],
    ids=["flask", "grpc-predict", "rest-predict", "grpc-classify", "rest-classify"],
)
def test_the_servers_answer_the_exports_scores(servers, expected, test_images, protocol, flags):
    version, scores = scores_by(servers, protocol, test_images.images, *flags)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert version == 1


def test_both_clients_grade_it_alike(servers, expected, data_dir, test_images, capsys):
    correct = np.mean(expected.argmax(axis=1) == test_images.labels)
    assert grades_by_every_client(servers, data_dir, capsys, PREDICT, CLASSIFY) == [f"{100 * correct:.2f}"] * 5
    assert correct > 0.8


def classify(servers, example):
    """Return the answer of Classify to one tf.Example, over gRPC."""
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "softmax_regression"
    request.input.example_list.examples.append(example)
    with grpc.insecure_channel(f"127.0.0.1:{servers.grpc}") as channel:
        return prediction_service_pb2_grpc.PredictionServiceStub(channel).Classify(request, timeout=10).result


def post(url, value):
    with direct_session() as session:
        answer = session.post(url, json=value, timeout=10)
        return answer.status_code, answer.json()["error"]


def test_an_example_gets_all_ten_labels_best_first(servers, expected, test_images):
    result = classify(servers, tf_examples.to_example(test_images.images[0].ravel()))
    classes = result.classifications[0].classes
    assert [one.label for one in classes] == [str(digit) for digit in (-expected[0]).argsort(kind="stable")]
    np.testing.assert_allclose([one.score for one in classes], np.sort(expected[0])[::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"y": [0.5]}, "Feature: x (data type: float) is required but could not be found."),
        ({"x": [0.5] * 783}, "Number of float values != expected.  Values size: 783 but output shape: [784]"),
        ({"x": [1] * 784}, "Data types don't match. Data type: int64 but expected type: float"),
    ],
    ids=["other feature", "783 values", "integers"],
)
def test_an_example_that_does_not_fit_is_refused_with_the_reason(servers, features, message):
    example = tf.train.Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        (feature.int64_list if isinstance(values[0], int) else feature.float_list).value.extend(values)
    with pytest.raises(grpc.RpcError) as error:
        classify(servers, example)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in error.value.details()
    url = f"http://127.0.0.1:{servers.rest}/v1/models/softmax_regression:classify"
    status, error = post(url, {"examples": [features]})
    assert status == 400
    assert message in error


def test_flask_refuses_an_image_of_another_size(servers):
    status, error = post(servers.flask, {"data": [[0.0] * 783]})
    assert status == 422
    assert "expected 784" in error


def test_flask_answers_the_labels_of_examples_too(base, expected, test_images):
    data = [{"b64": base64.b64encode(one).decode()} for one in tf_examples.serialize(test_images.images[:3])]
    with ServedModel(base) as model:
        client = flask_server.create_app(model, output_key="classes").test_client()
        answer = client.post("/", json={"data": data})
    assert [labels[0] for labels in answer.json["y"]] == [str(digit) for digit in expected[:3].argmax(axis=1)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "has no input 'x_input' in 'serving_default'; it offers ['inputs']"),
        (("--input_key", "inputs", "--output_key", "scores"), "takes string (None,) as 'inputs'; expected float32 "),
        (("--signature_name", "predict_images", *CLASSIFY), "has no input 'inputs' in 'predict_images'; it offers"),
    ],
    ids=["no flags", "predict with examples", "classify with images"],
)
def test_a_client_reports_what_does_not_fit(servers, data_dir, flags, message):
    with pytest.raises(UserError) as error:
        tfserving_client.main(["--data_dir", str(data_dir), "--port", str(servers.grpc), *NAME, *flags])
    assert message in str(error.value)


def test_the_export_has_both_methods_the_warm_up_and_its_origin(base):
    with contextlib.closing(saved_model.load(base / "1")) as loaded:
        methods = {name: loaded.signatures[name].method_name for name in ("predict_images", "serving_default")}
    assert methods == {
        "predict_images": "tensorflow/serving/predict",
        "serving_default": "tensorflow/serving/classify",
    }
    records = tf.data.TFRecordDataset(str(base / "1" / "assets.extra" / "tf_serving_warmup_requests"))
    kinds = [prediction_log_pb2.PredictionLog.FromString(record.numpy()).WhichOneof("log_type") for record in records]
    assert kinds == ["predict_log"] * 6 + ["classify_log"]
    origin = exports.provenance(base / "1")
    assert (origin["model"], origin["version"], origin["step"]) == ("softmax_regression", 1, 150)
    assert origin["dataset"]["name"] == "digits"
    assert {name: known["independent_rows"] for name, known in origin["signatures"].items()} == dict.fromkeys(
        methods, True
    )


@pytest.mark.parametrize("flag", ["--training_iteration", "--model_version"])
@pytest.mark.parametrize("value", ["0", "-1", "abc", "1.5"])
def test_a_number_that_is_not_positive_ends_with_status_2(flag, value, capsys):
    with pytest.raises(SystemExit) as end:
        softmax_regression.main([flag, value])
    assert end.value.code == 2
    assert f"argument {flag}: '{value}' is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model_version", "1"), "1 exists; expected a new --model_version, or --overwrite"),
        (("--data_dir", "/nowhere"), "/nowhere does not exist\nExpected the four IDX files"),
        (("--export_base_path", __file__), "is a file; expected a directory of versions"),
    ],
)
def test_errors_are_reported_before_training(base, data_dir, flags, message, monkeypatch):
    monkeypatch.setattr(softmax_regression, "train", lambda *_: pytest.fail("must not train"))
    with pytest.raises(UserError) as error:
        export(data_dir, base, *flags)
    assert message in str(error.value)
    assert [path.name for path in base.iterdir()] == ["1"]


def test_an_export_that_answers_differently_is_not_published(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(softmax_regression, "LABELS", list("1234567890"))
    with pytest.raises(UserError, match="SavedModel and model differ by"):
        export(data_dir, tmp_path, "--training_iteration", "20")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_publishes_nothing(data_dir, tmp_path):
    base = tmp_path / "model"
    error = export_to_a_full_disk("examples.softmax_regression", 5000, data_dir, base, "--training_iteration", "1")
    assert ": error: " in error.splitlines()[0]
