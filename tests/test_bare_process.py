"""What cron, a daemon or a read-only container leaves out: standard streams, and a place for temporary files."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT, start_model_server

from benchmarks import server_processes

CLOSED = ("2>&-", ">&-", "<&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-")
# Prints, flushes, reads and opens a file; writes to a file what it saw.
USE_STREAMS = """
import sys
import rnn_serving
print("out"); print("error", file=sys.stderr); sys.stdout.flush(); sys.stderr.flush(); sys.stdin.isatty()
with open(sys.argv[1], "w") as file:
    file.write(str(file.fileno()))
"""
NO_TEMPORARY_DIRECTORY = """
import os, tempfile
def fail(*_, **__):
    raise FileNotFoundError(2, "No usable temporary directory found")
tempfile._get_default_tempdir = fail
for name in ("mkstemp", "mkdtemp", "TemporaryFile", "NamedTemporaryFile"):
    setattr(tempfile, name, fail)
"""


def shell(command, redirection, **run):
    """Run a Python command with streams closed by bash; return what `subprocess.run` does."""
    script = f'exec "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **run,
    )


@pytest.fixture
def bare_environment(tmp_path):
    """An environment in which no temporary file can be made, as on a read-only file system."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_TEMPORARY_DIRECTORY)
    return {"PYTHONPATH": f"{tmp_path / 'site'}", "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


@pytest.mark.parametrize("closed", CLOSED)
def test_closed_streams_can_be_used_and_no_file_takes_their_place(tmp_path, closed):
    ended = shell(["-c", USE_STREAMS, tmp_path / "number"], closed)
    assert (ended.returncode, "Traceback" in ended.stderr) == (0, False)
    assert int((tmp_path / "number").read_text()) > 2


@pytest.mark.slow
def test_an_export_and_an_error_of_one_work_with_all_streams_closed(data_dir, checkpoint_dir, tmp_path):
    command = ["export_savedmodel.py", "--data_dir", data_dir, "--checkpoint_dir", checkpoint_dir]
    command += ["--export_base_path", tmp_path / "digits", "--model_version", "1"]
    assert shell(command, CLOSED[-1]).returncode == 0
    assert (tmp_path / "digits" / "1" / "saved_model.pb").exists()
    assert shell(command, CLOSED[-1]).returncode == 1  # it exists


@pytest.mark.slow
@pytest.mark.parametrize("closed", CLOSED)
def test_every_program_works_with_closed_streams(data_dir, export_base, tmp_path, closed):
    port, grpc_port = server_processes.free_port(), server_processes.free_port()
    train = ["train_lstm.py", "--data_dir", data_dir, "--checkpoint_dir", tmp_path / "run", "--training_steps", "2"]
    assert shell(train, closed).returncode == 0
    flags = (f"--port={grpc_port}", f"--model_base_path={export_base}", "--model_name=mnist")
    servers = [
        ["flask_server.py", "--model_path", export_base, "--port", port],
        ["-m", "rnn_serving.model_server", *flags],
    ]
    running = [
        subprocess.Popen(["bash", "-c", f'exec "$@" {closed}', "bash", sys.executable, *map(str, command)], cwd=ROOT)
        for command in servers
    ]
    try:
        for script, number in (("flask_client.py", port), ("tfserving_client.py", grpc_port)):
            report = tmp_path / f"{script}.json"
            flags = ["--data_dir", data_dir, "--port", number, "--num_tests", "20", "--wait", "60", "--json", report]
            assert shell([script, *flags], closed).returncode == 0
            assert json.loads(report.read_text())["errors"] == 0
    finally:
        for process in running:
            process.terminate()
        assert [process.wait(40) for process in running] == [0, 0]


@pytest.mark.slow
def test_tensorflow_is_imported_without_a_temporary_directory(bare_environment):
    ended = shell(["-c", "from rnn_serving.quiet_tensorflow import tf"], "", env=bare_environment)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_flask_server_works_without_a_temporary_directory_and_says_what_it_lacks(
    export_base, data_dir, bare_environment
):
    port = server_processes.free_port()
    command = [sys.executable, "flask_server.py", "--model_path", str(export_base), "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, env=bare_environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            flags = ["--data_dir", data_dir, "--port", port, "--num_tests", "20", "--wait", "60"]
            assert shell(["flask_client.py", *flags], "").returncode == 0
        finally:
            server.terminate()
            printed = server.stderr.read()
    assert server.returncode == 0
    assert "/metrics covers one worker only" in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.slow
def test_the_model_server_takes_large_bodies_without_a_temporary_directory(export_base, data_dir, bare_environment):
    rest = server_processes.free_port()
    with start_model_server(export_base, f"--rest_api_port={rest}", env=bare_environment) as server:
        server.wait_for("Exporting HTTP/REST API")
        flags = ["--data_dir", data_dir, "--port", rest, "--protocol", "rest", "--num_tests", "360"]
        ended = shell(["tfserving_client.py", *flags, "--batch_size", "360"], "")
    assert ended.returncode == 0, ended.stdout + ended.stderr
