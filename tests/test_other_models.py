"""The model is one file: with another model.py alone, every step works."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT, started

from benchmarks import server_processes

MODELS = Path(__file__).with_name("other_models")
# One process trains and is interrupted, resumes, and exports: TensorFlow is loaded once.
TRAIN_AND_EXPORT = """
import sys
import export_savedmodel, train_lstm
from rnn_serving.training_run import TrainingRun

data, *flags = sys.argv[1:]
arguments = ["--data_dir", data, "--training_steps", "60", "--save_step", "20", "--display_step", "20", *flags]
record = TrainingRun.record

def interrupted(run, loss, accuracy):
    record(run, loss, accuracy)
    if int(run._step.numpy()) == 40:
        raise KeyboardInterrupt

TrainingRun.record = interrupted
try:
    train_lstm.main(arguments)
except KeyboardInterrupt:
    TrainingRun.record = record
assert train_lstm.main([*arguments, "--min_accuracy", "0.2"]) == 0
assert export_savedmodel.main(["--data_dir", data]) == 0
"""
GRADE = """
import sys
import flask_client, tfserving_client

data, flask_port, grpc_port = sys.argv[1:]
assert flask_client.main(["--data_dir", data, "--port", flask_port, "--json", "flask.json"]) == 0
to = ["--port", grpc_port, "--model_name", "digits"]
assert tfserving_client.main(["--data_dir", data, *to, "--json", "grpc.json"]) == 0
"""


@pytest.fixture
def project(tmp_path):
    """A function that copies the project with another model.py."""

    def copy(model):
        for path in ROOT.glob("*.py"):
            shutil.copy(path, tmp_path)
        shutil.copytree(ROOT / "rnn_serving", tmp_path / "rnn_serving", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(MODELS / f"{model}.py", tmp_path / "rnn_serving" / "model.py")
        return tmp_path

    return copy


@pytest.mark.parametrize(
    ("model", "flags"),
    [
        ("gru", ["--units", "20"]),
        pytest.param("stacked_lstm", ["--layers", "2", "--readout", "mean", "--peephole"], marks=pytest.mark.slow),
        pytest.param("convolution", ["--filters", "6", "--augment"], marks=pytest.mark.slow),
    ],
)
def test_another_model_trains_resumes_exports_serves_and_is_graded(project, data_dir, model, flags):
    directory = project(model)
    environment = os.environ | {"PYTHONPATH": str(directory)}

    def run(*command, ready=None):
        return started(sys.executable, *command, ready=ready, cwd=directory, env=environment)

    with run("-c", TRAIN_AND_EXPORT, data_dir, *flags) as trained:
        assert trained.process.wait(120) == 0, trained.output()
    trained._reader.join()
    assert "resuming from step 40 of 60" in trained.output()
    recorded = json.loads((directory / "exports" / "digits" / "1" / "assets.extra" / "model.json").read_text())
    assert recorded["flags"][flags[0].removeprefix("--")] == int(flags[1])

    port = server_processes.free_port()
    model_server = ["-m", "rnn_serving.model_server", f"--port={port}", "--model_name=digits"]
    model_server += [f"--model_base_path={directory / 'exports' / 'digits'}"]
    with (
        run(
            "flask_server.py", "--model_path", "exports/digits", "--port", "0", ready=r"ready on http://\S+:(\d+)/"
        ) as flask,
        run(*model_server, ready="Running gRPC ModelServer"),
        run("-c", GRADE, data_dir, flask.ready[1], port) as graded,
    ):
        assert graded.process.wait(120) == 0, graded.output()
    expected = json.loads((directory / "checkpoints" / "digits" / "run.json").read_text())["testing_accuracy"]
    for report in ("flask.json", "grpc.json"):
        assert json.loads((directory / report).read_text())["accuracy"] == expected
