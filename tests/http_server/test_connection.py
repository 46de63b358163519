import contextlib
import json
import logging
import socket
import threading
from types import SimpleNamespace

import gevent
import gevent.socket
import pytest
from conftest import chunked

from rnn_serving.http_server import connection as http_connection
from rnn_serving.http_server.connection import HTTPConnection

LIMIT_S = 10


def echo(environ, start_response):
    """Answer with the environ and the body of the request, as JSON."""
    body = environ["wsgi.input"].read()
    received = {key: value for key, value in environ.items() if isinstance(value, str)} | {"body": body.decode()}
    content = json.dumps(received).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
    return [content]


def ignore(environ, start_response):
    """Answer without reading the body."""
    start_response("404 Not Found", [("Content-Length", "0")])
    return []


def failing(error):
    """Return an application that raises an error."""

    def fail(environ, start_response):
        raise error

    return fail


def served(app, sock, may_keep=lambda: True):
    """Serve a connection until it ends; return its log lines."""
    logged = []
    connection = HTTPConnection(sock, ("1.2.3.4", 5), ("5.6.7.8", 9), app, may_keep, lambda *line: logged.append(line))
    with sock:
        connection.serve()
        # As a worker does: closing a socket with unread data may discard the last answer.
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(2**16):
            pass
    return logged


def exchange(content, app=echo, **options):
    """Send bytes and close the sending side; return all bytes of the answers, and the log lines."""
    client, server = socket.socketpair()
    result = SimpleNamespace()
    thread = threading.Thread(target=lambda: setattr(result, "logged", served(app, server, **options)))
    with client:
        client.settimeout(LIMIT_S)
        thread.start()
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        answered = client.makefile("rb").read()
        thread.join(LIMIT_S)
    return answered, result.logged


def environ_of(*lines, body=b""):
    """Return the environ that the application gets for a request."""
    answered, _ = exchange(b"\r\n".join([*lines, b"", body]))
    return json.loads(answered.partition(b"\r\n\r\n")[2])


def test_the_environ_describes_the_request():
    environ = environ_of(b"POST /a%20b?c=d%20e#f HTTP/1.1", b"Content-Length: 2", b"X-A: 1", b"x-a: 2", body=b"hi")
    expected = {
        "REQUEST_METHOD": "POST",
        "REQUEST_URI": "/a%20b?c=d%20e#f",
        "PATH_INFO": "/a b",
        "QUERY_STRING": "c=d%20e",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": "2",
        "HTTP_X_A": "1,2",
        "REMOTE_ADDR": "1.2.3.4",
        "REMOTE_PORT": "5",
        "SERVER_NAME": "5.6.7.8",
        "SERVER_PORT": "9",
        "SCRIPT_NAME": "",
        "wsgi.url_scheme": "http",
        "body": "hi",
    }
    assert environ == expected


def test_a_header_that_could_spoof_another_is_dropped():
    assert environ_of(b"GET / HTTP/1.1", b"X_A: wrong", b"X-A: right")["HTTP_X_A"] == "right"


@pytest.mark.parametrize("address", [b"http://x/a?b", b"/a?b"])
def test_the_url_may_be_absolute(address):
    environ = environ_of(b"GET " + address + b" HTTP/1.1")
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a", "b")


@pytest.mark.parametrize("sizes", [[], [1], [70_000, 1, 200_000]])
def test_a_body_may_be_chunked(sizes):
    chunks = [b"x" * size for size in sizes]
    body = chunked(*chunks).replace(b"0\r\n\r\n", b"0\r\nTrailer: ignored\r\n\r\n")
    assert environ_of(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", body=body)["body"] == "x" * sum(sizes)


@pytest.mark.parametrize(
    ("lines", "connection"),
    [
        ([b"GET / HTTP/1.1"], b"keep-alive"),
        ([b"GET / HTTP/1.1", b"Connection: close"], b"close"),
        ([b"GET / HTTP/1.0"], b"close"),
        ([b"GET / HTTP/1.0", b"Expect: odd"], b"close"),
        ([b"GET / HTTP/1.0", b"Connection: keep-alive"], b"keep-alive"),
        ([b"GET / HTTP/1.1", b"Connection: Upgrade", b"Upgrade: h2c"], b"keep-alive"),
    ],
)
def test_a_connection_is_kept_alive_if_the_client_supports_it(lines, connection):
    answered, _ = exchange(b"\r\n".join([*lines, b"", b""]))
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: " + connection + b"\r\n" in answered


@pytest.mark.parametrize(
    ("framing", "body"),
    [(b"Content-Length: 200000", b"x" * 200_000), (b"Transfer-Encoding: chunked", chunked(b"x" * 200_000))],
)
def test_a_request_with_an_upgrade_is_answered_over_http_1(framing, body):
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"
    answered, logged = exchange(
        (b"POST / HTTP/1.1\r\n" + upgrade + framing + b"\r\n\r\n" + body) * 2 + b"GET / HTTP/1.1\r\n\r\n"
    )
    assert [line[1] for line in logged] == [200, 200, 200]
    assert answered.count(b"x" * 200_000) == 2


def test_any_number_of_requests_with_an_upgrade_is_answered():
    request = b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert len(exchange(request * 2000)[1]) == 2000


def test_a_server_that_is_stopping_closes_connections():
    answered, logged = exchange(b"GET / HTTP/1.1\r\n\r\n" * 2, may_keep=lambda: False)
    assert b"Connection: close" in answered
    assert len(logged) == 1


def test_head_is_answered_without_a_body():
    answered, _ = exchange(b"HEAD / HTTP/1.1\r\n\r\n")
    head, _, body = answered.partition(b"\r\n\r\n")
    assert b"Content-Length: " in head
    assert body == b""


def test_an_answer_before_the_whole_body_has_arrived_closes_the_connection():
    answered, logged = exchange(b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b"x" * 70_000, ignore)
    assert answered.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"Connection: close" in answered
    assert [line[1] for line in logged] == [404]


def test_an_unread_body_is_not_parsed_as_a_request():
    request = b"POST / HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    assert len(exchange(request * 3, ignore)[1]) == 3


REJECTED = {
    "a long URL": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
    "an unterminated URL": (b"GET /" + b"a" * 200_000, 431),
    "an unterminated header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000, 431),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    "an unknown expectation": (b"GET / HTTP/1.1\r\nExpect: odd\r\n\r\n", 417),
    "a length of many digits": (b"POST / HTTP/1.1\r\nContent-Length: " + b"0" * 5000 + b"2\r\n\r\nhi", 400),
    "an unsupported transfer coding": (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "an unsupported version": (b"GET / HTTP/0.9\r\n\r\n", 400),
    "a tunnel": (b"CONNECT x:80 HTTP/1.1\r\n\r\n", 400),
    "not a valid URL": (b"GET :x HTTP/1.1\r\n\r\n", 400),
    "not HTTP": (b"\x16\x03\x01\r\n\r\n", 400),
}


@pytest.mark.parametrize(("content", "status"), REJECTED.values(), ids=REJECTED)
def test_an_invalid_request_is_rejected_after_those_before_it_are_answered(content, status):
    answered, logged = exchange(b"GET / HTTP/1.1\r\n\r\n" + content)
    assert [line[1] for line in logged] == [200, status]
    error = json.loads(answered.rpartition(b"\r\n\r\n")[2])
    assert list(error) == ["error"]
    assert "expected" in error["error"]


@pytest.mark.parametrize(
    "body",
    [b"5\r\nab", b"5\r\nabcdexx", b"zz\r\n", b"1;" + b"x" * 200_000, b"0\r\nX: " + b"x" * 200_000],
    ids=["cut off", "chunk too long", "not a valid size", "unterminated extension", "unterminated trailer"],
)
def test_reading_a_body_that_is_not_valid_chunked_encoding_raises(body):
    raised = []

    def read(environ, start_response):
        with pytest.raises(OSError, match="cut off|expected") as error:
            environ["wsgi.input"].read(10_000_000)
        raised.append(error)
        return ignore(environ, start_response)

    answered, logged = exchange(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + body, read)
    assert len(raised) == 1
    assert answered.startswith(b"HTTP/1.1 404")
    assert len(logged) == 1


@contextlib.contextmanager
def timed_out(message):
    """Yield a client; reading its body must time out with `message`, and the answer is then 404."""
    raised = []

    def read(environ, start_response):
        with pytest.raises(TimeoutError, match=message) as error:
            environ["wsgi.input"].read()
        raised.append(error)
        return ignore(environ, start_response)

    client, server = socket.socketpair()
    thread = threading.Thread(target=served, args=(read, server))
    with client:
        thread.start()
        yield client
    thread.join(LIMIT_S)
    assert len(raised) == 1


def test_a_body_that_stalls_times_out(monkeypatch):
    monkeypatch.setattr(http_connection, "BODY_TIMEOUT_S", 0.05)
    with timed_out("nothing arrived for 0.05 s") as client:
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nab")
        assert client.makefile("rb").read().startswith(b"HTTP/1.1 404")


def test_a_body_that_trickles_times_out(monkeypatch):
    monkeypatch.setattr(http_connection, "BODY_TIMEOUT_S", 0.2)
    with timed_out("less than 1000 bytes per second") as client:
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 50000\r\n\r\n")
        client.settimeout(0.05)
        for _ in range(200):
            client.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                assert client.recv(1000).startswith(b"HTTP/1.1 404")
                break


@pytest.mark.parametrize("error", [ValueError, BrokenPipeError])
def test_a_log_that_cannot_be_written_does_not_close_the_connection(error):
    def log(*line):
        raise error

    client, server = socket.socketpair()
    connection = HTTPConnection(server, ("", 0), ("", 0), echo, lambda: True, log)
    thread = threading.Thread(target=connection.serve)
    with client, server:
        thread.start()
        client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 3)
        client.shutdown(socket.SHUT_WR)
        thread.join(LIMIT_S)
        server.shutdown(socket.SHUT_WR)
        assert client.makefile("rb").read().count(b"HTTP/1.1 200 OK") == 3


def test_a_rejected_request_is_logged_with_its_method_and_path():
    _, logged = exchange(b"PUT /here HTTP/1.1\r\nExpect: odd\r\n\r\n")
    [(environ, status, *_)] = logged
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"], status) == ("PUT", "/here", 417)


# Errors of sockets and time-outs too: those of the application are not those of its connection.
@pytest.mark.parametrize("kind", [RuntimeError, OSError, ConnectionResetError, TimeoutError])
def test_an_exception_in_the_application_is_a_500_without_details(caplog, kind):
    with caplog.at_level(logging.CRITICAL):
        answered, logged = exchange(b"GET / HTTP/1.1\r\n\r\n" * 2, failing(kind("secret")))
    assert answered.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answered
    assert len(logged) == 1


@pytest.mark.parametrize(("is_alone", "order"), [(True, ["answered", "loop"]), (False, ["loop", "answered"])])
def test_what_has_arrived_is_read_at_once_only_if_no_other_connection_can_be_waiting(is_alone, order):
    client, server = (gevent.socket.socket(fileno=end.detach()) for end in socket.socketpair())
    happened = []
    connection = HTTPConnection(
        server,
        ("1.2.3.4", 5),
        ("5.6.7.8", 9),
        echo,
        lambda: False,
        lambda *_: happened.append("answered"),
        lambda: is_alone,
    )
    with client, server:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        gevent.get_hub().loop.run_callback(happened.append, "loop")
        connection.serve()
        gevent.sleep(0)
    assert happened == order
