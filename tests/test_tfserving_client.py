import json
import shutil
import sys
from concurrent import futures

import grpc
import numpy as np
import pytest
from conftest import run_script, start_model_server, started

import tfserving_client
from benchmarks import server_processes
from rnn_serving import checkpoint
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import prediction_service_pb2_grpc


def client(address, data_dir, *flags):
    host, port = address.rsplit(":", 1)
    return tfserving_client.main(["--data_dir", str(data_dir), "--host", host, "--port", port, *flags])


def test_the_accuracy_is_that_of_training_and_the_report_names_the_server(
    grpc_address, data_dir, checkpoint_dir, tmp_path
):
    assert client(grpc_address, data_dir, "--json", str(tmp_path / "r.json"), "--concurrency", "4") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["accuracy"] == checkpoint.read_run(checkpoint_dir)["testing_accuracy"]
    assert report["server"] == "rnn_serving.model_server"
    assert (report["protocol"], report["model_version"], report["dataset"]) == ("gRPC", 1, "digits")


def test_it_prints_the_lines_of_the_flask_client(grpc_address, data_dir, capsys):
    assert client(grpc_address, data_dir, "--host", "http://127.0.0.1", "--num_tests", "10", "--batch_size", "4") == 0
    output = capsys.readouterr().out
    for line in ("Accuracy= ", "Time taken= ", "Latency in ms: mean ", "10 images, "):
        assert line in output


def test_rest_is_graded_and_timed_like_grpc(export_base, data_dir, tmp_path):
    rest_port = server_processes.free_port()
    with start_model_server(export_base, f"--rest_api_port={rest_port}") as server:
        reports = []
        for protocol, port in (("grpc", server.ready[1].rsplit(":", 1)[1]), ("rest", rest_port)):
            flags = ["--protocol", protocol, "--batch_size", "7", "--json", str(tmp_path / protocol)]
            server.wait_for("Exporting HTTP/REST API")
            assert client(f"127.0.0.1:{port}", data_dir, *flags) == 0
            reports.append(json.loads((tmp_path / protocol).read_text()))
        assert [report["protocol"] for report in reports] == ["gRPC", "REST"]
        for key in ("server", "model_version", "accuracy", "errors", "num_tests"):
            assert reports[0][key] == reports[1][key]
        with pytest.raises(UserError, match="status 404 .*Servable not found.*expected the name that"):
            client(f"127.0.0.1:{rest_port}", data_dir, "--protocol", "rest", "--model_name", "nope")
    with pytest.raises(UserError, match="Connection refused; expected a server there"):
        client(f"127.0.0.1:{rest_port}", data_dir, "--protocol", "rest", "--wait", "0")


def test_what_a_model_was_trained_on_is_noted_before_it_is_graded_on_other_data(
    export_base, data_dir, tmp_path, capsys
):
    for name in ("clothes", "mes données 100%"):
        shutil.copytree(data_dir, tmp_path / name)
    shutil.copytree(export_base, tmp_path / "mnist")
    origin = {"model": "mnist", "dataset": {"name": "mes données 100%"}}
    (tmp_path / "mnist/1/assets.extra/model.json").write_text(json.dumps(origin))
    rest_port = server_processes.free_port()
    with start_model_server(tmp_path / "mnist", f"--rest_api_port={rest_port}") as server:
        server.wait_for("Exporting HTTP/REST API")
        for protocol, address in (("grpc", server.ready[1]), ("rest", f"127.0.0.1:{rest_port}")):
            for name in ("clothes", "mes données 100%"):
                assert client(address, tmp_path / name, "--protocol", protocol, "--num_tests", "2") == 0
                note = "note: the server's model was trained on mes données 100%; it is graded on clothes\n"
                assert capsys.readouterr().out.startswith(note) == (name == "clothes")


def test_a_proxy_is_not_used_for_loopback(grpc_address, data_dir, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert client(grpc_address, data_dir, "--num_tests", "2") == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model_name", "nope"), "NOT_FOUND: Servable not found for request: Latest(nope); expected the name that"),
        (("--signature_name", "s"), "has no signature 's'; it offers ['serving_default']"),
        (("--input_key", "images"), "has no input 'images' in 'serving_default'; it offers ['x_input']"),
        (("--output_key", "scores"), "has no output 'scores' in 'serving_default'; it offers ['y_output']"),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_what_the_server_offers(grpc_address, data_dir, flags, message):
    with pytest.raises(UserError) as error:
        client(grpc_address, data_dir, *flags)
    assert message in str(error.value)


class FlatInputs(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 100), tf.float32, "x_input")])
    def flat(self, x_input):
        return {"y_output": x_input[:, :10]}


def test_a_model_with_another_input_shape_is_an_error_before_anything_is_timed(tmp_path, data_dir):
    module = FlatInputs()
    tf.saved_model.save(module, str(tmp_path / "mnist" / "1"), signatures={"serving_default": module.flat})
    with start_model_server(tmp_path / "mnist") as server, pytest.raises(UserError) as error:
        client(server.ready[1], data_dir)
    assert str(error.value).endswith(
        "model mnist version 1 takes float32 (None, 100) as 'x_input'; "
        "expected float32 (None, 28, 28), (None, 784) or (None, 28, 28, 1)"
    )


def test_no_server_is_an_error_that_says_how_to_start_one(data_dir):
    with pytest.raises(UserError, match="UNAVAILABLE: .*start one with scripts/serve_tfserving.sh"):
        client("127.0.0.1:9", data_dir, "--wait", "0")


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_a_command_pasted_right_after_the_servers_start_waits_for_it(protocol, export_base, data_dir, capsys):
    ports = {"grpc": server_processes.free_port(), "rest": server_processes.free_port()}
    command = [sys.executable, "-m", "rnn_serving.model_server", "--model_name=mnist", f"--port={ports['grpc']}"]
    with started(*command, f"--rest_api_port={ports['rest']}", f"--model_base_path={export_base}"):
        flags = ["--protocol", protocol, "--num_tests", "3", "--wait", "60"]
        assert client(f"127.0.0.1:{ports[protocol]}", data_dir, *flags) == 0
    captured = capsys.readouterr()
    assert "refused; waiting up to 60 s" in captured.err
    assert "3 images, " in captured.out


class Failing(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Forwards GetModelMetadata to a real server, and fails every Predict."""

    def __init__(self, address):
        self.real = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(address))

    def GetModelMetadata(self, request, context):
        return self.real.GetModelMetadata(request, timeout=10)

    def Predict(self, request, context):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")


def test_errors_are_counted_listed_and_end_with_status_1(grpc_address, data_dir, tmp_path):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Failing(grpc_address), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert client(f"127.0.0.1:{port}", data_dir, "--num_tests", "5", "--json", str(tmp_path / "r.json")) == 1
    server.stop(0)
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["errors"], report["correct"], report["accuracy"]) == (5, 0, 0)
    assert report["server"] == "tensorflow_model_server"
    assert report["error_list"][0] == "image 0: RESOURCE_EXHAUSTED: busy; expected an answer"


def test_both_encodings_of_a_tensor_are_decoded():
    for tensor in (tf.make_tensor_proto(np.eye(3, 10, dtype=np.float32)), tf.make_tensor_proto(0.5, shape=(3, 10))):
        assert tf.make_ndarray(tensor).shape == (3, 10)


def test_keys_that_classify_would_ignore_are_an_error(capsys):
    with pytest.raises(SystemExit) as end:
        tfserving_client.parse_arguments(["--method", "classify", "--input_key", "x"])
    assert end.value.code == 2
    assert "--input_key and --output_key need --method predict" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_script_an_error_is_one_line(data_dir):
    ended = run_script("tfserving_client.py", "--data_dir", data_dir, "--port", "9", "--wait", "0")
    assert ended.returncode == 1
    assert ended.stderr.startswith("tfserving_client.py: error: 127.0.0.1:9: UNAVAILABLE")
    assert len(ended.stderr.splitlines()) == 1
