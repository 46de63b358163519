"""The Ray Serve application on one node: what it answers is what the model server and the Flask endpoint answer."""

import contextlib
import functools
import importlib.util
import json
import os
import secrets
import socket
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from conftest import BAD_INPUT, publish_copy, started
from endpoint_processes import children, wait_until

import flask_client
import tfserving_client
from benchmarks.server_processes import free_port
from deploy.ray.__main__ import main
from rnn_serving import checkpoint
from rnn_serving.clients.http_json import direct_session
from rnn_serving.clients.load import run_load
from rnn_serving.clients.signature import ModelQuery
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

READY = r"HTTP at (http://\S+/)"
IMAGE = np.zeros((1, 28, 28), np.float32)


def start_cluster(model_base_path, *flags):
    """Start `python -m deploy.ray` on free ports; return what `started` does, and the gRPC port."""
    ports = free_port(), free_port()
    command = [sys.executable, "-m", "deploy.ray", "--model_base_path", model_base_path]
    command += ["--port", ports[0], "--http_port", ports[1], *flags]
    # Otherwise Ray would write a token to the home directory.
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return started(*command, ready=READY, env=environment), ports[0]


@pytest.fixture(scope="module")
def base(export_base, tmp_path_factory):
    """A directory of versions that the tests may change, with version 1."""
    base = tmp_path_factory.mktemp("cluster") / "mnist"
    publish_copy(export_base, base, 1)
    return base


@pytest.fixture(scope="module")
def cluster(base):
    """(URL, gRPC port, process) of a running application with one replica."""
    context, grpc_port = start_cluster(base)
    with context as server:
        yield server.ready[1], grpc_port, server
        assert server.stop() == 0
        assert "Traceback" not in server.output()


@pytest.fixture(scope="module")
def channel(cluster):
    with grpc.insecure_channel(f"127.0.0.1:{cluster[1]}") as channel:
        yield channel


@pytest.fixture(scope="module")
def model_server(grpc_address):
    with grpc.insecure_channel(grpc_address) as channel:
        yield channel


def test_both_clients_grade_it_with_the_accuracy_of_training(cluster, data_dir, checkpoint_dir, tmp_path):
    accuracy = checkpoint.read_run(checkpoint_dir)["testing_accuracy"]
    http_port = cluster[0].rstrip("/").rsplit(":", 1)[1]
    for client, port, server in (
        (tfserving_client.main, cluster[1], "deploy.ray"),
        (flask_client.main, http_port, "flask"),
    ):
        flags = ["--port", str(port), "--concurrency", "4", "--json", str(tmp_path / server)]
        assert client(["--data_dir", str(data_dir), *flags]) == 0
        report = json.loads((tmp_path / server).read_text())
        assert (report["accuracy"], report["server"], report["dataset"]) == (accuracy, server, "digits")


@pytest.mark.parametrize(("body", "content_type", "status", "message"), BAD_INPUT)
def test_the_endpoint_s_errors_are_those_of_flask(cluster, body, content_type, status, message):
    with direct_session() as session:
        answer = session.post(cluster[0], data=body, headers={"Content-Type": content_type}, timeout=30)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert answer.headers["X-Served-By"] == "deploy.ray"


@pytest.mark.parametrize(
    "path",
    ["metadata", "", "healthz", "readyz", "metrics", "nope", "?data=1", "a%20b", "/nope", "/abc/healthz", "%C3%A4"],
)
def test_the_endpoint_s_other_paths_answer_as_under_our_worker(cluster, flask_url, path):
    with direct_session() as session:
        ours, theirs = (session.get(url + path, timeout=30) for url in (cluster[0], flask_url))
    assert (ours.status_code, ours.headers["Content-Type"]) == (theirs.status_code, theirs.headers["Content-Type"])
    assert ours.headers.get("X-Model-Version") == theirs.headers.get("X-Model-Version")
    if path != "metrics":
        assert ours.content == theirs.content


def predict_request(name="mnist", version=None, **inputs):
    request = predict_pb2.PredictRequest(model_spec={"name": name})
    if version:
        request.model_spec.version.value = version
    for key, value in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
    return request


def metadata_request(*fields, name="mnist"):
    return get_model_metadata_pb2.GetModelMetadataRequest(model_spec={"name": name}, metadata_field=fields)


def outcome(channel, method, request):
    """Return what a call answers, an error as its status, and the server's name."""
    services = (prediction_service_pb2_grpc.PredictionServiceStub, model_service_pb2_grpc.ModelServiceStub)
    stub = next(stub for stub in (make(channel) for make in services) if hasattr(stub, method))
    try:
        response, call = getattr(stub, method).with_call(request, timeout=30)
        found = response
    except grpc.RpcError as error:
        call, found = error, (error.code(), error.details())
    return found, dict(call.trailing_metadata())["x-served-by"]


STATUS = get_model_status_pb2.GetModelStatusRequest


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Predict", predict_request(x_input=IMAGE)),
        ("Predict", predict_request(x_input=np.zeros((100, 28, 28), np.float32))),  # more rows than a batch
        ("Predict", predict_pb2.PredictRequest()),
        ("Predict", predict_request("nope", x_input=IMAGE)),
        ("Predict", predict_request(version=7, x_input=IMAGE)),
        ("Predict", predict_request()),
        ("Predict", predict_request(x_input=IMAGE, more=IMAGE)),
        ("Predict", predict_request(x_input=np.zeros((1, 3), np.float32))),
        ("Predict", predict_request(x_input=["text"])),
        ("Classify", classification_pb2.ClassificationRequest(model_spec={"name": "mnist"})),
        ("Regress", regression_pb2.RegressionRequest(model_spec={"name": "mnist"})),
        ("MultiInference", inference_pb2.MultiInferenceRequest()),
        ("GetModelMetadata", metadata_request("signature_def")),
        ("GetModelMetadata", metadata_request()),
        ("GetModelMetadata", metadata_request("signature_def", name="nope")),
        ("GetModelStatus", STATUS(model_spec={"name": "mnist"})),
        ("GetModelStatus", STATUS(model_spec={"name": "nope"})),
    ],
)
def test_a_call_is_answered_as_by_the_model_server(channel, model_server, method, request_):
    (ours, ours_by), (theirs, theirs_by) = (outcome(each, method, request_) for each in (channel, model_server))
    assert ours == theirs
    assert (ours_by, theirs_by) == ("deploy.ray", "rnn_serving.model_server")


def test_a_reload_is_refused(channel):
    request = model_management_pb2.ReloadConfigRequest()
    (code, details), served_by = outcome(channel, "HandleReloadConfigRequest", request)
    assert (code, served_by) == (grpc.StatusCode.UNIMPLEMENTED, "deploy.ray")
    assert "set where it is deployed" in details


def served_version(url):
    with direct_session() as session:
        return session.get(url + "metadata", timeout=30).json()["version"]


def test_a_new_version_goes_live_a_rollback_brings_the_old_one_back_and_a_broken_one_is_ignored(cluster, channel, base):
    url = cluster[0]
    publish_copy(base / "1", base, 2)
    wait_until(lambda: served_version(url) == 2)
    (base / "2").rename(base / "withdrawn")
    wait_until(lambda: served_version(url) == 1)
    (base / "3").mkdir()
    (base / "3" / "saved_model.pb").write_bytes(b"broken")
    wait_until(lambda: error_code_of(channel, 3) == grpc.StatusCode.DATA_LOSS.value[0])
    assert served_version(url) == 1


def error_code_of(channel, version):
    """Return the error code of a version as the cluster reports it, None for a version that it does not know."""
    response, _ = outcome(channel, "GetModelStatus", STATUS(model_spec={"name": "mnist"}))
    return {each.version: each.status.error_code for each in response.model_version_status}.get(version)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_base_path", "/nowhere"], "no exported model; expected /nowhere/<version>/saved_model.pb"),
        (["--model_base_path", "nope://bucket/mnist"], "nope://bucket/mnist: unknown scheme 'nope'; expected a path"),
        (["--min_replicas", "0"], "--min_replicas=0: Input should be greater than or equal to 1"),
        (["--min_replicas", "3", "--max_replicas", "2"], "max_replicas is 2; expected at least 3"),
        (["--max_ongoing_requests", "x"], "--max_ongoing_requests=x: Input should be a valid integer"),
        (["--batching", "maybe"], "--batching=maybe: "),
        (["--request_timeout", "inf"], "--request_timeout=inf: Input should be a finite number"),
        (["--port", "0"], "--port 0, --http_port 1: expected two ports from 1 to 65535"),
        (["--port", "1"], "--port 1, --http_port 1: expected two ports from 1 to 65535"),
        (["--port", "70000"], "'70000' is not a port from 0 to 65535"),
        (
            ["--address", "127.0.0.1:1"],
            "--address 127.0.0.1:1: Connection refused; expected a running Ray cluster",
        ),
        (["--address", "127.0.0.1:abc"], "argument --address: '127.0.0.1:abc' is not the address"),
        (["--address", "127.0.0.1:99999"], "argument --address: '127.0.0.1:99999' is not the address"),
        (["--address", "head"], "argument --address: 'head' is not HOST:PORT"),
        (
            ["--address", "ray://127.0.0.1:1"],
            "argument --address: 'ray://127.0.0.1:1' is not HOST:PORT of a Ray cluster",
        ),
    ],
)
def test_a_wrong_flag_is_an_error_before_anything_starts(export_base, flags, message, capsys):
    with pytest.raises((UserError, SystemExit)) as raised:
        main(["--model_base_path", str(export_base), "--port", "2", "--http_port", "1", *flags])
    assert message in f"{raised.value} {capsys.readouterr().err}"


@pytest.mark.parametrize(
    ("flag", "host"), [("--port", "0.0.0.0"), ("--port", "127.0.0.1"), ("--http_port", "127.0.0.1")]
)
def test_a_port_in_use_is_an_error_at_once(export_base, flag, host):
    with socket.create_server((host, 0)) as taken:
        ports = {"--port": free_port(), "--http_port": free_port(), flag: taken.getsockname()[1]}
        flags = [str(part) for pair in ports.items() for part in pair]
        with pytest.raises(UserError, match=rf"Address already in use; expected a free port \({flag}\)"):
            main(["--model_base_path", str(export_base), *flags])


def test_without_ray_the_command_says_what_to_install(export_base, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(UserError, match=r"Ray is not installed; expected ray\[serve\], as pip install"):
        main(["--model_base_path", str(export_base)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "is_broken", "message"),
    [
        (
            ["--min_replicas", "100", "--start_timeout", "15"],
            False,
            "the others need .* cores and .* are free; expected more nodes",
        ),
        ([], True, "the application is DEPLOY_FAILED: .*1 servable.s. did not become available"),
    ],
)
def test_a_cluster_that_cannot_run_the_application_says_why(export_base, tmp_path, flags, is_broken, message):
    base = tmp_path / "mnist"
    publish_copy(export_base, base, 1)
    if is_broken:
        (base / "1" / "saved_model.pb").write_bytes(b"broken")
    context, _ = start_cluster(base, *flags)
    with pytest.raises(AssertionError, match=message), context:
        pass


def replicas(pid):
    """Return how many replicas run in the processes that a process has started, and they in turn."""
    try:
        own = "ServeReplica" in Path(f"/proc/{pid}/cmdline").read_text()
        return own + sum(map(replicas, children(pid)))
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0


@pytest.mark.slow
def test_more_requests_than_may_wait_are_refused_and_the_others_answered(export_base, test_images):
    context, grpc_port = start_cluster(export_base, "--max_ongoing_requests", "1", "--max_queued_requests", "2")
    with context as server:
        query = ModelQuery("mnist", "serving_default", "x_input", "y_output")
        with tfserving_client.open_grpc(f"127.0.0.1:{grpc_port}", query) as (_, connect):
            over_grpc = run_load(connect, test_images, concurrency=16)
        over_http = run_load(
            functools.partial(flask_client.connect, server.ready[1], 10.0), test_images, concurrency=16
        )
    for load, refusal in ((over_grpc, "RESOURCE_EXHAUSTED: "), (over_http, "status 503 ")):
        assert load.errors
        assert all(refusal in error for error in load.errors), load.errors
        assert load.latencies_s


@pytest.mark.slow
def test_load_adds_replicas_up_to_the_limit(export_base, test_images):
    flags = ["--max_replicas", "2", "--target_ongoing_requests", "1", "--cpus_per_replica", "0.5"]
    context, grpc_port = start_cluster(export_base, *flags)
    with context as server:
        assert replicas(server.process.pid) == 1
        query = ModelQuery("mnist", "serving_default", "x_input", "y_output")
        with tfserving_client.open_grpc(f"127.0.0.1:{grpc_port}", query) as (_, connect):

            def has_grown():
                assert run_load(connect, test_images, concurrency=8).errors == []
                return replicas(server.process.pid) == 2

            wait_until(has_grown, limit_s=120)


@pytest.mark.slow
def test_a_replica_whose_model_has_gone_is_replaced_and_serves_the_next_version(export_base, tmp_path):
    base = tmp_path / "mnist"
    publish_copy(export_base, base, 1)
    context, _ = start_cluster(base)
    with context as server:
        (base / "1").rename(base / "withdrawn")
        wait_until(lambda: not answers(server.ready[1]))
        publish_copy(export_base, base, 2)
        wait_until(lambda: answers(server.ready[1]), limit_s=120)
        assert served_version(server.ready[1]) == 2


def answers(url):
    with direct_session() as session, contextlib.suppress(requests.RequestException):
        return session.get(url + "readyz", timeout=5).ok
    return False
