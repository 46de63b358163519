"""Three Ray nodes on one machine under constant load: one is killed, one replaces it, versions come and go."""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import publish_copy, run_script, started
from endpoint_processes import children, wait_until

import flask_client
import tfserving_client
from benchmarks.server_processes import free_port
from rnn_serving.clients import flask, load
from rnn_serving.clients.signature import ModelQuery
from rnn_serving.saved_model import ServedModel

# Ray's own, at import and when its processes are left to the cluster.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")]
NODES, IMAGES, RETRIES = 3, 200, 12


@pytest.fixture
def cluster(monkeypatch):
    """A `ray.cluster_utils.Cluster` of three nodes with one core each, to which this process is connected."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise Ray would write a token to the home directory
    monkeypatch.setenv("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")  # as `python -m deploy.ray` sets it where it starts Ray
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for _ in range(NODES - 1):
        cluster.add_node(num_cpus=1)
    ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class ConstantLoad:
    """Both clients, each asking for all images of `split` again and again, until the end of a `with`."""

    def __init__(self, split, grpc_address, url):
        query = ModelQuery("mnist", "serving_default", "x_input", "y_output", "predict", 10.0, 30.0, None)
        self._split, self._stop = split, threading.Event()
        self.passes = []
        self._threads = [
            threading.Thread(target=self._send, args=("grpc", tfserving_client.open_grpc, grpc_address, query)),
            threading.Thread(target=self._send, args=("http", open_http, url)),
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send(self, protocol, open_server, *arguments):
        with open_server(*arguments) as (_, connect):
            while not self._stop.is_set():
                self.passes.append((protocol, load.run_load(connect, self._split, concurrency=4, retries=RETRIES)))

    def wait_for_passes(self, count=2):
        """Wait until each client has asked for every image `count` times more."""
        wanted = {protocol: self._count(protocol) + count for protocol in ("grpc", "http")}
        wait_until(lambda: all(self._count(protocol) >= number for protocol, number in wanted.items()), limit_s=120)

    def _count(self, protocol):
        return sum(name == protocol for name, _ in self.passes)


def open_http(url):
    return contextlib.nullcontext((None, functools.partial(flask_client.connect, url, 10.0)))


def kill_node(cluster, node):
    """Kill all processes of a node at once, its replica and proxy included, as the loss of its machine would."""
    raylet = node.all_processes["raylet"][0].process.pid
    for pid in [raylet, *children(raylet)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def kill_replica(node):
    """Kill the replica of a node; Ray tells the clients so, as an error of its own."""
    raylet = node.all_processes["raylet"][0].process.pid
    names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children(raylet)}
    os.kill(next(pid for pid, name in names.items() if "ServeReplica" in name), signal.SIGKILL)


def served_versions(url):
    """Return the versions that answer some requests, over a connection for each: several replicas are asked."""
    return {flask.read_metadata(url, 10.0)["version"] for _ in range(5 * NODES)}


def test_a_killed_node_and_changing_versions_lose_no_request(cluster, export_base, test_images, tmp_path, capsys):
    from ray import serve

    base, port, http_port = tmp_path / "mnist", free_port(), free_port()
    publish_copy(export_base, base, 1)
    command = [sys.executable, "-m", "deploy.ray", "--model_base_path", base, "--port", port, "--http_port", http_port]
    command += ["--address", cluster.address, "--min_replicas", NODES]

    def running():
        return serve.status().applications["model"].deployments["ModelReplica"].replica_states.get("RUNNING", 0)

    with ServedModel(export_base) as model:
        scores = model.predict({"x_input": test_images.first(IMAGES).images})["y_output"]
    expected = int((scores.argmax(axis=1) == test_images.labels[:IMAGES]).sum())
    with started(*command, ready=r"HTTP at (http://\S+/)") as server:
        second = run_script(*command[1:])
        assert "Serve runs on this cluster already" in second.stderr
        url = server.ready[1]
        with ConstantLoad(test_images.first(IMAGES), f"127.0.0.1:{port}", url) as load_:
            load_.wait_for_passes()
            kill_replica(cluster.list_all_nodes()[-2])
            wait_until(lambda: running() < NODES, limit_s=60)
            wait_until(lambda: running() == NODES, limit_s=120)
            killed_at = time.monotonic()
            kill_node(cluster, cluster.list_all_nodes()[-1])
            wait_until(lambda: running() < NODES, limit_s=60)
            noticed_s = time.monotonic() - killed_at
            cluster.add_node(num_cpus=1)
            wait_until(lambda: running() == NODES, limit_s=120)
            strength_s = time.monotonic() - killed_at
            load_.wait_for_passes()
            publish_copy(export_base, base, 2)
            wait_until(lambda: served_versions(url) == {2})
            load_.wait_for_passes()
            (base / "2").rename(base / "withdrawn")
            wait_until(lambda: served_versions(url) == {1})
            load_.wait_for_passes()
        assert [graded.errors for _, graded in load_.passes] == [[]] * len(load_.passes)
        assert {graded.correct for _, graded in load_.passes} == {expected}
        assert server.stop() == 0
    with capsys.disabled():
        slowest = max(max(graded.latencies_s) for _, graded in load_.passes)
        print(
            f"\n{len(load_.passes) * IMAGES} requests, slowest {slowest:.1f} s; loss of a node noticed after "
            f"{noticed_s:.1f} s, full strength after {strength_s:.1f} s"
        )
