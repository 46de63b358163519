import os
import signal
import sys

import pytest
from conftest import started
from launcher import RECORD, SCRIPT, add_executable, make_path, serve

from benchmarks import server_processes


@pytest.fixture
def path(tmp_path):
    """A directory to use as PATH, without a server."""
    return make_path(tmp_path)


DEFAULTS = "--port=9000 --rest_api_port=8501 --model_name=mnist --model_base_path="


def test_the_binary_on_path_is_preferred(path, export_base):
    add_executable(path, "tensorflow_model_server")
    add_executable(path, "docker")
    process = serve(path, export_base, "--enable_batching")
    assert process.stdout.splitlines() == [
        f"Starting tensorflow_model_server {DEFAULTS}{export_base} --enable_batching",
        f"ran tensorflow_model_server {DEFAULTS}{export_base} --enable_batching",
    ]


def test_docker_is_used_when_it_has_the_image(path, export_base):
    add_executable(path, "docker")
    process = serve(path, export_base, "--rest_api_port=8501")
    assert process.stdout.splitlines()[-1] == (
        "ran docker run --rm --init --publish 127.0.0.1:9000:9000 --publish 127.0.0.1:8501:8501 "
        f"--mount type=bind,source={export_base},target={export_base},readonly "
        "--entrypoint tensorflow_model_server tensorflow/serving "
        f"--port=9000 --rest_api_port=8501 --model_name=mnist --model_base_path={export_base}"
    )


@pytest.mark.parametrize("docker", ["exit 1", "sleep 60"], ids=["no daemon", "hanging daemon"])
def test_without_a_docker_daemon_the_python_module_is_used(path, export_base, docker):
    add_executable(path, "docker", f'[ "$1 $2" = "image inspect" ] && {docker}\n{RECORD}')
    add_executable(path, "python")
    process = serve(path, export_base, PYTHON=str(path / "python"))
    assert process.stdout.splitlines()[-1] == f"ran python -m rnn_serving.model_server {DEFAULTS}{export_base}"


@pytest.mark.parametrize(
    ("choice", "program"), [("binary", "tensorflow_model_server"), ("docker", "docker run"), ("python", "python -m")]
)
def test_the_environment_can_select_one(path, export_base, choice, program):
    for name in ("tensorflow_model_server", "docker", "python"):
        add_executable(path, name)
    process = serve(path, export_base, TFSERVING=choice, PYTHON=str(path / "python"))
    assert process.stdout.splitlines()[-1].startswith(f"ran {program}")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("binary", "no tensorflow_model_server on PATH; TFSERVING=binary expects one"),
        ("docker", "no docker on PATH; TFSERVING=docker expects it"),
    ],
)
def test_a_selection_that_is_not_installed_is_an_error(path, export_base, choice, message):
    process = serve(path, export_base, TFSERVING=choice)
    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == f"serve_tfserving.sh: error: {message}\n"


def test_an_unknown_selection_is_an_error(path, export_base):
    process = serve(path, export_base, TFSERVING="podman")
    assert process.returncode == 1
    assert "TFSERVING=podman; expected binary, docker or python" in process.stderr


def test_a_directory_without_a_version_is_an_error(path, tmp_path):
    (tmp_path / "mnist" / "staging-1").mkdir(parents=True)
    for base in (tmp_path / "mnist", tmp_path / "none"):
        process = serve(path, base)
        assert process.returncode == 1
        assert f"{base} has no version to serve; expected {base}/<version>/saved_model.pb" in process.stderr


def test_help_is_the_comment_at_the_top(path, tmp_path):
    process = serve(path, tmp_path, "--help")
    assert process.returncode == 0
    assert process.stdout.startswith("Step 4: serve the exported model")
    assert "TFSERVING=binary, docker or python" in process.stdout


@pytest.mark.parametrize(
    ("host", "published"), [("", "127.0.0.1"), ("::1", "[::1]"), ("[::1]", "[::1]"), ("localhost", "127.0.0.1")]
)
def test_the_host_is_that_of_the_published_ports(path, export_base, host, published):
    add_executable(path, "docker")
    process = serve(path, export_base, *([f"--host={host}"] if host else []))
    command = process.stdout.splitlines()[-1]
    assert f"--publish {published}:9000:9000 --publish {published}:8501:8501 " in command
    assert "--host" not in command


def test_the_host_is_passed_to_our_server_and_refused_by_name_for_the_other(path, export_base):
    add_executable(path, "python")
    process = serve(path, export_base, "--host=::1", PYTHON=str(path / "python"))
    assert process.stdout.splitlines()[-1].endswith(f" --model_base_path={export_base} --host=::1")
    add_executable(path, "tensorflow_model_server")
    process = serve(path, export_base, "--host=::1")
    assert process.returncode == 1
    assert "--host=::1: tensorflow_model_server has no such flag" in process.stderr


@pytest.mark.slow
def test_signals_reach_the_server_itself(export_base):
    command = [SCRIPT, f"--port={server_processes.free_port()}", f"--model_base_path={export_base}"]
    environment = os.environ | {"TFSERVING": "python", "PYTHON": sys.executable}
    with started(*command, ready="Running gRPC ModelServer", env=environment) as server:
        assert server.stop(signal.SIGTERM) == 0
