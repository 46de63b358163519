"""Under load, the server answers every request while versions are published, fail to load and are deleted."""

import contextlib
import functools
import itertools
import random
import re
import shutil
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from conftest import publish_copy, start_model_server

from benchmarks import server_processes
from rnn_serving import exports, saved_model
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

pytestmark = pytest.mark.slow

SOAK_S = 60
CALLERS = 8  # over each protocol
REQUEST_LIMIT_S = 10
# A user would call this a hang. The test prints the figure itself, as machines that run tests are shared.
SLOWEST_S = 2
SWAPS, SETTLED_AFTER = 100, 10
SWAP_LIMIT_S = 30
GROWTH_LIMIT = 1.10

State = get_model_status_pb2.ModelVersionStatus.State
CONFIG = """model_config_list {{ config {{
    name: "mnist" base_path: "{}" model_platform: "tensorflow" model_version_policy {{ all {{}} }}
}} }}"""


class Caller(threading.Thread):
    """Sends one image after the other until `stop` is set; records the latencies and the failures."""

    def __init__(self, ask, images, expected, versions, pause_s, stop):
        super().__init__()
        self.ask, self.images, self.expected, self.versions = ask, images, expected, versions
        self.pause_s, self.stop = pause_s, stop
        self.seconds, self.failures = [], []

    def run(self):
        for number in itertools.cycle(range(len(self.images))):
            version = random.choice(self.versions)
            started = time.perf_counter()
            try:
                scores = self.ask(self.images[number : number + 1], version)
                if not np.allclose(scores, self.expected[number : number + 1], atol=1e-5):
                    self.failures.append(f"image {number}, version {version}: {scores}")
            except Exception as error:
                self.failures.append(f"image {number}, version {version}: {error!r}")
            self.seconds.append(time.perf_counter() - started)
            if self.stop.wait(self.pause_s):
                return


class Target:
    """A running server and its clients for gRPC and REST."""

    def __init__(self, process, channel, rest_port):
        self.process = process
        self._prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._model = model_service_pb2_grpc.ModelServiceStub(channel)
        self._url = f"http://127.0.0.1:{rest_port}/v1/models/mnist"

    def ask_grpc(self, images, version):
        """Return the logits of images, float32 (n, 28, 28), from a version or the newest."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "mnist"
        if version is not None:
            request.model_spec.version.value = version
        request.inputs["x_input"].CopyFrom(tf.make_tensor_proto(images))
        response = self._prediction.Predict(request, timeout=REQUEST_LIMIT_S)
        return tf.make_ndarray(response.outputs["y_output"])

    def ask_rest(self, session, images, version):
        """Return the logits over REST."""
        url = self._url + (f"/versions/{version}" if version is not None else "")
        answer = session.post(f"{url}:predict", json={"instances": images.tolist()}, timeout=REQUEST_LIMIT_S)
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text}"
        return np.array(answer.json()["predictions"], np.float32)

    def states(self):
        """Return {version: (state, error code)}."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = "mnist"
        response = self._model.GetModelStatus(request, timeout=REQUEST_LIMIT_S)
        return {each.version: (each.state, each.status.error_code) for each in response.model_version_status}

    def wait_for(self, **wanted):
        """Wait until versions have the given states: wait_for(v2=State.AVAILABLE)."""
        deadline = time.monotonic() + SWAP_LIMIT_S
        while True:
            states = self.states()
            if all(states.get(int(version[1:]), (None,))[0] == state for version, state in wanted.items()):
                return
            assert time.monotonic() < deadline, f"{states} after {SWAP_LIMIT_S} s; expected {wanted}"
            time.sleep(0.05)

    def rss_kb(self):
        """Return the resident memory of the server in kB."""
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])


@contextlib.contextmanager
def serving(base, *flags):
    """Run a server that polls for versions every second and loads each without retries."""
    rest_port = server_processes.free_port()
    flags = [f"--rest_api_port={rest_port}", "--file_system_poll_wait_seconds=1", "--max_num_load_retries=0", *flags]
    with start_model_server(base, *flags) as process:
        process.wait_for("Exporting HTTP/REST API")
        with grpc.insecure_channel(process.ready[1], [("grpc.enable_http_proxy", 0)]) as channel:
            yield Target(process, channel, rest_port)


@contextlib.contextmanager
def load(server, images, expected, callers, versions, pause_s=0.0):
    """Run `callers` threads over gRPC and as many over REST during the body; yield the list of threads.

    `versions` are the versions to request, None for the newest.
    """
    stop, threads = threading.Event(), []
    with contextlib.ExitStack() as stack:
        for _ in range(callers):
            session = stack.enter_context(requests.Session())
            session.trust_env = False
            for ask in (server.ask_grpc, functools.partial(server.ask_rest, session)):
                threads.append(Caller(ask, images, expected, versions, pause_s, stop))
        for thread in threads:
            thread.start()
        try:
            yield threads
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def report(name, threads):
    """Print the latencies, and fail if a request failed."""
    seconds = np.concatenate([thread.seconds for thread in threads])
    p50, p99, slowest = np.percentile(seconds, [50, 99, 100]) * 1000
    print(f"\n{name}: {len(seconds)} requests, p50 {p50:.1f} ms, p99 {p99:.1f} ms, slowest {slowest:.0f} ms")
    failures = [failure for thread in threads for failure in thread.failures]
    assert not failures, f"{len(failures)} of {len(seconds)} failed, the first: {failures[:3]}"
    assert all(thread.seconds for thread in threads)
    assert slowest < SLOWEST_S * 1000


def publish_broken(base, version, source):
    """Publish a version with random bytes for its graph."""
    with exports.staging_directory(base, version) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)
        (staging / exports.SAVED_MODEL_FILE).write_bytes(random.Random(version).randbytes(10_000))


@pytest.fixture(params=[(), ("--enable_batching",)], ids=["", "batching"])
def flags(request):
    """Flags for both ways to handle calls: in threads, and batched in an event loop."""
    return request.param


@pytest.fixture
def source(export_base):
    """A version to copy."""
    return export_base / "1"


@pytest.fixture
def base(source, tmp_path):
    """A base path with version 1."""
    publish_copy(source, tmp_path / "mnist", 1)
    return tmp_path / "mnist"


@pytest.fixture
def images(test_images):
    """A few images, float32 (n, 28, 28)."""
    return test_images.images[:20]


@pytest.fixture
def expected(source, images):
    """The logits of the images, computed without a server."""
    with saved_model.ServedModel(source) as model:
        return model.predict({"x_input": images})["y_output"]


def change_versions(base, source, seconds):
    """Publish good and broken versions and delete some; return their numbers (live, deleted, broken)."""
    chance, deadline = random.Random(0), time.monotonic() + seconds
    live, deleted, broken = [], [], []
    version = 1
    while time.monotonic() < deadline:
        version += 1
        if version % 3:
            publish_copy(source, base, version)
            live.append(version)
        else:
            publish_broken(base, version, source)
            if broken:
                shutil.rmtree(base / str(broken[-1]))
            broken.append(version)
        # The deletion below may come before the server has seen the version, while it loads or after.
        time.sleep(chance.uniform(0.5, 2))
        if len(live) > 2:
            # Delete the newest as often as the oldest: requests without a version fall back to the one below.
            deleted.append(live.pop(chance.choice([0, -1])))
            shutil.rmtree(base / str(deleted[-1]))
    return live, deleted, broken


def test_every_request_is_answered_while_versions_change(base, source, images, expected, tmp_path, flags):
    config = tmp_path / "models.config"
    config.write_text(CONFIG.format(base))
    with serving(base, f"--model_config_file={config}", *flags) as server:
        # Version 1 stays, under the policy `all`.
        with load(server, images, expected, CALLERS, versions=[None, 1]) as threads:
            live, deleted, broken = change_versions(base, source, SOAK_S)
        report("versions that come and go", threads)
        last = {f"v{version}": State.AVAILABLE for version in (1, *live)}
        server.wait_for(**last, **{f"v{broken[-1]}": State.END})
        states = server.states()
        ended = {version for version, (state, code) in states.items() if state == State.END and not code}
        failed = {version for version, (state, code) in states.items() if state == State.END and code}
        print(f"{len(ended & set(deleted))} versions unloaded, {len(failed & set(broken))} failed to load")
        assert failed >= {broken[-1]}
        assert len(failed & set(broken)) > SOAK_S / 20
        assert len(ended & set(deleted)) > SOAK_S / 20
        assert server.process.stop() == 0


def test_memory_does_not_grow_over_a_hundred_versions(base, source, images, expected, flags):
    with serving(base, *flags) as server:
        with load(server, images, expected, callers=1, versions=[None], pause_s=0.02) as threads:
            occupied = {}
            for swap in range(1, SWAPS + 1):
                old, new = swap, swap + 1
                publish_copy(source, base, new)
                server.wait_for(**{f"v{new}": State.AVAILABLE, f"v{old}": State.END})
                shutil.rmtree(base / str(old))
                occupied[swap] = server.rss_kb()
        report("swaps", threads)
    print("RSS in MB after swaps:", {swap: kb // 1024 for swap, kb in occupied.items() if swap % 10 == 0})
    assert occupied[SWAPS] <= GROWTH_LIMIT * occupied[SETTLED_AFTER]
