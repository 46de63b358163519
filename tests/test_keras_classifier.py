import re
import resource
import shlex
import subprocess
import sys
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import ROOT, run_script, start_flask, start_model_server

import flask_client
import tfserving_client
from examples import keras_classifier
from rnn_serving import exports, processes
from rnn_serving.command_line import UserError
from rnn_serving.saved_model import ServedModel

KEYS = ("--model_name", "keras_classifier", "--input_key", "images", "--output_key", "probabilities")


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """(directory with version 1, Keras's model as it was trained)."""
    directory, models = tmp_path_factory.mktemp("exports") / "keras_classifier", []
    honest = keras_classifier.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_classifier, "train", lambda *args: models.append(honest(*args)) or models[0])
        flags = ["--data_dir", str(data_dir), "--export_base_path", str(directory), "--epochs", "6"]
        assert keras_classifier.main(flags) == 0
    return directory, models[0]


@pytest.fixture(scope="module")
def expected(trained, test_images):
    """Keras's own answers for the test images, (360, 10)."""
    return trained[1].predict(test_images.images, verbose=0)


@pytest.fixture(scope="module")
def servers(trained):
    """The ports of one model server, gRPC and REST, and the URL of a Flask server."""
    rest_port = processes.free_port()
    flags = (f"--rest_api_port={rest_port}", "--model_name=keras_classifier")
    with start_model_server(trained[0], *flags) as server, start_flask(trained[0], "--postprocess", "none") as flask:
        server.wait_for("Exporting HTTP/REST API")
        yield {"grpc": int(server.ready[1].rsplit(":", 1)[1]), "rest": rest_port, "flask": flask.ready[1]}


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_model_server_answers_as_keras_does(servers, expected, test_images, protocol):
    open_server = {"grpc": tfserving_client.open_grpc, "rest": tfserving_client.open_rest}[protocol]
    args = tfserving_client.parse_arguments(["--protocol", protocol, *KEYS])
    with open_server(f"127.0.0.1:{servers[protocol]}", args) as (_, version, connect), connect() as ask:
        np.testing.assert_allclose(ask(test_images.images), expected, atol=1e-6)
    assert version == 1


def test_the_flask_server_answers_as_keras_does(servers, expected, test_images):
    with flask_client.connect(servers["flask"], 10) as ask:
        np.testing.assert_allclose(ask(test_images.images), expected, atol=1e-6)


def test_both_clients_grade_it_alike(servers, expected, data_dir, test_images, capsys):
    flags = ["--data_dir", str(data_dir), "--batch_size", "8"]
    assert flask_client.main([*flags, "--port", str(urlsplit(servers["flask"]).port)]) == 0
    for protocol in ("grpc", "rest"):
        assert tfserving_client.main([*flags, *KEYS, "--protocol", protocol, "--port", str(servers[protocol])]) == 0
    accuracies = re.findall(r"^Accuracy= (.*)$", capsys.readouterr().out, re.MULTILINE)
    right = np.mean(expected.argmax(axis=1) == test_images.labels)
    assert accuracies == [f"{100 * right:.2f}"] * 3
    assert right > 0.8


def test_the_example_asks_with_requests(servers, expected, data_dir, test_images, capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert keras_classifier.main(["--data_dir", str(data_dir), "--ask", f"http://127.0.0.1:{servers['rest']}/"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"The image of a {label} is a {row.argmax()} with probability {row.max():.4f}"
        for label, row in zip(test_images.labels[:5], expected)
    ]


def test_the_curl_of_the_readme_gets_an_answer(servers, expected, data_dir):
    (line,) = re.findall(r"^python -c .*\| curl .*keras_classifier:predict.*$", (ROOT / "README.md").read_text(), re.M)
    line = line.replace(":8501", f":{servers['rest']}").replace("data/mnist", str(data_dir))
    line = line.replace("python -c", f"{shlex.quote(sys.executable)} -c", 1)
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert '"predictions"' in ended.stdout
    numbers = [float(number) for number in re.findall(r"[\d.]+(?:e[-+]\d+)?", ended.stdout)]
    np.testing.assert_allclose(numbers, expected[:2].ravel(), atol=1e-6)


def test_the_signature_has_the_names_that_were_chosen(trained):
    with ServedModel(trained[0]) as model:
        shapes = {key: info.shape for key, info in (model.signature.inputs | model.signature.outputs).items()}
    assert shapes == {"images": (None, 28, 28), "probabilities": (None, 10)}
    origin = exports.provenance(trained[0] / "1")
    assert (origin["model"], origin["version"], origin["dataset"]["name"]) == ("keras_classifier", 1, "digits")


@pytest.mark.parametrize("flag", ["--epochs", "--model_version"])
@pytest.mark.parametrize("value", ["0", "-1", "abc"])
def test_a_number_that_is_not_positive_ends_with_status_2(flag, value, capsys):
    with pytest.raises(SystemExit) as end:
        keras_classifier.main([flag, value])
    assert end.value.code == 2
    assert f"argument {flag}: '{value}' is not a whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model_version", "1"), "1 exists; expected a new --model_version, or --overwrite"),
        (("--data_dir", "/nowhere"), "/nowhere does not exist\nExpected the four IDX files"),
        (("--ask", "http://127.0.0.1:9"), "Connection refused; expected the REST address of a server"),
        (("--ask", "127.0.0.1"), "No connection adapters were found"),
        (("--ask", ""), "expected the REST address of a server"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(trained, data_dir, flags, message, monkeypatch):
    monkeypatch.setattr(keras_classifier, "train", lambda *_: pytest.fail("must not train"))
    with pytest.raises(UserError) as error:
        keras_classifier.main(["--data_dir", str(data_dir), "--export_base_path", str(trained[0]), *flags])
    assert message in str(error.value)
    assert [path.name for path in trained[0].iterdir()] == ["1"]


def test_a_server_without_the_model_is_an_error(servers, data_dir):
    with pytest.raises(UserError, match="status 404 .*; expected 200"):
        keras_classifier.main(["--data_dir", str(data_dir), "--ask", f"{servers['flask']}nowhere"])


def test_a_full_disk_publishes_nothing(data_dir, tmp_path):
    ended = run_script(
        *("examples/keras_classifier.py", "--data_dir", data_dir, "--export_base_path", tmp_path / "model"),
        *("--epochs", "1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith("keras_classifier.py: error: ")
    assert "Traceback" not in ended.stderr
    assert list((tmp_path / "model").iterdir()) == []


def test_an_export_that_answers_differently_is_not_published(trained, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(keras_classifier, "train", lambda *_: trained[1])
    honest = trained[1].predict
    monkeypatch.setattr(trained[1], "predict", lambda *args, **flags: honest(*args, **flags) + 0.5)
    with pytest.raises(UserError, match="SavedModel and Keras's model differ by 0.5"):
        keras_classifier.main(["--data_dir", str(data_dir), "--export_base_path", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
