import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import requests
from conftest import publish_copy, start_model_server, started
from google.protobuf import text_format

from benchmarks import server_processes
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

LIMIT_S = 30
START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50


class Client:
    """A gRPC client that reads the state of a server's models."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    def states(self, name="mnist"):
        """Return {version: state} of a model, {} for an unknown one."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": name})
        try:
            answer = self.models.GetModelStatus(request, timeout=10)
        except grpc.RpcError:
            return {}
        return {status.version: status.state for status in answer.model_version_status}

    def error(self, version):
        """Return (code, message) of a version's status."""
        request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "mnist"})
        (found,) = (
            status.status
            for status in self.models.GetModelStatus(request, timeout=10).model_version_status
            if status.version == version
        )
        return found.error_code, found.error_message

    def answering_version(self):
        """Return the version that answers a request without a version."""
        request = predict_pb2.PredictRequest(model_spec={"name": "mnist"})
        request.inputs["x_input"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 28, 28), np.float32)))
        return self.predictions.Predict(request, timeout=10).model_spec.version.value

    def wait_for(self, states, name="mnist"):
        """Poll the status until it shows these states."""
        deadline = time.monotonic() + LIMIT_S
        while (found := self.states(name)) != states:
            assert time.monotonic() < deadline, f"states are {found}, expected {states}"
            time.sleep(0.05)


@pytest.fixture
def base(export_base, tmp_path):
    """A private copy of the base path, with version 1."""
    shutil.copytree(export_base, tmp_path / "mnist")
    return tmp_path / "mnist"


FAST = ("--file_system_poll_wait_seconds=1", "--max_num_load_retries=1", "--load_retry_interval_micros=1000")


@pytest.mark.slow
def test_a_version_that_does_not_load_shows_why_and_the_old_one_goes_on_serving(base):
    with start_model_server(base, *FAST) as server:
        client = Client(server.ready[1])
        (base / "2").mkdir()
        (base / "3").write_text("a file")
        client.wait_for({1: AVAILABLE, 3: END})
        assert client.error(3)[0] == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert client.error(3)[1].endswith("/mnist/3; Not a directory")
        (base / "3").unlink()
        client.wait_for({1: AVAILABLE, 2: END, 3: END})
        assert client.error(2) == (
            grpc.StatusCode.NOT_FOUND.value[0],
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {base}/2",
        )
        assert client.answering_version() == 1
        publish_copy(base / "1", base, 4)
        client.wait_for({1: END, 2: END, 3: END, 4: AVAILABLE})


def write_warmup(version, *logs):
    path = version / "assets.extra" / "tf_serving_warmup_requests"
    with tf.io.TFRecordWriter(str(path)) as records:
        for log in logs:
            records.write(log if isinstance(log, bytes) else log.SerializeToString())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("logs", "code", "message"),
    [
        ([prediction_log_pb2.PredictionLog(session_run_log={})], "UNIMPLEMENTED", "Unsupported log_type for warmup: "),
        ([b"\xff\xff"], "INVALID_ARGUMENT", "Failed to parse warmup record: "),
        ([prediction_log_pb2.PredictionLog()] * 1001, "INVALID_ARGUMENT", "exceeds the maximum (1000) at "),
        (
            [prediction_log_pb2.PredictionLog(predict_log={"request": {"model_spec": {"signature_name": "none"}}})],
            "FAILED_PRECONDITION",
            'Serving signature key "none" not found.',
        ),
    ],
    ids=["log type", "invalid record", "too many", "failing request"],
)
def test_a_warm_up_that_fails_is_a_load_that_fails(base, logs, code, message):
    with start_model_server(base, *FAST) as server:
        client = Client(server.ready[1])
        shutil.copytree(base / "1", base / "new")
        write_warmup(base / "new", *logs)
        (base / "new").rename(base / "2")
        client.wait_for({1: AVAILABLE, 2: END})
        assert client.error(2)[0] == getattr(grpc.StatusCode, code).value[0]
        assert message in client.error(2)[1]


@pytest.mark.slow
def test_a_warm_up_file_that_is_not_a_tfrecord_is_data_loss(base):
    (base / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"not a TFRecord at all")
    command = [
        sys.executable,
        "-m",
        "rnn_serving.model_server",
        f"--model_base_path={base}",
        "--max_num_load_retries=0",
    ]
    with started(*command, f"--port={server_processes.free_port()}", ready="did not become available") as server:
        assert server.process.wait(LIMIT_S) == 255
        assert "DATA_LOSS" in server.output()
        assert "Please verify your warmup data is in TFRecord format." in server.output()


@pytest.mark.slow
def test_a_disabled_warm_up_does_not_read_the_file(base):
    (base / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"not a TFRecord at all")
    with start_model_server(base, "--enable_model_warmup=false") as server:
        assert Client(server.ready[1]).states() == {1: AVAILABLE}


def config_text(base, **models):
    return (
        "model_config_list {"
        + "".join(
            f' config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {settings} }}'
            for name, settings in models.items()
        )
        + "}"
    )


@pytest.mark.slow
def test_a_configuration_file_is_polled_and_a_broken_one_changes_nothing(base, tmp_path):
    publish_copy(base / "1", base, 2)
    config = tmp_path / "models.config"
    config.write_text(config_text(base, mnist="model_version_policy { specific { versions: 1 } }"))
    flags = (f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1", *FAST)
    with start_model_server("/ignored", *flags) as server:
        client = Client(server.ready[1])
        assert client.states() == {1: AVAILABLE}
        config.write_text("model_config_list { config {")
        server.wait_for("Invalid protobuf file")
        assert client.states() == {1: AVAILABLE}
        config.write_text(config_text(base, mnist="model_version_policy { all {} }", other=""))
        client.wait_for({1: AVAILABLE, 2: AVAILABLE})
        client.wait_for({2: AVAILABLE}, "other")
        config.write_text(config_text(base, other=""))
        client.wait_for({1: END, 2: END})


def test_a_unix_socket_is_served_without_a_port(base, tmp_path):
    path = tmp_path / "grpc.sock"
    command = ["-m", "rnn_serving.model_server", "--port=0", f"--grpc_socket_path={path}", "--model_name=mnist"]
    with started(sys.executable, *command, f"--model_base_path={base}", ready="Running gRPC ModelServer"):
        assert Client(f"unix:{path}").answering_version() == 1


@pytest.mark.slow
def test_a_tflite_model_is_refused_if_it_is_preferred(base):
    (base / "1" / "model.tflite").write_bytes(b"")
    with start_model_server(base) as server:
        assert Client(server.ready[1]).answering_version() == 1
    command = [sys.executable, "-m", "rnn_serving.model_server", f"--model_base_path={base}", "--prefer_tflite_model"]
    flags = [f"--port={server_processes.free_port()}", "--max_num_load_retries=0"]
    with started(*command, *flags, ready="UNIMPLEMENTED.*TFLite models are not supported") as server:
        assert server.process.wait(LIMIT_S) == 255


@pytest.mark.parametrize(
    "state", ["waiting for a version", pytest.param("trying a broken one again", marks=pytest.mark.slow)]
)
def test_a_server_that_is_not_ready_yet_can_be_stopped(tmp_path, state):
    line = "Could not find base path"
    if state.startswith("trying"):
        (tmp_path / "mnist" / "1").mkdir(parents=True)
        line = "Loading servable: .* failed"
    command = [sys.executable, "-m", "rnn_serving.model_server", f"--port={server_processes.free_port()}"]
    with started(*command, f"--model_base_path={tmp_path}/mnist", ready=line) as server:
        assert server.stop(signal.SIGTERM, limit_s=15) == 0


@pytest.mark.parametrize("flags", [(), ("--enable_batching",)], ids=["in threads", "with batching"])
def test_calls_that_clients_keep_open_do_not_delay_the_stop(base, flags):
    with start_model_server(base, "--enable_grpc_healthcheck_service", *flags) as server:
        client = Client(server.ready[1])
        watch = client.channel.unary_stream("/grpc.health.v1.Health/Watch")
        watches = [watch(request, timeout=60) for request in (b"", b"\x0a\x0cModelService", b"\x0a\x07unknown")]
        assert [next(one) for one in watches] == [b"\x08\x01", b"\x08\x01", b"\x08\x03"]
        reflect = client.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        requests_end = threading.Event()
        reflection = reflect(iter_until(requests_end, b"\x3a\x00"), timeout=60)
        assert b"tensorflow.serving.PredictionService" in next(reflection)
        wrong = config_text(base / "nowhere", other="")
        config = text_format.Parse(wrong, model_server_config_pb2.ModelServerConfig())
        request = model_management_pb2.ReloadConfigRequest(config=config)
        waiting = client.models.HandleReloadConfigRequest.future(request, timeout=60)
        server.wait_for("Could not find base path .*nowhere")
        began = time.monotonic()
        assert server.stop(signal.SIGTERM, limit_s=LIMIT_S) == 0, server.output()
        assert time.monotonic() - began < 8
        for call in (*watches, reflection):
            with pytest.raises(grpc.RpcError) as error:
                next(call)
            # Whichever comes first: the end of the call, or of its connection.
            assert error.value.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert waiting.exception().code() == grpc.StatusCode.UNAVAILABLE
        requests_end.set()
        assert "Traceback" not in server.output()


def iter_until(end, *requests):
    """Yield requests, then keep the stream open."""
    yield from requests
    end.wait(60)


HOLD_THE_LOCK = """
import sys, threading, time

# The main thread is interrupted where it holds the lock of an event, as `Event.wait` does for a moment.
def wait(event, timeout=None):
    with event._cond:
        if sys._getframe(1).f_code.co_name == "serve_calls":
            print("holds the lock", flush=True)
            time.sleep(1)
    return original(event, timeout)

original, threading.Event.wait = threading.Event.wait, wait
from rnn_serving.model_server.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_signal_while_the_server_begins_to_wait_stops_it(base):
    flags = [f"--port={server_processes.free_port()}", "--model_name=mnist", f"--model_base_path={base}"]
    with started(sys.executable, "-c", HOLD_THE_LOCK, *flags) as server:
        server.wait_for("holds the lock")
        assert server.stop(limit_s=LIMIT_S) == 0


def test_rest_refuses_new_requests_and_finishes_those_in_flight_at_shutdown(base):
    port = server_processes.free_port()
    with start_model_server(base, f"--rest_api_port={port}") as server, requests.Session() as session:
        server.wait_for("Exporting HTTP/REST API")
        url = f"http://127.0.0.1:{port}/v1/models/mnist"
        assert session.get(url, timeout=10).ok
        images = np.zeros((5000, 28, 28)).tolist()
        with ThreadPoolExecutor() as pool:
            # With a second list elsewhere, numbers take the exact path, which is slow.
            body = {"ignored": [], "instances": images}
            slow = pool.submit(requests.post, url + ":predict", json=body, timeout=60)
            # From here on the request is in flight, so it must be answered.
            wait_for_cpu(server.process.pid)
            server.process.send_signal(signal.SIGTERM)
            statuses = set()
            with contextlib.suppress(requests.ConnectionError):
                while 503 not in statuses:
                    statuses.add(session.get(url, timeout=10).status_code)
            assert slow.result(60).status_code == 200, server.output()
        assert statuses <= {200, 503}
        assert server.process.wait(LIMIT_S) == 0
        assert "Traceback" not in server.output()


def wait_for_cpu(pid):
    """Wait until an idle process has used half a second of CPU time."""
    cpu_at_start, deadline = cpu_seconds(pid), time.monotonic() + LIMIT_S
    while cpu_seconds(pid) < cpu_at_start + 0.5:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")
