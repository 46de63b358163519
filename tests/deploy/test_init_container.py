"""The gateways' init container waits until a model server listens, and no longer."""

import socket
import subprocess
import sys

from kustomize import OVERLAYS, compose

from benchmarks.server_processes import free_port


def test_a_gateway_starts_once_a_model_server_listens():
    gateway = next(each for each in compose(OVERLAYS / "python") if each["metadata"]["name"] == "gateway")
    [container] = gateway["spec"]["template"]["spec"]["initContainers"]
    port = free_port()
    program, *flags, script = container["command"]
    assert (program, '("model-server", 8500)' in script) == ("python", True)
    script = script.replace('("model-server", 8500)', f'("127.0.0.1", {port})')
    process = subprocess.Popen([sys.executable, *flags, script])
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            assert process.poll() is None
            listener.listen()
            assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
