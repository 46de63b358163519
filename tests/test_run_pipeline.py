import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import run_pipeline
from conftest import ROOT, run_script, started

from rnn_serving import dataset, exports

SCRIPT = ROOT / "scripts" / "run_pipeline.py"


def pipeline(data_dir, directory, *flags):
    return [
        *(SCRIPT, "--data_dir", data_dir, "--training_steps", "30", "--num_tests", "40"),
        *("--checkpoint_dir", directory / "checkpoints", "--export_base_path", directory / "mnist"),
        *("--reports_dir", directory / "reports", "--duration", "0.1", *flags),
    ]


def server_processes(directory):
    """The command lines of processes that serve from a directory."""
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listing.splitlines() if f"{directory}/mnist" in line and "run_pipeline" not in line]


def test_all_steps_run_in_order_and_end_with_the_table(data_dir, tmp_path):
    ended = run_script(*pipeline(data_dir, tmp_path), timeout_s=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    steps = [line.removeprefix("$ ").removeprefix("python ") for line in ended.stdout.splitlines() if line[:1] == "$"]
    assert [step.split()[0] for step in steps] == [
        *("train_lstm.py", "export_savedmodel.py", "flask_server.py", "flask_client.py"),
        *("scripts/serve_tfserving.sh", "tfserving_client.py", "scripts/compare_latency.py"),
    ]
    _, _, first_row, *_, last_row = (line for line in ended.stdout.splitlines() if line.startswith("|"))
    assert first_row.startswith("| article | 1 |")
    assert last_row.startswith("| rnn_serving.model_server gRPC | 32 |")
    assert ended.stdout.splitlines()[-1].endswith(f"reports: {tmp_path}/reports   data: {data_dir}")
    assert json.loads((tmp_path / "reports" / "latency.json").read_text())["dataset"] == "digits"
    assert list(exports.versions(tmp_path / "mnist")) == [1]
    assert server_processes(tmp_path) == []


@pytest.mark.slow
def test_servers_are_stopped_when_the_pipeline_is_told_to_end(data_dir, tmp_path):
    with started(sys.executable, *pipeline(data_dir, tmp_path), ready="Flask server ready") as run:
        assert run.stop(signal.SIGTERM) == 143
    assert server_processes(tmp_path) == []


def test_a_step_that_fails_ends_the_pipeline_by_name(data_dir, tmp_path):
    ended = run_script(SCRIPT, "--data_dir", tmp_path / "none")
    assert ended.returncode == 1
    assert "python -m rnn_serving.digits data/digits" in ended.stderr
    assert "run_pipeline.py: error: train_lstm.py ended with status 1; expected 0" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_network_is_known_at_once_when_it_refuses():
    assert run_pipeline.network_answers(["http://127.0.0.1:9/"] * 2, limit_s=20) is False


def test_no_network_is_known_in_seconds_when_it_hangs():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert run_pipeline.network_answers([url, url], limit_s=0.5) is False


def test_without_a_network_the_offline_digits_are_taken_and_named_in_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_pipeline, "network_answers", lambda: False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert run_pipeline.data_set("data/mnist") == "data/digits"
    line = "No MNIST (none of its mirrors answers): taking scikit-learn's digits, data/digits\n"
    assert capfd.readouterr().out.count(line) == 1
    assert len(dataset.load("data/digits").test) == 360


def test_a_download_that_fails_half_way_falls_back_too(tmp_path, monkeypatch, capfd):
    def fail(directory):
        raise dataset.NoNetworkError("cut off")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_pipeline, "network_answers", lambda: True)
    monkeypatch.setattr(dataset, "download", fail)
    assert run_pipeline.data_set("data/mnist") == "data/digits"
    assert "No MNIST (cut off): taking" in capfd.readouterr().out
    assert os.path.isdir("data/digits")
