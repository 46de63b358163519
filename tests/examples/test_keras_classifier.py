import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from served_example import export_to_a_full_disk, grades_by_every_client, scores_by, serve

from examples.keras_classifier import __main__ as keras_classifier
from rnn_serving import dataset, exports
from rnn_serving.command_line import UserError
from rnn_serving.saved_model import ServedModel

KEYS = ("--model_name", "keras_classifier", "--input_key", "images", "--output_key", "probabilities")


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """(directory with version 1, Keras's model as it was trained)."""
    base, models = tmp_path_factory.mktemp("exports") / "keras_classifier", []
    honest = keras_classifier.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_classifier, "train", lambda *args: models.append(honest(*args)) or models[0])
        assert export(data_dir, base, "--epochs", "5") == 0
    return base, models[0]


def export(data_dir, base, *flags):
    return keras_classifier.main(["--data_dir", str(data_dir), "--export_base_path", str(base), *flags])


@pytest.fixture(scope="module")
def expected(trained, test_images):
    """Keras's own answers for the test images, (360, 10)."""
    return trained[1].predict(test_images.images, verbose=0)


@pytest.fixture(scope="module")
def servers(trained):
    with serve(trained[0]) as servers:
        yield servers


@pytest.mark.parametrize("protocol", ["flask", "grpc", "rest"])
def test_the_servers_answer_as_keras_does(servers, expected, test_images, protocol):
    version, scores = scores_by(servers, protocol, test_images.images, *KEYS)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert version == 1


def test_both_clients_grade_it_alike(servers, expected, data_dir, test_images, capsys):
    correct = np.mean(expected.argmax(axis=1) == test_images.labels)
    assert grades_by_every_client(servers, data_dir, capsys, KEYS) == [f"{100 * correct:.2f}"] * 3
    assert correct > 0.8


def test_ask_prints_the_answers_for_five_images(servers, expected, data_dir, test_images, capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert keras_classifier.main(["--data_dir", str(data_dir), "--ask", f"http://127.0.0.1:{servers.rest}/"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"The image of a {label} is a {row.argmax()} with probability {row.max():.4f}"
        for label, row in zip(test_images.labels[:5], expected)
    ]


def test_ask_takes_what_images_there_are(data_dir, tmp_path):
    train, test = dataset.load(data_dir).train, dataset.load_test_images(data_dir, 3)
    dataset.write_dataset(tmp_path / "few", (train.pixels, train.labels), (test.pixels, test.labels))
    with pytest.raises(UserError, match="Connection refused"):
        keras_classifier.main(["--data_dir", str(tmp_path / "few"), "--ask", "http://127.0.0.1:9"])


def test_ask_reports_a_server_without_the_model(servers, data_dir):
    with pytest.raises(UserError, match="status 404 .*; expected 200 from the REST API of a model server"):
        keras_classifier.main(["--data_dir", str(data_dir), "--ask", f"{servers.flask}nowhere"])


def test_the_curl_command_of_the_readme_gets_the_answers(servers, expected, data_dir):
    readme = (ROOT / "examples" / "keras_classifier" / "README.md").read_text()
    (line,) = re.findall(r"^python -c .*\| curl .*keras_classifier:predict.*$", readme, re.M)
    line = line.replace(":8501", f":{servers.rest}").replace("data/mnist", str(data_dir))
    line = line.replace("python -c", f"{shlex.quote(sys.executable)} -c", 1)
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert '"predictions"' in ended.stdout
    numbers = [float(number) for number in re.findall(r"[\d.]+(?:e[-+]\d+)?", ended.stdout)]
    np.testing.assert_allclose(numbers, expected[:2].ravel(), atol=1e-6)


def test_the_export_has_the_chosen_names_and_its_origin(trained):
    with ServedModel(trained[0]) as model:
        shapes = {key: info.shape for key, info in (model.signature.inputs | model.signature.outputs).items()}
        assert model.has_independent_rows
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
        (("--ask", "http://127.0.0.1:9"), "Connection refused; expected an answer from the REST API of a model server"),
        (("--ask", "127.0.0.1"), "No connection adapters were found"),
        (("--ask", ""), "expected an answer from the REST API of a model server"),
    ],
)
def test_errors_are_reported_before_training(trained, data_dir, flags, message, monkeypatch):
    monkeypatch.setattr(keras_classifier, "train", lambda *_: pytest.fail("must not train"))
    with pytest.raises(UserError) as error:
        export(data_dir, trained[0], *flags)
    assert message in str(error.value)
    assert [path.name for path in trained[0].iterdir()] == ["1"]


def test_an_export_that_answers_differently_is_not_published(trained, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(keras_classifier, "train", lambda *_: trained[1])
    honest = trained[1].predict
    monkeypatch.setattr(trained[1], "predict", lambda *args, **flags: honest(*args, **flags) + 0.5)
    with pytest.raises(UserError, match="SavedModel and Keras's model differ by 0.5"):
        export(data_dir, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_publishes_nothing(data_dir, tmp_path):
    base = tmp_path / "model"
    error = export_to_a_full_disk("examples.keras_classifier", 20_000, data_dir, base, "--epochs", "1")
    assert ": error: " in error.splitlines()[0]
