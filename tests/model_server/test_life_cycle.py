import contextlib
import os
import shutil
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import requests
from conftest import start_model_server, started

from rnn_serving import exports, processes
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

LIMIT_S = 30
START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50


class Asker:
    """What a client sees of a server."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.predictions = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    def states(self, name="mnist"):
        """Return {version: state} as the status tells it, {} for a model that it does not know."""
        asked = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": name})
        try:
            answer = self.models.GetModelStatus(asked, timeout=10)
        except grpc.RpcError:
            return {}
        return {status.version: status.state for status in answer.model_version_status}

    def error(self, version):
        """Return (code, message) of a version's status."""
        asked = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "mnist"})
        (found,) = (
            status.status
            for status in self.models.GetModelStatus(asked, timeout=10).model_version_status
            if status.version == version
        )
        return found.error_code, found.error_message

    def answering_version(self):
        """Return the version that answers a request which names none."""
        request = predict_pb2.PredictRequest(model_spec={"name": "mnist"})
        request.inputs["x_input"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 28, 28), np.float32)))
        return self.predictions.Predict(request, timeout=10).model_spec.version.value

    def wait_for(self, states, name="mnist"):
        """Return once the status tells these states, asking until then."""
        deadline = time.monotonic() + LIMIT_S
        while (found := self.states(name)) != states:
            assert time.monotonic() < deadline, f"states are {found}, expected {states}"
            time.sleep(0.05)


@pytest.fixture
def base(export_base, tmp_path):
    """A directory of versions of its own, with version 1."""
    shutil.copytree(export_base, tmp_path / "mnist")
    return tmp_path / "mnist"


def publish(base, version):
    with exports.publishing(base, version) as staging:
        shutil.copytree(base / "1", staging, dirs_exist_ok=True)


FAST = ("--file_system_poll_wait_seconds=1", "--max_num_load_retries=1", "--load_retry_interval_micros=1000")


def test_a_new_version_takes_over_and_deleting_it_rolls_back(base):
    with start_model_server(base, *FAST) as server:
        asker = Asker(server.ready[1])
        assert asker.states() == {1: AVAILABLE}
        publish(base, 2)
        asker.wait_for({1: END, 2: AVAILABLE})
        assert asker.answering_version() == 2
        shutil.rmtree(base / "2")
        asker.wait_for({1: AVAILABLE, 2: END})
        assert asker.answering_version() == 1
        shutil.rmtree(base / "1")
        asker.wait_for({1: END, 2: END})
        with pytest.raises(grpc.RpcError, match="Servable not found for request: Latest"):
            asker.answering_version()


def test_a_version_that_does_not_load_shows_why_and_the_old_one_goes_on_serving(base):
    with start_model_server(base, *FAST) as server:
        asker = Asker(server.ready[1])
        (base / "2").mkdir()
        (base / "3").write_text("a file")
        asker.wait_for({1: AVAILABLE, 3: END})
        assert asker.error(3)[0] == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        assert asker.error(3)[1].endswith("/mnist/3; Not a directory")
        (base / "3").unlink()
        asker.wait_for({1: AVAILABLE, 2: END, 3: END})
        assert asker.error(2) == (
            grpc.StatusCode.NOT_FOUND.value[0],
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {base}/2",
        )
        assert asker.answering_version() == 1
        publish(base, 4)
        asker.wait_for({1: END, 2: END, 3: END, 4: AVAILABLE})


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
    ids=["log type", "no PredictionLog", "too many", "request that fails"],
)
def test_a_warm_up_that_fails_is_a_load_that_fails(base, logs, code, message):
    with start_model_server(base, *FAST) as server:
        asker = Asker(server.ready[1])
        shutil.copytree(base / "1", base / "new")
        write_warmup(base / "new", *logs)
        (base / "new").rename(base / "2")
        asker.wait_for({1: AVAILABLE, 2: END})
        assert asker.error(2)[0] == getattr(grpc.StatusCode, code).value[0]
        assert message in asker.error(2)[1]


@pytest.mark.slow
def test_a_warm_up_file_that_is_no_tfrecord_is_data_loss(base):
    (base / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"not a TFRecord at all")
    command = [
        sys.executable,
        "-m",
        "rnn_serving.model_server",
        f"--model_base_path={base}",
        "--max_num_load_retries=0",
    ]
    with started(*command, f"--port={processes.free_port()}", ready="did not become available") as server:
        assert server.process.wait(LIMIT_S) == 255
        assert "DATA_LOSS" in server.output()
        assert "Please verify your warmup data is in TFRecord format." in server.output()


@pytest.mark.slow
def test_a_warm_up_that_is_switched_off_is_not_read(base):
    (base / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"not a TFRecord at all")
    with start_model_server(base, "--enable_model_warmup=false") as server:
        assert Asker(server.ready[1]).states() == {1: AVAILABLE}


def config_text(base, **models):
    return (
        "model_config_list {"
        + "".join(
            f' config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {more} }}'
            for name, more in models.items()
        )
        + "}"
    )


def test_a_configuration_file_is_polled_and_a_broken_one_changes_nothing(base, tmp_path):
    publish(base, 2)
    config = tmp_path / "models.config"
    config.write_text(config_text(base, mnist="model_version_policy { specific { versions: 1 } }"))
    flags = (f"--model_config_file={config}", "--model_config_file_poll_wait_seconds=1", *FAST)
    with start_model_server("/ignored", *flags) as server:
        asker = Asker(server.ready[1])
        assert asker.states() == {1: AVAILABLE}
        config.write_text("model_config_list { config {")
        server.wait_for("Invalid protobuf file")
        assert asker.states() == {1: AVAILABLE}
        config.write_text(config_text(base, mnist="model_version_policy { all {} }", other=""))
        asker.wait_for({1: AVAILABLE, 2: AVAILABLE})
        asker.wait_for({2: AVAILABLE}, "other")
        config.write_text(config_text(base, other=""))
        asker.wait_for({1: END, 2: END})


def test_a_unix_socket_is_served_without_a_port(base, tmp_path):
    path = tmp_path / "grpc.sock"
    command = ["-m", "rnn_serving.model_server", "--port=0", f"--grpc_socket_path={path}", "--model_name=mnist"]
    with started(sys.executable, *command, f"--model_base_path={base}", ready="Running gRPC ModelServer"):
        assert Asker(f"unix:{path}").answering_version() == 1


@pytest.mark.slow
def test_a_tflite_model_is_refused_where_it_would_be_loaded(base):
    (base / "1" / "model.tflite").write_bytes(b"")
    with start_model_server(base) as server:
        assert Asker(server.ready[1]).answering_version() == 1
    command = [sys.executable, "-m", "rnn_serving.model_server", f"--model_base_path={base}", "--prefer_tflite_model"]
    flags = [f"--port={processes.free_port()}", "--max_num_load_retries=0"]
    with started(*command, *flags, ready="UNIMPLEMENTED.*TFLite models are not served") as server:
        assert server.process.wait(LIMIT_S) == 255


@pytest.mark.parametrize(
    "state", ["waiting for a version", pytest.param("trying a broken one again", marks=pytest.mark.slow)]
)
def test_a_server_that_is_not_ready_yet_can_be_stopped(tmp_path, state):
    line = "Could not find base path"
    if state.startswith("trying"):
        (tmp_path / "mnist" / "1").mkdir(parents=True)
        line = "Loading servable: .* failed"
    command = [sys.executable, "-m", "rnn_serving.model_server", f"--port={processes.free_port()}"]
    with started(*command, f"--model_base_path={tmp_path}/mnist", ready=line) as server:
        assert server.stop(signal.SIGTERM, limit_s=15) == 0


def test_rest_refuses_new_requests_and_finishes_those_in_flight_when_told_to_stop(base):
    port = processes.free_port()
    with start_model_server(base, f"--rest_api_port={port}") as server, requests.Session() as session:
        server.wait_for("Exporting HTTP/REST API")
        url = f"http://127.0.0.1:{port}/v1/models/mnist"
        assert session.get(url, timeout=10).ok
        images = np.zeros((5000, 28, 28)).tolist()
        with ThreadPoolExecutor() as pool:
            slow = pool.submit(requests.post, url + ":predict", json={"instances": images}, timeout=60)
            # Received and being worked on: from then on it has to be answered.
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
    """Return once a process that was idle has used half a second of CPU time."""
    began, deadline = cpu_seconds(pid), time.monotonic() + LIMIT_S
    while cpu_seconds(pid) < began + 0.5:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")
