"""A name that stands for more model servers than before, as a headless Service does when the autoscaler adds one."""

import re
import sys

import manifests
import pytest
import requests
from conftest import start_model_server, started
from container_process import can_make_root_read_only
from endpoint_processes import wait_until
from steady_load import SteadyLoad

from benchmarks import server_processes

NAME = "replicas.test"
# Gives a command a file of its own as /etc/hosts.
_OWN_HOSTS = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


@pytest.mark.slow
def test_a_gateway_sends_calls_to_a_replica_that_is_added(export_base, tmp_path):
    if not can_make_root_read_only():
        pytest.skip("needs user namespaces, as on Linux, for a name with changing addresses")
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 {NAME}\n")
    port, rest_port = server_processes.free_port(), server_processes.free_port()
    ports = [f"--port={port}", f"--rest_api_port={rest_port}", connection_age()]
    config = f"--monitoring_config_file={manifests.DEPLOY / 'monitoring.config'}"
    gateway = ["-m", "flask_server", "--port", "0", "--backend", f"{NAME}:{port}"]
    own_hosts = ["unshare", "--map-root-user", "--mount", "sh", "-c", _OWN_HOSTS, "sh", hosts]
    with (
        start_model_server(export_base, "--host=127.0.0.1", config, *ports),
        start_model_server(export_base, "--host=127.0.0.2", config, *ports),
        started(*own_hosts, sys.executable, *gateway, ready=r"ready on (http://\S+/)") as server,
        SteadyLoad([server.ready[1]], {"data": [[0.5] * 784]}) as load,
    ):
        load.wait_for_answers(100)
        assert answered(f"127.0.0.1:{rest_port}") >= 100
        assert not answered(f"127.0.0.2:{rest_port}")
        with hosts.open("a") as file:
            file.write(f"127.0.0.2 {NAME}\n")
        wait_until(lambda: answered(f"127.0.0.2:{rest_port}") > 100)
    assert not load.lost


def connection_age():
    """Return the flag of the manifests that limits the age of connections, with a shorter one."""
    container = manifests.overlay("python", "model-server")
    (flag,) = (word for word in container.command if word.startswith("--grpc_channel_arguments="))
    assert "grpc.max_connection_age_ms=60000," in flag
    return flag.replace("60000", "1000")


def answered(address):
    """Return how many calls that run the model a server has answered."""
    text = requests.get(f"http://{address}/monitoring/prometheus/metrics", timeout=10).text
    found = re.search(r'^:tensorflow:serving:request_count\{.*status="OK"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0
