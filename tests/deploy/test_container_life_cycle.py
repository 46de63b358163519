"""Every container of deploy/ that runs our programs, from its start without a model to SIGTERM under load."""

import contextlib
import shutil
import time

import manifests
import pytest
import requests
from container_process import running
from kustomize import documents
from prometheus_client.parser import text_string_to_metric_families
from steady_load import SteadyLoad
from test_tls import Files

from benchmarks import server_processes
from rnn_serving import exports
from rnn_serving.tls import tls_refusal

# Images in one request: enough for it to be in flight when SIGTERM comes.
BATCH = 200
BODY = {"data": [[0.5] * 784] * BATCH}


@pytest.fixture
def models(tmp_path):
    """An empty directory of models."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def publish(export_base, models):
    """Make the model appear as a whole, as our exporters do."""
    shutil.copytree(export_base, models / "new")
    (models / "new").rename(models / "mnist")


def take_away(models):
    shutil.rmtree(exports.newest(models / "mnist"))


def names_of(*servers, port):
    """Return what a name in front of servers stands for: all their addresses."""
    return ",".join(server.host.address(port) for server in servers)


def stop_under_load(process, load, is_last=False):
    """Run preStop and send SIGTERM while requests are in flight; the process has to end in time.

    If it is the last one that answers, no request is sent after preStop: Kubernetes directs none to it by then.
    """
    load.wait_for_answers(10)
    process.run_pre_stop()
    if is_last:
        load.leave()
    stopped_at = time.monotonic()
    assert process.terminate(process.container.pre_stop.get("sleep", {}).get("seconds", 0)) == 0
    if not is_last:
        load.wait_for_answers(10)
    return stopped_at


def wait_without_model(*servers):
    """Wait until model servers have looked for their model in vain: they are neither started nor ready."""
    for server in servers:
        server.wait_for_line("Could not find base path ")
        assert not server.passes("startup")
        assert not server.passes("readiness")


def wait_until_serving(*processes):
    """Once there is a model, every probe passes."""
    for process in processes:
        for kind in process.container.probes:
            process.wait_until_passes(kind)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    """What the Secrets of the overlay `tls` hold, in one directory."""
    directory = tmp_path_factory.mktemp("secrets") / "tls"
    files = Files(directory)
    files.issue("client")
    files.write_config("ssl", client_verify=True)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["python", "tls"])
def test_pods_lose_no_request_when_they_are_replaced(overlay, export_base, models, secrets, tmp_path):
    with contextlib.ExitStack() as stack:

        def start(name, number, addresses=None):
            container = manifests.overlay(overlay, name)
            return stack.enter_context(running(container, tmp_path / f"{name}-{number}", models, secrets, addresses))

        first, second = (start("model-server", number) for number in (1, 2))
        wait_without_model(first, second)
        publish(export_base, models)
        wait_until_serving(first, second)
        gateway = start("gateway", 1, {"model-server:8500": names_of(first, second, port="grpc")})
        wait_until_serving(gateway)
        assert bool(tls_refusal(second.host.address("grpc"))) == (overlay == "tls")
        with SteadyLoad([f"http://{gateway.host.address('http')}/"], BODY) as load:
            stop_under_load(first, load)
            stopped_at = stop_under_load(gateway, load, is_last=True)
        assert not load.lost
        assert load.in_flight_at(stopped_at)
        take_away(models)
        second.wait_until(lambda: not second.passes("readiness"), "not ready without its model")
        assert second.passes("liveness")


@pytest.mark.slow
def test_a_gateway_is_alive_and_not_ready_until_a_model_server_answers(models, tmp_path):
    """It ends after a while, and Kubernetes starts it again."""
    container = manifests.overlay("python", "gateway")
    nowhere = {"model-server:8500": f"127.0.0.1:{server_processes.free_port()}"}
    with running(container, tmp_path / "gateway", models, addresses=nowhere) as gateway:
        gateway.wait_until_passes("liveness")
        assert not gateway.passes("startup")
        assert not gateway.passes("readiness")
        assert gateway.terminate() == 0


@pytest.mark.slow
def test_pods_of_kserve_lose_no_request_when_they_are_replaced(export_base, models, tmp_path):
    with contextlib.ExitStack() as stack:
        first, second = (
            stack.enter_context(running(manifests.kserve(), tmp_path / str(number), models)) for number in (1, 2)
        )
        wait_without_model(first, second)
        publish(export_base, models)
        wait_until_serving(first, second)
        urls = [f"http://{process.host.address(8080)}/v1/models/mnist:predict" for process in (first, second)]
        with SteadyLoad(urls, {"instances": [[[0.5] * 28] * 28] * BATCH}) as load:
            stopped_at = stop_under_load(first, load)
        assert not load.lost
        assert load.in_flight_at(stopped_at)


def test_the_services_of_compose_lose_no_request_when_they_are_stopped(export_base, models, tmp_path):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(manifests.service("python-server"), tmp_path / "server", models))
        wait_without_model(server)
        publish(export_base, models)
        wait_until_serving(server)
        addresses = {"model-server:8500": server.host.address(8500)}
        container = manifests.service("gateway")
        gateway = stack.enter_context(running(container, tmp_path / "gateway", models, addresses=addresses))
        wait_until_serving(gateway)
        processes = {"model-server": server, "gateway": gateway}
        assert {name for name, _ in scraped(processes)} == set(processes)
        with SteadyLoad([f"http://{gateway.host.address(5000)}/"], BODY) as load:
            stopped_at = stop_under_load(gateway, load, is_last=True)
        assert not load.lost
        assert load.in_flight_at(stopped_at)
        assert server.terminate() == 0


def scraped(processes):
    """Yield (job, sample) of what Prometheus reads from processes, given by the names that it looks up."""
    (config,) = documents(manifests.DEPLOY / "prometheus.yaml")
    for job in config["scrape_configs"]:
        for target in job["dns_sd_configs"]:
            (name,) = target["names"]
            address = processes[name].host.address(target["port"])
            text = requests.get(f"http://{address}{job.get('metrics_path', '/metrics')}", timeout=10).text
            for family in text_string_to_metric_families(text):
                yield from ((job["job_name"], sample) for sample in family.samples)


def test_the_image_without_a_command_serves_the_model_with_flask(export_base, models, tmp_path):
    publish(export_base, models)
    with running(manifests.default_container(), tmp_path / "endpoint", models) as endpoint:
        wait_until_serving(endpoint)
        with SteadyLoad([f"http://{endpoint.host.address('http')}/"], BODY) as load:
            stopped_at = stop_under_load(endpoint, load, is_last=True)
        assert not load.lost
        assert load.in_flight_at(stopped_at)
