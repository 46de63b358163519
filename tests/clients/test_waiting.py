import contextlib
import re
import socket
import threading
import time
from concurrent import futures

import grpc
import pytest
import requests

import tfserving_client
from benchmarks import server_processes
from rnn_serving.clients import waiting
from rnn_serving.clients.http_json import direct_session


def http(status, body=b"ok"):
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status, len(body), body)


class Scripted:
    """A server that is there after `delay_s` seconds and gives one answer after the other, the last one forever."""

    def __init__(self, *answers, delay_s=0.0):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._answers, self._delay_s, self._stop = list(answers), delay_s, threading.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/metadata"

    def _serve(self):
        time.sleep(self._delay_s)
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            listener.settimeout(0.05)
            self._listening.set()
            while not self._stop.is_set():
                with contextlib.suppress(TimeoutError):
                    self._answer(listener.accept()[0])

    def _answer(self, client):
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        with client:
            if answer:
                client.recv(2**16)
                client.sendall(answer)

    def __enter__(self):
        self._thread.start()
        if not self._delay_s:
            self._listening.wait(5)
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def get(url, wait_s):
    with direct_session() as session:
        return waiting.get(session, url, timeout_s=5, wait_s=wait_s)


@pytest.mark.parametrize(
    ("answers", "delay_s", "reason"),
    [
        ((http(200),), 0.3, ".*Connection refused"),
        ((http(503, b"loading"), http(503, b"loading"), http(200)), 0, "status 503 loading"),
        ((http(503, b"loading"), http(200)), 0.3, ".*Connection refused"),
        (
            (b"", b"", http(200)),
            0,
            ".*(closed connection|Connection reset)",
        ),  # as those of a container that is starting
    ],
    ids=["nothing listens", "the model is loading", "one after the other", "connections are closed"],
)
def test_a_server_that_is_starting_is_waited_for_with_one_line(answers, delay_s, reason, capsys):
    with Scripted(*answers, delay_s=delay_s) as server:
        assert get(server.url, wait_s=20).status_code == 200
    assert re.fullmatch(rf"127.0.0.1:{server.port}: {reason}.*; waiting up to 20 s\n", capsys.readouterr().err)


def test_a_server_that_answers_is_not_waited_for(capsys):
    with Scripted(http(404)) as server:
        assert get(server.url, wait_s=20).status_code == 404
    assert capsys.readouterr().err == ""


def test_after_the_limit_the_last_error_or_answer_counts():
    began = time.monotonic()
    with pytest.raises(requests.ConnectionError, match="refused"):
        get("http://127.0.0.1:9/", wait_s=0.5)
    assert 0.5 <= time.monotonic() - began < 5
    with Scripted(http(503, b"loading")) as server:
        assert get(server.url, wait_s=0.5).status_code == 503


def test_without_patience_there_is_one_attempt_and_no_line(capsys):
    with pytest.raises(requests.ConnectionError):
        get("http://127.0.0.1:9/", wait_s=0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("url", ["http://unknown.invalid/", "http://[::g]/", "nonsense"])
def test_an_address_where_no_server_can_appear_is_an_error_at_once(url, capsys):
    began = time.monotonic()
    with pytest.raises((requests.RequestException, ValueError)):
        get(url, wait_s=30)
    assert time.monotonic() - began < 10
    assert capsys.readouterr().err == ""


METHOD = "/tensorflow.serving.PredictionService/Predict"


@contextlib.contextmanager
def grpc_server(port, *codes, delay_s=0.0):
    """Run a gRPC server that is there after `delay_s` seconds, and whose first answers have these codes."""
    left = list(codes)

    def answer(request, context):
        if left:
            context.abort(left.pop(0), "not yet")
        return b"answer"

    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    handlers = {"Predict": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", handlers)]
    )

    def start():
        time.sleep(delay_s)
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()

    starting = threading.Thread(target=start)
    starting.start()
    if not delay_s:
        starting.join()
    yield
    starting.join()
    server.stop(0).wait()


def call(address, wait_s):
    with grpc.insecure_channel(address, tfserving_client.CHANNEL_OPTIONS) as channel:
        return waiting.call(channel.unary_unary(METHOD), b"question", 5, address, wait_s)[0]


UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("codes", "delay_s", "reason"),
    [((), 1.5, ".*Connection refused"), ((UNAVAILABLE, UNAVAILABLE), 0, "not yet")],
    ids=["nothing listens", "the model is loading"],
)
def test_a_grpc_server_that_is_starting_is_waited_for_with_one_line(codes, delay_s, reason, capsys):
    port = server_processes.free_port()
    began = time.monotonic()
    with grpc_server(port, *codes, delay_s=delay_s):
        assert call(f"127.0.0.1:{port}", wait_s=20) == b"answer"
        # gRPC itself would connect again after ever longer pauses.
        assert time.monotonic() - began < delay_s + 2
    assert re.fullmatch(rf"127.0.0.1:{port}: UNAVAILABLE: {reason}; waiting up to 20 s\n", capsys.readouterr().err)


@pytest.mark.parametrize("code", [grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_any_other_answer_of_a_grpc_server_counts_at_once(code, capsys):
    port = server_processes.free_port()
    with grpc_server(port, code), pytest.raises(grpc.RpcError) as error:
        call(f"127.0.0.1:{port}", wait_s=20)
    assert error.value.code() == code
    assert capsys.readouterr().err == ""


def test_an_address_where_no_grpc_server_can_appear_is_an_error_at_once(capsys):
    began = time.monotonic()
    with pytest.raises(grpc.RpcError):
        call("unknown.invalid:9000", wait_s=60)
    assert time.monotonic() - began < 20
    assert capsys.readouterr().err == ""


def test_after_the_limit_the_last_error_of_grpc_counts():
    with pytest.raises(grpc.RpcError, match="Connection refused"):
        call("127.0.0.1:9", wait_s=0.5)
