import json
import os
import re
import signal
import socket
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


def servers_left(output):
    """Return the ports in the printed commands of servers on which something still listens."""
    commands = [line for line in output.splitlines() if line.startswith("$ ") and line.endswith(" &")]
    ports = [int(port) for line in commands for port in re.findall(r"--(?:rest_api_)?port[ =](\d+)", line)]
    assert ports
    return [port for port in ports if not is_closed(port)]


def is_closed(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_all_steps_run_in_order_and_end_with_the_table(data_dir, tmp_path):
    ended = run_script(*pipeline(data_dir, tmp_path), timeout_s=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    steps = [line.removeprefix("$ ").removeprefix("python ") for line in ended.stdout.splitlines() if line[:1] == "$"]
    assert [step.split()[0] for step in steps] == [
        *("train_lstm.py", "export_savedmodel.py", "flask_server.py", "flask_client.py"),
        *("scripts/serve_tfserving.sh", "tfserving_client.py", "scripts/compare_latency.py"),
    ]
    _, _, first_row, *_, last_row = (line for line in ended.stdout.splitlines() if line.startswith("|"))
    assert re.match(r"\| article.* \| 1 \|", first_row)
    assert re.match(r"\| rnn_serving.model_server.* gRPC \| 32 \|", last_row)
    assert ended.stdout.splitlines()[-1].endswith(f"reports: {tmp_path}/reports   data: {data_dir}")
    assert json.loads((tmp_path / "reports" / "latency.json").read_text())["dataset"] == "digits"
    assert list(exports.versions(tmp_path / "mnist")) == [1]
    assert servers_left(ended.stdout) == []


@pytest.mark.slow
def test_sigterm_to_the_pipeline_stops_the_servers(data_dir, tmp_path):
    with started(sys.executable, *pipeline(data_dir, tmp_path), ready="Flask server ready") as run:
        assert run.stop(signal.SIGTERM) == 143
    assert servers_left(run.output()) == []


def test_a_step_that_fails_ends_the_pipeline_by_name(data_dir, tmp_path):
    ended = run_script(SCRIPT, "--data_dir", tmp_path / "none")
    assert ended.returncode == 1
    assert "python -m rnn_serving.digits data/digits" in ended.stderr
    assert "run_pipeline.py: error: train_lstm.py ended with status 1; expected 0" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_network_that_refuses_is_detected_at_once():
    assert run_pipeline.network_answers(["http://127.0.0.1:9/"] * 2, limit_s=20) is False


def test_a_network_that_hangs_is_detected_in_seconds():
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


def test_a_download_that_fails_halfway_falls_back_too(tmp_path, monkeypatch, capfd):
    def fail(directory):
        raise dataset.NoNetworkError("cut off")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_pipeline, "network_answers", lambda: True)
    monkeypatch.setattr(dataset, "download", fail)
    assert run_pipeline.data_set("data/mnist") == "data/digits"
    assert "No MNIST (cut off): taking" in capfd.readouterr().out
    assert os.path.isdir("data/digits")


FULL = {"concurrencies": [1, 2, 4, 8, 16, 32, 64], "rates_rps": [100.0], "rounds": 5}
QUICK = {"concurrencies": [1, 8, 32], "rates_rps": [], "rounds": 3}


@pytest.mark.parametrize(
    ("report", "kept"),
    [
        (None, False),
        (QUICK, False),
        (FULL, True),
        (QUICK | {"rounds": 10}, True),
        (QUICK | {"concurrencies": [1, 128]}, True),
        (QUICK | {"rates_rps": [50.0]}, True),
        ({"rounds": 3}, True),
        ([], True),
        ("cut", True),
    ],
)
def test_a_longer_comparison_is_kept(report, kept, tmp_path, capsys):
    if report is not None:
        (tmp_path / "latency.json").write_text(json.dumps(report)[:-1] if report == "cut" else json.dumps(report))
    directory = run_pipeline.reports_directory(str(tmp_path))
    assert directory == (f"{tmp_path}/quick" if kept else str(tmp_path))
    line = f"{tmp_path} keeps the longer comparison that is there: this run's quick one goes to {directory}\n"
    assert capsys.readouterr().out == (line if kept else "")


def test_a_directory_without_a_report_is_used_as_it_is(tmp_path):
    assert run_pipeline.reports_directory(str(tmp_path / "new")) == str(tmp_path / "new")
