"""Which failures of a request may be repeated."""

import contextlib
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from benchmarks.server_processes import free_port
from rnn_serving.clients import http_json, tfserving
from rnn_serving.clients.load import RequestError

JSON, TEXT = "application/json", "text/plain"


@contextlib.contextmanager
def http_server(status, content_type):
    """Yield the URL of a server that answers each POST with a status, and with no Content-Type if that is None."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            if content_type:
                self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def failure_of_post(url):
    with http_json.direct_session() as session, pytest.raises(RequestError) as raised:
        http_json.post_json(session, url, {}, 5.0)
    return raised.value


@pytest.mark.parametrize(
    ("status", "content_type", "may_be_repeated"),
    [
        (503, JSON, True),
        (503, None, True),
        (500, TEXT, True),  # Ray, of a replica that died
        (500, None, True),
        (500, JSON, False),
        (422, JSON, False),
        (408, TEXT, False),
        (504, JSON, False),
    ],
)
def test_an_http_answer_may_be_repeated_if_the_server_may_be_back_later(status, content_type, may_be_repeated):
    with http_server(status, content_type) as url:
        assert failure_of_post(url).may_be_repeated is may_be_repeated


def test_a_connection_that_is_refused_may_be_repeated():
    assert failure_of_post(f"http://127.0.0.1:{free_port()}/").may_be_repeated


@pytest.mark.parametrize(
    ("code", "details", "may_be_repeated"),
    [
        ("UNAVAILABLE", "gone", True),
        ("RESOURCE_EXHAUSTED", "the queue is full", True),
        ("INTERNAL", "The actor died unexpectedly before finishing this task.", True),
        ("INTERNAL", "The actor 1f is unavailable: no answer. The task may or may not have been executed", True),
        ("INTERNAL", "Exception deserializing request!", False),
        ("INVALID_ARGUMENT", "input size does not match signature", False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", False),
    ],
)
def test_a_grpc_error_may_be_repeated_if_the_server_may_be_back_later(code, details, may_be_repeated):
    class Handler(grpc.GenericRpcHandler):
        def service(self, _):
            return grpc.unary_unary_rpc_method_handler(lambda _, call: call.abort(grpc.StatusCode[code], details))

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Handler()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(RequestError) as raised:
            tfserving.call(channel.unary_unary("/a.B/C"), b"", 5.0)
        assert raised.value.may_be_repeated is may_be_repeated
    finally:
        server.stop(None).wait()
