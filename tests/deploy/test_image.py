"""The image, built and started for real: only with --build_image."""

import contextlib
import os
import shutil
import signal

import image_build
import manifests
import pytest
import requests
from conftest import started
from container_process import ContainerProcess, Host
from endpoint_processes import worker_pids
from steady_load import SteadyLoad
from test_container_life_cycle import BODY, publish, stop_under_load, wait_until_serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image(request, tmp_path_factory):
    """The built `image_build.Image`."""
    if not request.config.getoption("--build_image"):
        pytest.skip("--build_image builds the image; it takes minutes and 10 GB of disk")
    missing = [program for program in ("buildah", "mmdebstrap", "setpriv") if not shutil.which(program)]
    assert not missing, f"--build_image: no {missing} on PATH; expected Debian's buildah, mmdebstrap and util-linux"
    assert os.geteuid() == 0, "--build_image: expected root, to mount file systems"
    with image_build.built(tmp_path_factory.mktemp("image")) as image:
        yield image


@pytest.fixture
def models(export_base, tmp_path):
    """A directory with the model, which any user may read."""
    (tmp_path / "models").mkdir()
    publish(export_base, tmp_path / "models")
    return tmp_path / "models"


class ImageProcess(ContainerProcess):
    """A container that runs in the image: its signals go to PID 1 there."""

    def __init__(self, container, host, server, image, models):
        super().__init__(container, host, server)
        self._image, self._models = image, models

    def terminate(self, after_pre_stop_s=0.0):
        (process,) = worker_pids(self._server)
        os.kill(process, signal.SIGTERM)
        return self._server.process.wait(self.container.grace_s)

    def _run(self, command):
        with started(*self._image.words(self._models, self.host.local_words(command))) as check:
            return check.process.wait(20) == 0


@contextlib.contextmanager
def running(image, models, directory, arguments, ports, **options):
    """Yield the process that the image runs with these arguments, by default with its own."""
    command = [*image.entrypoint, *(arguments or image.command)]
    ports = {str(port): port for port in ports}
    container = manifests.Container(
        "image", "", command, ports=ports, probes={"startup": image.health_check}, grace_s=45
    )
    host = Host(container, directory, models, **options)
    with started(*image.words(models, host.local_words(command))) as server:
        yield ImageProcess(container, host, server, image, models)


def test_the_image_serves_the_model_with_flask(image, models, tmp_path):
    with running(image, models, tmp_path / "endpoint", None, [5000]) as endpoint:
        wait_until_serving(endpoint)
        with SteadyLoad([f"http://{endpoint.host.address(5000)}/"], BODY) as load:
            stopped_at = stop_under_load(endpoint, load, is_last=True)
        assert not load.lost
        assert load.in_flight_at(stopped_at)


def test_the_image_serves_as_model_server_and_as_gateway(image, models, tmp_path):
    flags = ["--host=0.0.0.0", "--port=8500", "--rest_api_port=8501", "--model_base_path=/models/mnist"]
    server_flags = ["rnn_serving.model_server", *flags, "--model_name=mnist"]
    with running(image, models, tmp_path / "server", server_flags, [8500, 8501]) as server:
        gateway_flags = ["flask_server", "--host=0.0.0.0", "--port=5000", "--backend=model-server:8500"]
        addresses = {"model-server:8500": server.host.address(8500)}
        with running(image, models, tmp_path / "gateway", gateway_flags, [5000], addresses=addresses) as gateway:
            wait_until_serving(server, gateway)
            answer = requests.post(f"http://{gateway.host.address(5000)}/", json=BODY, timeout=30)
            assert (answer.status_code, len(answer.json()["y"])) == (200, len(BODY["data"]))
            assert gateway.terminate() == 0
        assert server.terminate() == 0


def test_the_image_has_what_the_programs_need_and_nothing_else(image, capsys):
    assert image.user == "10001:10001"
    found = {path.name for path in (image.root / "opt" / "rnn-serving").iterdir()}
    assert {"deploy", "flask_server.py", "rnn_serving"} <= found
    assert not found & {"tests", "docs", "exports", "data", "benchmarks"}
    assert not list(image.root.glob("opt/venv/bin/pip*"))
    assert not [name for name in ("src", "wheels", "pip-cache", "usr/bin/gcc") if (image.root / name).exists()]
    with capsys.disabled():
        print(f"\nThe image has {image.size_mb():,.0f} MB")
