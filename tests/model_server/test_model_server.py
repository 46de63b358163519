import contextlib
import logging
import signal
import socket
import sys

import grpc
import numpy as np
import pytest
from conftest import run_script, start_model_server, started

from rnn_serving import checkpoint
from rnn_serving.model_server.__main__ import main as model_server_main
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

IMAGE = np.zeros((1, 28, 28), np.float32)


@pytest.fixture(scope="module", params=["in threads", "with batching"])
def channel(request, export_base):
    """A channel to a server, one for each way of taking calls."""
    with contextlib.ExitStack() as stack:
        if request.param == "in threads":
            address = request.getfixturevalue("grpc_address")
        else:
            address = stack.enter_context(start_model_server(export_base, "--enable_batching")).ready[1]
        yield stack.enter_context(grpc.insecure_channel(address))


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def request(name="mnist", version=None, signature="", output_filter=(), **inputs):
    made = predict_pb2.PredictRequest(output_filter=output_filter)
    made.model_spec.name = name
    made.model_spec.signature_name = signature
    if version is not None:
        made.model_spec.version.value = version
    for alias, value in (inputs or {"x_input": IMAGE}).items():
        made.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return made


def test_predict_answers_the_checkpoints_logits_in_the_typed_field(stub, checkpoint_dir, test_images):
    response, call = stub.Predict.with_call(request(x_input=test_images.images[:9]), timeout=10)
    expected, _ = checkpoint.load_model(checkpoint.latest(checkpoint_dir))(test_images.images[:9])
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["y_output"]), expected, atol=1e-5)
    assert len(response.outputs["y_output"].float_val) == 90
    assert response.model_spec.name == "mnist"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    assert ("x-served-by", "rnn_serving.model_server") in call.trailing_metadata()
    assert call.initial_metadata() == ()


def test_a_message_larger_than_grpcs_default_limit_is_answered(grpc_address):
    with grpc.insecure_channel(grpc_address, [("grpc.max_send_message_length", -1)]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        images = np.zeros((2000, 28, 28), np.float32)
        response = stub.Predict(request(x_input=images), timeout=60)
    assert tf.make_ndarray(response.outputs["y_output"]).shape == (2000, 10)


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("asked", "code", "details"),
    [
        (predict_pb2.PredictRequest(), INVALID, "Missing ModelSpec"),
        (request(name=""), INVALID, "ModelSpec has no name specified."),
        (request(name="nope"), NOT_FOUND, "Servable not found for request: Latest(nope)"),
        (request(version=9), NOT_FOUND, "Servable not found for request: Specific(mnist, 9)"),
        (request(signature="s"), grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "s" not found.'),
        (
            request(x_input=IMAGE, b=IMAGE, a=IMAGE),
            INVALID,
            "input size does not match signature: 3!=1 len({a,b,x_input}) != len({x_input}). "
            "Sent extra: {a,b}. Missing but required: {}.",
        ),
        (
            request(x=IMAGE),
            INVALID,
            "Signature input alias: x_input(feed name: Input_X:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {x}, or default input alias set: ",
        ),
        (
            request(output_filter=["y"]),
            INVALID,
            "output tensor alias not found in signature: y Outputs expected to be in the set {y_output}.",
        ),
        (request(output_filter=["y_output"] * 2), INVALID, "duplicate output tensor alias: y_output"),
        (request(x_input=IMAGE.astype(np.int32)), INVALID, "Expects arg[0] to be float but int32 is provided"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_wrong_predict_request_gets_the_code_and_words_of_the_contract(stub, asked, code, details):
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(asked, timeout=10)
    assert (error.value.code(), error.value.details()) == (code, details)
    assert ("x-served-by", "rnn_serving.model_server") in error.value.trailing_metadata()


def test_an_input_of_another_shape_is_for_the_ops_to_judge(stub):
    with pytest.raises(grpc.RpcError) as error:
        stub.Predict(request(x_input=np.zeros((1, 27, 28), np.float32)), timeout=10)
    assert error.value.code() == INVALID
    assert len(error.value.details()) <= 1024


def test_metadata_tells_every_signature(stub):
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = "mnist"
    response = stub.GetModelMetadata(asked, timeout=10)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["x_input"].name == "Input_X:0"
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (1, "")


@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ([], "GetModelMetadataRequest must specify at least one metadata_field"),
        (["signature_def", "x"], "Metadata field x is not supported"),
        (["signature_def"], "Missing ModelSpec"),
    ],
)
def test_a_wrong_metadata_request_gets_the_words_of_the_contract(stub, fields, details):
    with pytest.raises(grpc.RpcError) as error:
        stub.GetModelMetadata(get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields), timeout=10)
    assert (error.value.code(), error.value.details()) == (INVALID, details)


def test_status_tells_the_versions_and_their_state(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    asked = get_model_status_pb2.GetModelStatusRequest()
    for name, version, details in (
        ("", None, "Could not find any versions of model "),
        ("nope", None, "Could not find any versions of model nope"),
        ("mnist", 9, "Could not find version 9 of model mnist"),
    ):
        asked.model_spec.name = name
        if version:
            asked.model_spec.version.value = version
        with pytest.raises(grpc.RpcError) as error:
            stub.GetModelStatus(asked, timeout=10)
        assert (error.value.code(), error.value.details()) == (NOT_FOUND, details)
    asked.model_spec.version.value = 1
    (status,) = stub.GetModelStatus(asked, timeout=10).model_version_status
    assert (status.version, status.state, status.status.error_code) == (1, 30, 0)


def test_an_empty_message_is_a_request_like_any_other(channel):
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as error:
        call(b"", timeout=10)
    assert error.value.details() == "Missing ModelSpec"


@pytest.mark.parametrize(
    "method",
    [
        "PredictionService/Predict",
        "PredictionService/Classify",
        "PredictionService/Regress",
        "PredictionService/MultiInference",
        "PredictionService/GetModelMetadata",
        "ModelService/GetModelStatus",
        "ModelService/HandleReloadConfigRequest",
    ],
)
def test_bytes_that_are_no_message_are_refused(channel, method):
    call = channel.unary_unary(f"/tensorflow.serving.{method}")
    with pytest.raises(grpc.RpcError) as error:
        call(b"\xff\xff", timeout=10)
    assert error.value.code() == grpc.StatusCode.INTERNAL
    assert error.value.details() == "Exception deserializing request!"
    assert ("x-served-by", "rnn_serving.model_server") in error.value.trailing_metadata()


def server_command(*flags):
    return run_script("-m", "rnn_serving.model_server", *flags)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--no_such_flag=1"], "unknown argument: --no_such_flag=1\nusage: "),
        (["--port", "9000"], "unknown argument: --port\nusage: "),
        (["--port=abc"], "--port=abc: expected a value of type int\nusage: "),
        (["--help"], "usage: python -m rnn_serving.model_server\n"),
        ([], "Failed to start server. Error: INVALID_ARGUMENT: Both server_options.model_base_path and "),
        (["--model_base_path=a/b"], "to have an absolute path or URI; got base_path()=a/b"),
        (["--ssl_config_file=/a", "--model_base_path=/a"], "UNIMPLEMENTED: --ssl_config_file=/a: TLS is not served"),
        (
            ["--port=0", "--model_base_path=/a"],
            "server_options.grpc_port or server_options.grpc_socket_path must be set",
        ),
        (["--batching_parameters_file=/a", "--model_base_path=/a"], "without setting server_options.enable_batching"),
        (["--model_config_file=/nonexistent/f"], "Error: NOT_FOUND: /nonexistent/f; No such file or directory"),
    ],
)
def test_a_command_line_that_cannot_be_served_ends_with_status_255(flags, message, capsys, monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # this process's log stays as it is
    assert model_server_main(flags) == 255
    assert message in capsys.readouterr().out


def test_a_command_line_that_cannot_be_served_ends_the_process_without_a_traceback():
    ended = server_command("--model_config_file=/nonexistent/f")
    assert ended.returncode == 255
    assert "Error: NOT_FOUND: /nonexistent/f; No such file or directory" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_version_prints_two_lines():
    ended = server_command("--version")
    assert ended.returncode == 0
    assert len(ended.stdout.splitlines()) == 2


def test_a_port_that_is_taken_is_an_error(export_base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = server_command(f"--port={taken.getsockname()[1]}", f"--model_base_path={export_base}")
    assert ended.returncode == 255
    assert "Failed to start server. Error: INVALID_ARGUMENT: Failed to BuildAndStart gRPC server" in ended.stdout


def test_a_broken_version_is_tried_again_then_ends_the_server(tmp_path):
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "saved_model.pb").write_bytes(b"\xff")
    retries = ("--max_num_load_retries=2", "--load_retry_interval_micros=1000")
    ended = server_command(f"--model_base_path={tmp_path}", "--model_name=m", *retries)
    assert ended.returncode == 255
    assert (
        "Error: UNKNOWN: 1 servable(s) did not become available: {{{name: m version: 4} due to error:" in ended.stdout
    )
    assert ended.stderr.count("Loading servable: {name: m version: 4} failed") == 3
    assert "Traceback" not in ended.stderr


def test_it_waits_with_its_port_closed_until_there_is_a_version(export, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["-m", "rnn_serving.model_server", f"--port={port}", f"--model_base_path={tmp_path / 'mnist'}"]
    with started(sys.executable, *command, ready="Could not find base path") as server:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        export(tmp_path / "mnist")
        server.wait_for("Running gRPC ModelServer")


@pytest.mark.parametrize(
    ("how", "flags"),
    [
        (signal.SIGTERM, ()),
        pytest.param(signal.SIGINT, (), marks=pytest.mark.slow),
        (signal.SIGTERM, ("--enable_batching",)),
    ],
)
def test_a_signal_finishes_calls_in_flight_and_exits_0(export_base, tmp_path, how, flags):
    parameters = tmp_path / "batching_parameters.txt"
    parameters.write_text("max_batch_size { value: 20000 }")
    if flags:
        flags = (*flags, f"--batching_parameters_file={parameters}")
    with start_model_server(export_base, *flags) as server:
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(server.ready[1], options) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            stub.Predict(request(), timeout=10)
            # A model call of about a second, so that the signal comes while it runs.
            images = np.zeros((20_000, 28, 28), np.float32)
            calls = [stub.Predict.future(request(x_input=images), timeout=60) for _ in range(2)]
            # Answered after the calls above were sent: they are in flight, or done.
            stub.Predict(request(), timeout=60)
            status = server.stop(how)
            assert [call.result().model_spec.version.value for call in calls] == [1, 1]
        assert status == 0
        assert "Traceback" not in server.output()


def test_it_starts_without_start_up_noise(export_base):
    with start_model_server(export_base) as server:
        assert [line.split(" ", 3)[3] for line in server.output().splitlines()] == [
            "Successfully loaded servable version {name: mnist version: 1}",
            f"Running gRPC ModelServer at {server.ready[1]} ...",
        ]
