import argparse
import contextlib
import signal
import socket
import socketserver
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler

import grpc
import numpy as np
import pytest
from conftest import start_model_server
from werkzeug.exceptions import BadGateway, GatewayTimeout, HTTPException, ServiceUnavailable, UnprocessableEntity

from benchmarks import server_processes
from rnn_serving.command_line import UserError
from rnn_serving.endpoint import backend as backend_module
from rnn_serving.endpoint.backend import Backend
from rnn_serving.endpoint.backend_addresses import parse_backends, target
from rnn_serving.saved_model import ServedModel, TensorInfo

from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

LIMIT_S = 20
CODE = grpc.StatusCode


class Fake(prediction_service_pb2_grpc.PredictionServiceServicer):
    """A model server with the signature {x: float32 [2]} -> {x, y}; `answer(request, context)` answers each Predict.

    `inputs` and `signature_name` may be changed, as by a new version.
    """

    def __init__(self, answer=None, version=1):
        self.answer, self.version, self.requests = answer or echo, version, []
        self.inputs, self.signature_name = ("x",), "serving_default"

    def GetModelMetadata(self, request, context):
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.version.value = self.version
        signatures = get_model_metadata_pb2.SignatureDefMap()
        signature = signatures.signature_def[self.signature_name]
        inputs = [signature.inputs[key] for key in self.inputs]
        for info in (*inputs, signature.outputs["x"], signature.outputs["y"]):
            info.name, info.dtype = "tensor:0", types_pb2.DT_FLOAT
            info.tensor_shape.dim.add(size=2)
        response.metadata["signature_def"].Pack(signatures)
        return response

    def Predict(self, request, context):
        self.requests.append(request)
        response = self.answer(request, context)
        response.model_spec.version.value = self.version
        return response


def echo(request, context):
    """Return the input x as every requested output."""
    response = predict_pb2.PredictResponse()
    for key in request.output_filter:
        response.outputs[key].CopyFrom(request.inputs["x"])
    return response


@contextlib.contextmanager
def serving(fake, address="127.0.0.1:0"):
    """Run a fake model server; yield its address."""
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(fake, server)
    port = server.add_insecure_port(address)
    server.start()
    try:
        yield f"{address.rpartition(':')[0]}:{port}"
    finally:
        server.stop(0).wait()


@contextlib.contextmanager
def connected(*addresses, model_name="mnist", **arguments):
    with contextlib.closing(Backend(",".join(addresses), model_name, **arguments)) as backend:
        backend.connect()
        yield backend


X = {"x": np.array([1, 2], np.float32)}


def call_until(backend, condition, limit_s=LIMIT_S):
    """Call Predict until `condition()` is true; return how many seconds that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s
        backend.predict(X)
    return time.monotonic() - began


def test_answers_equal_those_of_the_model(grpc_address, export_base, test_images):
    with ServedModel(export_base) as model, connected(grpc_address) as backend:
        assert (backend.name, backend.version, backend.dataset) == ("mnist", 1, "digits")
        assert backend.signature.inputs == model.signature.inputs
        assert backend.signature.outputs == model.signature.outputs
        for count in (1, 50):
            images = {"x_input": test_images.images[:count]}
            answer, _ = backend.predict(images)
            assert list(answer) == ["y_output"]
            assert answer["y_output"].dtype == np.float32
            np.testing.assert_allclose(answer["y_output"], model.predict(images)["y_output"], rtol=1e-5, atol=1e-6)


def test_predict_returns_the_version_that_answered():
    fake = Fake()
    with serving(fake) as address, connected(address) as backend:
        fake.version = 2
        assert backend.predict(X)[1] == 2
        assert backend.version == 2


def test_all_outputs_of_the_signature_are_requested():
    fake = Fake()
    with serving(fake) as address, connected(address) as backend:
        assert sorted(backend.predict(X)[0]) == ["x", "y"]
        assert backend.signature.inputs == {"x": TensorInfo("x", "tensor:0", "float32", (2,))}
    assert [list(request.output_filter) for request in fake.requests] == [["x", "y"]]
    assert {request.model_spec.name for request in fake.requests} == {"mnist"}
    assert fake.requests[0].model_spec.signature_name == "serving_default"


@pytest.mark.parametrize(
    "array",
    [
        np.array([[b"a\0\xff", b""], [b"c", b"d"]], object),
        np.array("a scalar", object),
        np.arange(6, dtype=np.int64).reshape(2, 3).T,
        np.array([1.5, np.nan, -np.inf], ">f4"),
        np.array([True, False]),
        np.array([1.5, 2], np.float16),
        np.zeros((0, 3), np.uint8),
        np.ones(3_000_000, np.float32),  # 12 MB: gRPC's default limit is 4 MB
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_tensors_arrive_and_return_unchanged(array):
    fake = Fake()
    with serving(fake) as address, connected(address) as backend:
        answer = backend.predict({"x": array})[0]["x"]
    expected = np.array(array.item().encode(), object) if array.shape == () else array
    np.testing.assert_array_equal(answer, expected)
    assert answer.dtype == array.dtype.newbyteorder("=")
    sent = fake.requests[0].inputs["x"]
    assert bool(sent.string_val) == (array.dtype == object)
    assert bool(sent.tensor_content) == (array.dtype != object and array.size > 0)


ERRORS = {
    CODE.INVALID_ARGUMENT: (UnprocessableEntity, "what the signature 'serving_default' of model mnist takes"),
    CODE.OUT_OF_RANGE: (UnprocessableEntity, "what the signature"),
    CODE.FAILED_PRECONDITION: (UnprocessableEntity, "what the signature"),
    CODE.RESOURCE_EXHAUSTED: (ServiceUnavailable, "a model server there that serves mnist"),
    CODE.UNAVAILABLE: (ServiceUnavailable, "a model server there that serves mnist"),
    CODE.ABORTED: (ServiceUnavailable, "a model server there that serves mnist"),
    CODE.NOT_FOUND: (ServiceUnavailable, "a model server there that serves mnist"),
    CODE.DEADLINE_EXCEEDED: (GatewayTimeout, "an answer within 10 s"),
    CODE.CANCELLED: (GatewayTimeout, "an answer within 10 s"),
    CODE.UNKNOWN: (BadGateway, "a TensorFlow Serving PredictionService"),
    CODE.INTERNAL: (BadGateway, "a TensorFlow Serving PredictionService"),
    CODE.UNIMPLEMENTED: (BadGateway, "a TensorFlow Serving PredictionService"),
    CODE.DATA_LOSS: (BadGateway, "a TensorFlow Serving PredictionService"),
    CODE.ALREADY_EXISTS: (BadGateway, "a TensorFlow Serving PredictionService"),
    CODE.PERMISSION_DENIED: (BadGateway, "a TensorFlow Serving PredictionService"),
    CODE.UNAUTHENTICATED: (BadGateway, "a TensorFlow Serving PredictionService"),
}


def test_every_grpc_status_maps_to_an_http_status():
    assert set(ERRORS) == set(CODE) - {CODE.OK}
    fake = Fake()
    with serving(fake) as address, connected(address) as backend:
        for code, (kind, expected) in ERRORS.items():
            fake.answer = lambda request, context, code=code: context.abort(code, "what went wrong\nand a stack")
            fake.requests.clear()
            with pytest.raises(HTTPException) as error:
                backend.predict(X)
            assert type(error.value) is kind
            beginning = f"backend {address}: {code.name}: what went wrong; expected {expected}"
            assert error.value.description.startswith(beginning)
            assert getattr(error.value, "retry_after", None) == (1 if kind is ServiceUnavailable else None)
            assert len(fake.requests) == (4 if code is CODE.UNAVAILABLE else 1)


def test_a_request_that_the_model_rejects_is_a_422(grpc_address):
    with connected(grpc_address) as backend:
        with pytest.raises(UnprocessableEntity, match="INVALID_ARGUMENT: .*; expected what the signature"):
            backend.predict({"x_input": np.zeros((1, 3), np.float32)})


def no_output(request, context):
    return predict_pb2.PredictResponse()


def broken_tensor(request, context):
    response = echo(request, context)
    response.outputs["x"].tensor_content = b"123"
    return response


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (no_output, r"the answer has no \['x', 'y'\]; expected \['x', 'y'\]"),
        (broken_tensor, "tensor parsing error: x; expected whole tensors"),
    ],
)
def test_an_invalid_answer_is_a_bad_gateway(answer, message):
    with serving(Fake(answer)) as address, connected(address) as backend:
        with pytest.raises(BadGateway, match=message):
            backend.predict(X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model_name": "nope"}, "NOT_FOUND: Servable not found for request: Latest(nope); expected a model server"),
        (
            {"signature_name": "nope"},
            "model mnist version 1 has no signature 'nope'; expected one of ['serving_default']",
        ),
    ],
)
def test_an_unknown_model_or_signature_is_an_error_at_once(grpc_address, arguments, message):
    began = time.monotonic()
    with pytest.raises(UserError) as error, connected(grpc_address, **arguments):
        pass
    assert message in str(error.value)
    assert str(error.value).startswith(f"backend {grpc_address}: ")
    assert time.monotonic() - began < 5


def test_without_a_backend_connect_fails_after_the_timeout_and_requests_much_sooner():
    with contextlib.closing(Backend(f"127.0.0.1:{server_processes.free_port()}", "mnist", timeout_s=1)) as backend:
        began = time.monotonic()
        with pytest.raises(UserError, match="UNAVAILABLE: .*Connection refused; expected a model server there"):
            backend.connect()
        assert 0.5 < time.monotonic() - began < 3
    with contextlib.closing(Backend(f"127.0.0.1:{server_processes.free_port()}", "mnist", timeout_s=60)) as backend:
        began = time.monotonic()
        with pytest.raises(ServiceUnavailable, match="UNAVAILABLE"):
            backend.predict(X)
        assert time.monotonic() - began < 5


@pytest.mark.slow
def test_a_host_that_accepts_connections_but_never_answers_counts_as_down():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with contextlib.closing(Backend(f"127.0.0.1:{silent.getsockname()[1]}", "mnist", timeout_s=60)) as backend:
            began = time.monotonic()
            with pytest.raises(ServiceUnavailable, match="timed out before receiving SETTINGS"):
                backend.predict(X)
            assert 1 < time.monotonic() - began < 10
            began = time.monotonic()
            with pytest.raises(ServiceUnavailable):
                backend.predict(X)
            assert time.monotonic() - began < 1.5


def test_a_missed_deadline_is_a_504():
    gate = threading.Event()

    def hang(request, context):
        gate.wait(LIMIT_S)
        return echo(request, context)

    with serving(Fake(hang)) as address, connected(address, timeout_s=0.5) as backend:
        began = time.monotonic()
        with pytest.raises(GatewayTimeout, match="DEADLINE_EXCEEDED: .*; expected an answer within 0.5 s"):
            backend.predict(X)
        assert 0.4 < time.monotonic() - began < 3
        gate.set()


def test_calls_are_spread_evenly():
    fakes = [Fake(), Fake()]
    with serving(fakes[0]) as first, serving(fakes[1]) as second, connected(first, second) as backend:
        call_until(backend, lambda: all(fake.requests for fake in fakes))
        before = [len(fake.requests) for fake in fakes]
        with futures.ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: backend.predict(X), range(40)))
        assert [len(fake.requests) - count for fake, count in zip(fakes, before)] == [20, 20]


def test_ipv4_and_ipv6_backends_are_used_together():
    fakes = [Fake(), Fake()]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))
        except OSError:
            pytest.skip("needs IPv6")
        addresses = [stack.enter_context(serving(fake, at)) for fake, at in zip(fakes, ("127.0.0.1:0", "[::1]:0"))]
        backend = stack.enter_context(connected(*addresses))
        call_until(backend, lambda: all(fake.requests for fake in fakes))


class Load:
    """Threads that send the same batches repeatedly; `versions` and `errors` collect the outcomes."""

    def __init__(self, backend, batches, threads=6):
        self.backend, self.versions, self.errors, self.stop = backend, [], [], threading.Event()
        self.threads = [threading.Thread(target=self.send, args=(batches[i % len(batches)],)) for i in range(threads)]

    def send(self, images):
        expected = self.backend.predict({"x_input": images})[0]["y_output"]
        while not self.stop.is_set():
            try:
                outputs, version = self.backend.predict({"x_input": images})
                answer = outputs["y_output"]
                np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
                self.versions.append(version)
            except BaseException as error:
                self.errors.append(error)

    def wait_until(self, condition):
        """Keep sending until `condition(versions of the answers from now on)` is true."""
        began = time.monotonic()
        self.versions.clear()
        while not condition(list(self.versions)):
            assert self.errors == []
            assert time.monotonic() - began < LIMIT_S
            time.sleep(0.001)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(LIMIT_S)


@pytest.mark.slow
def test_no_request_is_lost_when_a_backend_hangs_or_dies(grpc_address, export, tmp_path, test_images):
    # One image, and a request larger than what gRPC buffers for a retry by default.
    batches = [test_images.images[:1], test_images.images[:100]]
    with contextlib.ExitStack() as stack:
        doomed = stack.enter_context(start_model_server(export(tmp_path / "mnist", "--model_version", "2")))
        backend = stack.enter_context(connected(grpc_address, doomed.ready[1], timeout_s=6))
        load = stack.enter_context(Load(backend, batches))
        load.wait_until(lambda versions: set(versions) == {1, 2})
        doomed.process.send_signal(signal.SIGSTOP)
        load.wait_until(lambda versions: versions[-50:] == [1] * 50)
        doomed.process.send_signal(signal.SIGCONT)
        load.wait_until(lambda versions: versions.count(2) > 50)
        doomed.stop(signal.SIGKILL)
        load.wait_until(lambda versions: versions[-50:] == [1] * 50)
    assert load.errors == []


def test_a_backend_that_starts_late_or_restarts_is_used():
    steady, late = Fake(), Fake()
    address = f"127.0.0.1:{server_processes.free_port()}"
    with serving(steady) as first, connected(first, address) as backend:
        for _ in range(2):
            late.requests.clear()
            backend.predict(X)
            with serving(late, address):
                assert call_until(backend, lambda: len(late.requests) > 3) < 5
            for _ in range(10):
                backend.predict(X)


def test_connect_waits_for_a_backend_that_is_starting():
    address = f"127.0.0.1:{server_processes.free_port()}"
    with (
        contextlib.closing(Backend(address, "mnist", timeout_s=LIMIT_S)) as backend,
        futures.ThreadPoolExecutor(1) as thread,
    ):
        connecting = thread.submit(backend.connect)
        time.sleep(0.5)
        assert not connecting.done()
        with serving(Fake(version=3), address):
            connecting.result(LIMIT_S)
    assert backend.version == 3


def test_a_server_that_does_not_say_what_its_model_was_trained_on_is_no_error():
    with serving(Fake()) as address, connected(address) as backend:
        assert backend.dataset is None


def test_a_backend_that_does_not_answer_is_reported_now_and_then(monkeypatch):
    monkeypatch.setattr(backend_module, "_REPORT_AFTER_S", 0.2)
    monkeypatch.setattr(backend_module, "_REPORT_INTERVAL_S", 0.5)
    reports = []
    with contextlib.closing(Backend("127.0.0.1:9", "mnist", timeout_s=2.0)) as backend, pytest.raises(UserError):
        backend.connect(reports.append)
    assert 2 <= len(reports) <= 4
    assert set(reports) == {reports[0]}
    assert "127.0.0.1:9: UNAVAILABLE: " in reports[0]


def test_a_backend_that_hangs_is_reported_as_well(monkeypatch):
    monkeypatch.setattr(backend_module, "_REPORT_AFTER_S", 0.1)
    monkeypatch.setattr(backend_module, "_REPORT_INTERVAL_S", 0.3)
    reports, gate, fake = [], threading.Event(), Fake()
    monkeypatch.setattr(fake, "GetModelMetadata", lambda request, context: gate.wait(LIMIT_S))
    with serving(fake) as address, contextlib.closing(Backend(address, "mnist", timeout_s=1.5)) as backend:
        with pytest.raises(UserError, match="DEADLINE_EXCEEDED"):
            backend.connect(reports.append)
        gate.set()
    assert len(reports) >= 2


def test_the_port_of_an_http_server_is_named_as_such():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        with contextlib.closing(Backend(address, "mnist", timeout_s=0.5)) as backend:
            with pytest.raises(
                UserError, match=r"expected a gRPC port \(--port of the model server\), not one of HTTP"
            ):
                backend.connect()
            with pytest.raises(ServiceUnavailable, match="expected a gRPC port"):
                backend.predict(X)
        server.shutdown()


def test_a_single_host_name_is_resolved_by_grpc():
    fake = Fake()
    with serving(fake) as address:
        name = f"localhost:{address.rpartition(':')[2]}"
        assert target(parse_backends(name)) == f"dns:///{name}"
        with connected(name) as backend:
            backend.predict(X)
    assert fake.requests


def test_a_proxy_is_not_used(monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(Fake()) as address, connected(address) as backend:
        backend.predict(X)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("10.0.0.1:8500", "ipv4:10.0.0.1:8500"),
        ("[::1]:9000", "ipv6:[::1]:9000"),
        ("models.example:9000", "dns:///models.example:9000"),
        ("model_server:1", "dns:///model_server:1"),
        ("10.0.0.1:1, 10.0.0.2:65535,10.0.0.1:1", "ipv4:10.0.0.1:1,10.0.0.2:65535"),
        ("[::1]:1,[::2]:2", "ipv6:[::1]:1,[::2]:2"),
        ("10.0.0.1:1,[::2]:2", "ipv6:[::ffff:10.0.0.1]:1,[::2]:2"),
    ],
)
def test_a_list_of_backends_becomes_a_grpc_target(text, name):
    assert target(parse_backends(text)) == name


def test_host_names_in_a_list_are_resolved(monkeypatch):
    def look_up(host, *_, **__):
        return [(0, 0, 0, "", (f"10.0.0.{number}", 0)) for number in {"a": [1, 2], "b": [3]}[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert target("a:1,10.0.0.9:2,b:3") == "ipv4:10.0.0.1:1,10.0.0.2:1,10.0.0.9:2,10.0.0.3:3"


def test_an_unknown_host_name_in_a_list_is_an_error():
    with pytest.raises(UserError, match="backend unknown.invalid: .*; expected the name of a host"):
        Backend("127.0.0.1:9,unknown.invalid:9", "mnist")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "localhost",
        "localhost:",
        ":9000",
        "localhost:0",
        "localhost:65536",
        "localhost:٣",
        "localhost:-1",
        "local host:9000",
        "localhost:9000,",
        "localhost:9000;localhost:9001",
        "http://localhost:9000",
        "localhost:9000/",
        "dns:///localhost:9000",
        "::1:9000",
        "[::1]",
        "[::g]:9000",
        "[127.0.0.1]:9000",
        "unix:/tmp/socket",
    ],
)
def test_anything_but_a_list_of_hosts_with_ports_is_rejected(text, capsys):
    with pytest.raises(argparse.ArgumentTypeError, match="is not HOST:PORT; expected one or more joined by commas"):
        parse_backends(text)
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", type=parse_backends)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--backend={text}"])
    assert "argument --backend:" in capsys.readouterr().err
