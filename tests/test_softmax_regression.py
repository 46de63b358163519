import base64
import contextlib
import re
import resource
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
import requests
from conftest import run_script, start_flask, start_model_server

import flask_client
import flask_server
import tfserving_client
from examples import softmax_regression
from rnn_serving import exports, processes, saved_model
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.saved_model import ServedModel

from tensorflow_serving.apis import classification_pb2, prediction_log_pb2, prediction_service_pb2_grpc

PREDICT = ("--signature_name", "predict_images", "--input_key", "images", "--output_key", "scores")
CLASSIFY = ("--method", "classify")


@pytest.fixture(scope="module")
def base(data_dir, tmp_path_factory):
    """A directory `softmax_regression` with version 1, trained for a moment."""
    directory = tmp_path_factory.mktemp("exports") / "softmax_regression"
    flags = ["--data_dir", str(data_dir), "--export_base_path", str(directory), "--training_iteration", "150"]
    assert softmax_regression.main(flags) == 0
    return directory


@pytest.fixture(scope="module")
def expected(base, test_images):
    """The scores of the test images by the export itself, (360, 10)."""
    with ServedModel(base, "predict_images") as model:
        return model.predict({"images": test_images.images.reshape(-1, 784)})["scores"]


@pytest.fixture(scope="module")
def servers(base):
    """The ports of one model server, gRPC and REST, and the URL of a Flask server."""
    rest_port = processes.free_port()
    flask_flags = ("--signature_name", "predict_images", "--postprocess", "none")
    with start_model_server(base, f"--rest_api_port={rest_port}") as server, start_flask(base, *flask_flags) as flask:
        server.wait_for("Exporting HTTP/REST API")
        yield {"grpc": int(server.ready[1].rsplit(":", 1)[1]), "rest": rest_port, "flask": flask.ready[1]}


@pytest.mark.parametrize("flags", [PREDICT, CLASSIFY], ids=["predict", "classify"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_model_server_answers_the_exports_scores(servers, expected, test_images, protocol, flags):
    open_server = {"grpc": tfserving_client.open_grpc, "rest": tfserving_client.open_rest}[protocol]
    args = tfserving_client.parse_arguments(["--protocol", protocol, *flags])
    with open_server(f"127.0.0.1:{servers[protocol]}", args) as (_, version, connect), connect() as ask:
        np.testing.assert_allclose(ask(test_images.images), expected, atol=1e-6)
    assert version == 1


def test_the_flask_server_answers_the_exports_scores(servers, expected, test_images):
    form = flask_client.image_form(servers["flask"], flask_client.metadata(servers["flask"], timeout_s=10))
    with flask_client.connect(servers["flask"], 10, form) as ask:
        np.testing.assert_allclose(ask(test_images.images), expected, atol=1e-6)


def test_both_clients_grade_it_alike(servers, expected, data_dir, test_images, capsys):
    flags = ["--data_dir", str(data_dir), "--concurrency", "3", "--batch_size", "8"]
    address = urlsplit(servers["flask"])
    assert flask_client.main([*flags, "--port", str(address.port)]) == 0
    for signature in (PREDICT, CLASSIFY):
        for protocol in ("grpc", "rest"):
            port = str(servers[protocol])
            assert tfserving_client.main([*flags, *signature, "--protocol", protocol, "--port", port]) == 0
    rates = re.findall(r"^Error rate= (.*) %$", capsys.readouterr().out, re.MULTILINE)
    wrong = np.mean(expected.argmax(axis=1) != test_images.labels)
    assert rates == [f"{100 * wrong:.4g}"] * 5
    assert wrong < 0.2


def test_an_example_gets_all_ten_labels_best_first(servers, expected, test_images):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "mnist"
    request.input.example_list.examples.append(softmax_regression.example_of(test_images.images[0].ravel()))
    with grpc.insecure_channel(f"127.0.0.1:{servers['grpc']}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        classes = stub.Classify(request, timeout=10).result.classifications[0].classes
    assert [one.label for one in classes] == [str(digit) for digit in (-expected[0]).argsort(kind="stable")]
    np.testing.assert_allclose([one.score for one in classes], np.sort(expected[0])[::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"y": [0.5]}, "Feature: x (data type: float) is required but could not be found."),
        ({"x": [0.5] * 783}, "Number of float values != expected.  Values size: 783 but output shape: [784]"),
        ({"x": [1] * 784}, "Data types don't match. Data type: int64 but expected type: float"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_with_what_is_wrong(servers, features, message):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "mnist"
    feature = request.input.example_list.examples.add().features.feature
    for name, values in features.items():
        kind = feature[name].int64_list if isinstance(values[0], int) else feature[name].float_list
        kind.value.extend(values)
    with grpc.insecure_channel(f"127.0.0.1:{servers['grpc']}") as channel, pytest.raises(grpc.RpcError) as error:
        prediction_service_pb2_grpc.PredictionServiceStub(channel).Classify(request, timeout=10)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert message in error.value.details()
    answer = direct("post", f"http://127.0.0.1:{servers['rest']}/v1/models/mnist:classify", {"examples": [features]})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def direct(method, url, value):
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, json=value, timeout=10)


def test_flask_refuses_an_image_of_another_size(servers):
    answer = direct("post", servers["flask"], {"data": [[0.0] * 783]})
    assert answer.status_code == 422
    assert "expected 784" in answer.json()["error"]


def test_flask_answers_the_labels_of_examples_too(base, expected, test_images):
    examples = [softmax_regression.example_of(image.ravel()).SerializeToString() for image in test_images.images[:3]]
    with ServedModel(base) as model:
        client = flask_server.create_app(model, output_key="classes").test_client()
        answer = client.post("/", json={"data": [{"b64": base64.b64encode(one).decode()} for one in examples]})
    assert [labels[0] for labels in answer.json["y"]] == [str(digit) for digit in expected[:3].argmax(axis=1)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "has no input 'x_input' in 'serving_default'; it offers ['inputs']"),
        (("--input_key", "inputs", "--output_key", "scores"), "takes string (None,) as 'inputs'; expected float32 "),
        (("--signature_name", "predict_images", *CLASSIFY), "has no input 'inputs' in 'predict_images'; it offers"),
    ],
)
def test_a_client_says_what_does_not_fit(servers, data_dir, flags, message):
    with pytest.raises(UserError) as error:
        tfserving_client.main(["--data_dir", str(data_dir), "--port", str(servers["grpc"]), *flags])
    assert message in str(error.value)


def test_the_methods_and_the_warm_up_are_in_the_export(base):
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
def test_what_cannot_be_exported_is_said_before_training(base, data_dir, flags, message, monkeypatch):
    monkeypatch.setattr(softmax_regression, "train", lambda *_: pytest.fail("must not train"))
    with pytest.raises(UserError) as error:
        softmax_regression.main(["--data_dir", str(data_dir), "--export_base_path", str(base), *flags])
    assert message in str(error.value)
    assert [path.name for path in base.iterdir()] == ["1"]


@pytest.mark.slow
def test_a_full_disk_publishes_nothing(data_dir, tmp_path):
    ended = run_script(
        *("examples/softmax_regression.py", "--data_dir", data_dir, "--export_base_path", tmp_path / "model"),
        *("--training_iteration", "1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith("softmax_regression.py: error: ")
    assert "Traceback" not in ended.stderr
    assert list((tmp_path / "model").iterdir()) == []


def test_an_export_that_answers_differently_is_not_published(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(softmax_regression, "LABELS", list("1234567890"))
    flags = ["--data_dir", str(data_dir), "--export_base_path", str(tmp_path), "--training_iteration", "20"]
    with pytest.raises(UserError, match="SavedModel and model differ by"):
        softmax_regression.main(flags)
    assert list(tmp_path.iterdir()) == []
