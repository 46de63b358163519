import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, started

from rnn_serving import processes

SCRIPT = ROOT / "scripts" / "serve_tfserving.sh"


@pytest.fixture
def path(tmp_path):
    """A directory that is all of PATH but the shell's own tools, for executables that record their command line."""
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "dirname", "basename", "timeout", "sed", "sleep"):
        (tmp_path / "bin" / tool).symlink_to(subprocess.check_output(["which", tool], text=True).strip())
    return tmp_path / "bin"


def executable(path, name, body):
    (path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (path / name).chmod(0o755)


def serve(path, base, *flags, **environment):
    command = [SCRIPT, f"--model_base_path={base}", *flags]
    variables = {"PATH": str(path), "PYTHON": sys.executable} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)


RECORD = 'echo "ran $(basename "$0") $*"'
FLAGS = "--port=9000 --rest_api_port=8501 --model_name=mnist --model_base_path="


def test_the_binary_on_path_is_taken_first(path, export_base):
    executable(path, "tensorflow_model_server", RECORD)
    executable(path, "docker", RECORD)
    ended = serve(path, export_base, "--enable_batching")
    assert ended.stdout.splitlines() == [
        f"Starting tensorflow_model_server {FLAGS}{export_base} --enable_batching",
        f"ran tensorflow_model_server {FLAGS}{export_base} --enable_batching",
    ]


def test_docker_is_taken_when_the_image_is_there(path, export_base):
    executable(path, "docker", RECORD)
    ended = serve(path, export_base, "--rest_api_port=8501")
    assert ended.stdout.splitlines()[-1] == (
        "ran docker run --rm --init --publish 127.0.0.1:9000:9000 --publish 127.0.0.1:8501:8501 "
        f"--mount type=bind,source={export_base},target={export_base},readonly "
        "--entrypoint tensorflow_model_server tensorflow/serving "
        f"--port=9000 --rest_api_port=8501 --model_name=mnist --model_base_path={export_base}"
    )


@pytest.mark.parametrize("docker", ["exit 1", "sleep 60"], ids=["no daemon", "hanging daemon"])
def test_without_a_docker_daemon_the_module_is_started(path, export_base, docker):
    executable(path, "docker", f'[ "$1 $2" = "image inspect" ] && {docker}\n{RECORD}')
    executable(path, "python", RECORD)
    ended = serve(path, export_base, PYTHON=str(path / "python"))
    assert ended.stdout.splitlines()[-1] == f"ran python -m rnn_serving.model_server {FLAGS}{export_base}"


@pytest.mark.parametrize(
    ("choice", "program"), [("binary", "tensorflow_model_server"), ("docker", "docker run"), ("python", "python -m")]
)
def test_one_can_be_forced(path, export_base, choice, program):
    for name in ("tensorflow_model_server", "docker", "python"):
        executable(path, name, RECORD)
    ended = serve(path, export_base, TFSERVING=choice, PYTHON=str(path / "python"))
    assert ended.stdout.splitlines()[-1].startswith(f"ran {program}")


def test_another_choice_is_an_error(path, export_base):
    ended = serve(path, export_base, TFSERVING="podman")
    assert ended.returncode == 1
    assert "TFSERVING=podman; expected binary, docker or python" in ended.stderr


def test_nothing_to_serve_is_an_error(path, tmp_path):
    (tmp_path / "mnist" / "staging-1").mkdir(parents=True)
    for base in (tmp_path / "mnist", tmp_path / "none"):
        ended = serve(path, base)
        assert ended.returncode == 1
        assert f"{base} has no version to serve; expected {base}/<version>/saved_model.pb" in ended.stderr


def test_signals_reach_the_server_itself(export_base):
    command = [SCRIPT, f"--port={processes.free_port()}", f"--model_base_path={export_base}"]
    environment = os.environ | {"TFSERVING": "python", "PYTHON": sys.executable}
    with started(*command, ready="Running gRPC ModelServer", env=environment) as server:
        assert server.stop(signal.SIGTERM) == 0
