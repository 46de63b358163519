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

from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

SERVED_BY = ("x-served-by", "rnn_serving.model_server")
IMAGE = np.zeros((1, 28, 28), np.float32)


@pytest.fixture(scope="module", params=["in threads", "with batching"])
def channel(request, export_base):
    """A channel to a server, for both ways to handle calls."""
    with contextlib.ExitStack() as stack:
        if request.param == "in threads":
            address = request.getfixturevalue("grpc_address")
        else:
            address = stack.enter_context(start_model_server(export_base, "--enable_batching")).ready[1]
        yield stack.enter_context(grpc.insecure_channel(address))


def predict_request(**inputs):
    request = predict_pb2.PredictRequest(model_spec={"name": "mnist"})
    for alias, value in (inputs or {"x_input": IMAGE}).items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return request


def test_predict_answers_the_checkpoints_logits_in_the_typed_field(channel, checkpoint_dir, test_images):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response, call = stub.Predict.with_call(predict_request(x_input=test_images.images[:9]), timeout=10)
    expected, _ = checkpoint.load_model(checkpoint.find(checkpoint_dir))(test_images.images[:9])
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["y_output"]), expected, atol=1e-5)
    assert len(response.outputs["y_output"].float_val) == 90
    assert response.model_spec.name == "mnist"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    assert SERVED_BY in call.trailing_metadata()
    assert call.initial_metadata() == ()


METHODS = [
    "PredictionService/Predict",
    "PredictionService/Classify",
    "PredictionService/Regress",
    "PredictionService/MultiInference",
    "PredictionService/GetModelMetadata",
    "ModelService/GetModelStatus",
    "ModelService/HandleReloadConfigRequest",
]


# One error for each way to fail; test_conformance.py has the others.
@pytest.mark.parametrize(
    ("method", "content", "code", "details"),
    [
        *((method, b"\xff\xff", "INTERNAL", "Exception deserializing request!") for method in METHODS),
        ("PredictionService/Predict", b"", "INVALID_ARGUMENT", "Missing ModelSpec"),
        (
            "PredictionService/Predict",
            predict_request(x_input=IMAGE.astype(np.int32)).SerializeToString(),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but int32 is provided",
        ),
        ("ModelService/GetModelStatus", b"", "INVALID_ARGUMENT", "Missing ModelSpec"),
    ],
)
def test_an_error_has_code_and_details_and_names_the_server(channel, method, content, code, details):
    call = channel.unary_unary(f"/tensorflow.serving.{method}")
    with pytest.raises(grpc.RpcError) as error:
        call(content, timeout=10)
    assert (error.value.code().name, error.value.details()) == (code, details)
    assert SERVED_BY in error.value.trailing_metadata()


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
        (["--ssl_config_file=/a", "--model_base_path=/a"], "NOT_FOUND: /a; No such file or directory"),
        (
            ["--port=0", "--model_base_path=/a"],
            "server_options.grpc_port or server_options.grpc_socket_path must be set",
        ),
        (["--batching_parameters_file=/a", "--model_base_path=/a"], "without setting server_options.enable_batching"),
        (
            ["--model_base_path=gs://bucket/m"],
            "UNIMPLEMENTED: File system scheme 'gs' not implemented (file: 'gs://bucket/m'): gs://bucket/m: "
            "import of gcsfs halted; None in sys.modules; expected pip install -e '.[gs]'\n",
        ),
        (["--model_config_file=/nonexistent/f"], "Error: NOT_FOUND: /nonexistent/f; No such file or directory"),
    ],
)
def test_an_invalid_command_line_ends_with_status_255(flags, message, capsys, monkeypatch):
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # keep the log of this process
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert model_server_main(flags) == 255
    assert message in capsys.readouterr().out


def test_a_batching_parameter_that_is_wrong_ends_the_start(tmp_path, capsys):
    path = tmp_path / "batching"
    path.write_text("num_batch_threads { value: 0 }")
    argv = ["--model_base_path=/a", "--enable_batching", f"--batching_parameters_file={path}"]
    assert model_server_main(argv) == 255
    expected = "Failed to start server. Error: INVALID_ARGUMENT: num_batch_threads must be positive; was 0\n"
    assert capsys.readouterr().out == expected


def test_an_invalid_command_line_ends_the_process_without_a_traceback():
    ended = server_command("--model_config_file=/nonexistent/f")
    assert ended.returncode == 255
    assert "Error: NOT_FOUND: /nonexistent/f; No such file or directory" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_version_prints_two_lines():
    ended = server_command("--version")
    assert ended.returncode == 0
    assert len(ended.stdout.splitlines()) == 2


def test_a_file_that_does_not_parse_is_explained_on_stderr(tmp_path):
    path = tmp_path / "models.config"
    path.write_text("model_config_list {\n  config { nam: 3 }\n}")
    ended = server_command(f"--model_config_file={path}")
    assert ended.returncode == 255
    assert f"Error parsing text-format tensorflow.serving.ModelServerConfig: {path}: 2:12 : " in ended.stderr
    assert f"Error: INVALID_ARGUMENT: Invalid protobuf file: '{path}'" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_an_error(export_base):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = server_command(f"--port={taken.getsockname()[1]}", f"--model_base_path={export_base}")
    assert ended.returncode == 255
    assert "Failed to start server. Error: INVALID_ARGUMENT: Failed to BuildAndStart gRPC server" in ended.stdout


@pytest.mark.slow
def test_a_broken_version_is_retried_then_ends_the_server(tmp_path):
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


@pytest.mark.slow
def test_the_port_stays_closed_until_a_version_is_available(export, tmp_path):
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
            stub.Predict(predict_request(), timeout=10)
            # A model call of about a second, so that the signal arrives while it runs.
            images = np.zeros((20_000, 28, 28), np.float32)
            calls = [stub.Predict.future(predict_request(x_input=images), timeout=60) for _ in range(2)]
            # Once this is answered, the calls above have been sent: they are in flight or done.
            stub.Predict(predict_request(), timeout=60)
            status = server.stop(how)
            assert [call.result().model_spec.version.value for call in calls] == [1, 1]
        assert status == 0
        assert "Traceback" not in server.output()


@pytest.mark.slow
def test_the_server_starts_without_start_up_noise(export_base):
    with start_model_server(export_base) as server:
        assert [line.split(" ", 3)[3] for line in server.output().splitlines()] == [
            "Successfully loaded servable version {name: mnist version: 1}",
            f"Running gRPC ModelServer at {server.ready[1]} ...",
        ]
