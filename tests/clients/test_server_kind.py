import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from conftest import start_model_server

import flask_client
import tfserving_client
from benchmarks import server_processes
from rnn_serving.clients import server_kind
from rnn_serving.command_line import UserError


@pytest.fixture(scope="module")
def ports(export_base, flask_url):
    """The port of a server of each kind."""
    rest = server_processes.free_port()
    with start_model_server(export_base, f"--rest_api_port={rest}") as server:
        server.wait_for("Exporting HTTP/REST API")
        grpc, flask = (int(url.rstrip("/").rpartition(":")[2]) for url in (server.ready[1], flask_url))
        yield SimpleNamespace(grpc=grpc, rest=rest, flask=flask)


CLIENTS = {
    "flask": flask_client.main,
    "grpc": tfserving_client.main,
    "rest": lambda flags: tfserving_client.main([*flags, "--protocol", "rest"]),
}


@pytest.mark.parametrize(
    ("client", "there", "message"),
    [
        ("grpc", "rest", "the REST port of a model server; expected the gRPC port of a model server, or ask this one "),
        ("rest", "grpc", "the gRPC port of a model server; expected the REST port of a model server, or ask this one "),
        ("flask", "grpc", "the gRPC port of a model server; expected the port of a Flask server, or ask this one "),
        ("flask", "rest", "the REST port of a model server; expected the port of a Flask server, or ask this one "),
        ("grpc", "flask", "the port of a Flask server; expected the gRPC port of a model server, or ask this one "),
        ("rest", "flask", "the port of a Flask server; expected the REST port of a model server, or ask this one "),
    ],
)
def test_a_client_at_the_port_of_another_kind_says_what_is_there_at_once(
    client, there, message, ports, data_dir, capsys
):
    port = getattr(ports, there)
    with pytest.raises(UserError) as error:
        CLIENTS[client](["--data_dir", str(data_dir), "--port", str(port), "--wait", "60"])
    ask = {"flask": "flask_client.py", "grpc": "tfserving_client.py", "rest": "tfserving_client.py --protocol rest"}
    assert str(error.value) == f"127.0.0.1:{port} is {message}with python {ask[there]} --port {port}"
    assert capsys.readouterr().err == ""  # it did not wait


class Other(BaseHTTPRequestHandler):
    """An HTTP server of another kind, which answers every GET with the same page."""

    def do_GET(self):
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def other_server(status, body):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Other)
    server.answer = status, body
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (404, b"not found"), (200, b"[]"), (404, b'{"error": 1}'), (500, b"")]
)
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_any_other_http_server_is_recognized(status, body, protocol, data_dir):
    with other_server(status, body) as port, pytest.raises(UserError) as error:
        CLIENTS[protocol](["--data_dir", str(data_dir), "--port", str(port), "--wait", "0"])
    if (protocol, status) == ("rest", 200):
        assert "expected the metadata of a model server" in str(error.value)
    else:
        assert "is the port of an HTTP server of another kind; expected the" in str(error.value)


def test_a_flask_server_need_not_be_ours():
    with other_server(405, b"") as port:
        assert server_kind.recognize(f"127.0.0.1:{port}") == "http"
        server_kind.require_kind("flask", f"127.0.0.1:{port}")


def test_where_nothing_answers_nothing_is_recognized():
    assert server_kind.recognize("127.0.0.1:9") is None
    assert server_kind.recognize("unknown.invalid:9") is None
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert server_kind.recognize(address, timeout_s=0.2) is None
        server_kind.require_kind("grpc", "127.0.0.1:9")


def test_the_flags_to_ask_name_the_host_unless_it_is_the_default():
    assert server_kind._flags("127.0.0.1:1") == "--port 1"
    assert server_kind._flags("[::1]:1") == "--host ::1 --port 1"
