"""What the tests of containers rely on: a refused argument fails, and nothing can be written to the root."""

import re
import subprocess

import manifests
import pytest
from container_process import Host, can_make_root_read_only, read_only_root, running


def test_only_paths_addresses_and_ports_of_the_container_are_replaced(tmp_path):
    mounts = {"/models": "models", "/tmp": "empty"}
    container = manifests.Container("server", [], ports={"grpc": 8500}, mounts=mounts)
    host = Host(container, tmp_path / "host", tmp_path / "models", addresses={"model-server:8500": "127.0.0.1:1"})
    grpc, temporary = host.ports[8500], host.local("/tmp")
    assert host.local("--model_base_path=/models/mnist") == f"--model_base_path={tmp_path}/models/mnist"
    assert host.local("--backend=model-server:8500") == "--backend=127.0.0.1:1"
    assert host.local("--port=8500 127.0.0.1:8500/v1/models") == f"--port={grpc} 127.0.0.1:{grpc}/v1/models"
    assert (temporary, host.environment["TMPDIR"]) == (str(next(host.directory.iterdir())), temporary)
    for other in ("--age_ms=85000", "/v1/models/mnist", "/tmpfs", "rnn_serving.model_server", "other-model-server:80"):
        assert host.local(other) == other


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("model-server", "--no_such_flag=1", "unknown argument: --no_such_flag=1"),
        ("model-server", "--port=grpc", "--port=grpc: expected a value of type int"),
        ("gateway", "--no_such_flag=1", "unrecognized arguments: --no_such_flag=1"),
        ("gateway", "--backend=model-server", "'model-server' is not HOST:PORT"),
    ],
)
def test_a_manifest_with_arguments_that_a_program_refuses_fails(name, argument, message, tmp_path):
    container = manifests.overlay("python", name).with_argument(argument)
    with (
        running(container, tmp_path / "pod", tmp_path) as process,
        pytest.raises(AssertionError, match=re.escape(message)),
    ):
        process.wait_until_passes("startup")


def test_containers_run_with_a_read_only_root(tmp_path):
    if not can_make_root_read_only():
        pytest.skip("needs user namespaces, as on Linux; containers are tested with a writable root")
    (tmp_path / "tmp").mkdir()
    outside, inside = tmp_path / "file", tmp_path / "tmp" / "file"
    script = f"touch {outside}; touch {inside}"
    subprocess.run([*read_only_root(tmp_path / "tmp"), "sh", "-c", script], check=True, capture_output=True)
    assert (outside.exists(), inside.exists()) == (False, True)
