"""Fuzz the Flask endpoint: every request is answered or rejected with an error, and the server keeps running."""

import http.client
import io
import json
import socket
from urllib.parse import urlsplit

import odd_models
import pytest
import requests
from conftest import chunked, start_flask
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

LIMIT_S = 10
MAX_MB = 0.05

# Answers and client errors; no request may cause a server error.
STATUSES = {200, 400, 413, 415, 422}
# Malformed or unsupported HTTP is rejected with more statuses.
HTTP_STATUSES = STATUSES | {100, 404, 405, 408, 414, 417, 431}

fuzzed = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


class Target:
    """The server under test, over one persistent connection or over raw sockets."""

    def __init__(self, url):
        address = urlsplit(url)
        self.address = address.hostname, address.port
        self._connection = http.client.HTTPConnection(*self.address, timeout=LIMIT_S)

    def close(self):
        """Close the persistent connection."""
        self._connection.close()

    def post(self, body, headers):
        """Return (status, content) of the answer to a POST."""
        try:
            self._connection.request("POST", "/", body, headers)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next example gets a new one
            raise

    def send(self, content):
        """Send bytes and close the sending side; return all bytes of the answers."""
        with socket.create_connection(self.address, timeout=LIMIT_S) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            return connection.makefile("rb").read()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server whose model takes rows of 2x2 numbers."""
    base = tmp_path_factory.mktemp("models") / "square"
    odd_models.export(base / "1", odd_models.of([None, 2, 2], lambda x: x * x))
    with start_flask(base, "--max_request_mb", str(MAX_MB), "--postprocess", "none", "--access_log") as process:
        yield process
        assert "Traceback" not in process.output()


@pytest.fixture(scope="module")
def target(server):
    target = Target(server.ready[1])
    yield target
    target.close()


@pytest.fixture(autouse=True)
def _good_requests_are_answered_before_and_after(server):
    _check_a_good_request(server)
    yield
    _check_a_good_request(server)


def _check_a_good_request(server):
    answer = requests.post(server.ready[1], json={"data": [[1, 2], [3, 4]]}, timeout=LIMIT_S)
    assert (answer.status_code, answer.json()) == (200, {"y": [[[1, 4], [9, 16]]]})


def check(status, content, allowed=STATUSES):
    assert status in allowed, (status, content)
    if status != 200:
        error = json.loads(content)
        assert list(error) == ["error"]
        assert error["error"]


numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**64, 2**63, 1e39, -0.0, 5e-324])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=5) | st.just({"b64": "AA=="})
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=30,
)
rows = st.lists(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=2, max_size=2), max_size=5)
JSON_TYPE = {"Content-Type": "application/json"}


@fuzzed
@given(values | rows, st.booleans())
@example([[[1e200] * 2] * 2], True)
@example(["\ud800"] * 4, True)
@example([True, False, True, True], True)
@example([[[1, 2], [3, 4]]] * 1000, True)
def test_any_json_value_is_answered(target, value, is_ascii):
    body = json.dumps({"data": value}, ensure_ascii=is_ascii).encode(errors="surrogatepass")
    check(*target.post(body, JSON_TYPE))


@fuzzed
@given(values)
def test_json_without_the_key_data_is_answered(target, value):
    check(*target.post(json.dumps(value, ensure_ascii=True), JSON_TYPE), allowed=STATUSES - {200})


GOOD = b'{"data": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]}'


@st.composite
def mutations(draw, originals):
    """Return one of the originals with a few bytes changed."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(content)


types = st.sampled_from(
    [
        "application/json",
        "application/json; charset=utf-16",
        "application/x+json",
        "text/plain",
        "multipart/form-data",
        "",
    ]
)
encodings = st.sampled_from([None, None, None, "gzip", "identity", "br, gzip", ""])


@fuzzed
@given(st.binary(max_size=300) | mutations([GOOD]), types, encodings)
@example(b"\x00" * 60_000, "application/json", None)
@example(b"[" * 50_000, "application/json", None)
@example(b'{"data":' + b"[" * 500 + b"]" * 500 + b"}", "application/json", None)
@example(b'{"data":' * 6_000, "application/json", None)
@example(b'{"data": 1' + b"0" * 50_000 + b"}", "application/json", None)
@example(b'\xef\xbb\xbf{"data": []}', "application/json", None)
def test_any_bytes_are_answered(target, body, content_type, encoding):
    headers = {"Content-Type": content_type} | ({"Content-Encoding": encoding} if encoding is not None else {})
    check(*target.post(body, headers))


# HTTP itself


def request_bytes(*headers, body=GOOD, line=b"POST / HTTP/1.1"):
    return b"\r\n".join([line, b"Host: x", b"Content-Type: application/json", *headers, b"", body])


LENGTH = b"Content-Length: %d" % len(GOOD)
CHUNKED = b"Transfer-Encoding: chunked"
ODD = {
    "no length": request_bytes(),
    "length too short": request_bytes(b"Content-Length: 5"),
    "length too long": request_bytes(b"Content-Length: 500"),
    "two lengths": request_bytes(LENGTH, b"Content-Length: 5"),
    "negative length": request_bytes(b"Content-Length: -1"),
    "length with a superscript": request_bytes("Content-Length: ²".encode("latin-1")),
    "length with many digits": request_bytes(b"Content-Length: " + b"9" * 100),
    "length with too many digits": request_bytes(b"Content-Length: " + b"9" * 5000),
    "length and chunks": request_bytes(LENGTH, CHUNKED, body=chunked(GOOD)),
    "unknown transfer coding": request_bytes(b"Transfer-Encoding: odd", body=chunked(GOOD)),
    "two transfer codings": request_bytes(b"Transfer-Encoding: gzip, chunked", body=chunked(GOOD)),
    "invalid chunk size": request_bytes(CHUNKED, body=b"zz\r\n" + GOOD),
    "negative chunk size": request_bytes(CHUNKED, body=b"-5\r\n" + GOOD),
    "huge chunk size": request_bytes(CHUNKED, body=b"f" * 30 + b"\r\n" + GOOD),
    "unterminated chunk": request_bytes(CHUNKED, body=b"2\r\n{}xx"),
    "chunks cut off": request_bytes(CHUNKED, body=chunked(GOOD)[:-7]),
    "invalid trailer": request_bytes(CHUNKED, body=b"0\r\nodd\r\n\r\n"),
    "too many chunks": request_bytes(CHUNKED, body=chunked(*[b" " * 1000] * 100)),
    "unknown expectation": request_bytes(LENGTH, b"Expect: odd"),
    "long line": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
    "long header": request_bytes(b"X: " + b"a" * 20_000),
    "many headers": request_bytes(*[b"X-%d: x" % number for number in range(300)]),
    "folded header": request_bytes(b"X: a\r\n  b"),
    "header without a colon": request_bytes(b"odd"),
    "header with a null byte": request_bytes(b"X: \0"),
    "SCRIPT_NAME": request_bytes(LENGTH, b"SCRIPT_NAME: /odd"),
    "contradictory schemes": request_bytes(LENGTH, b"X-Forwarded-Proto: https", b"X-Forwarded-Ssl: off"),
    "not HTTP": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 by upgrade": request_bytes(LENGTH, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
    "invalid host": request_bytes(LENGTH, b"Host: a b[").replace(b"Host: x\r\n", b""),
    "another path": request_bytes(LENGTH, line=b"POST /%ff%00 HTTP/1.1"),
    "two slashes": request_bytes(LENGTH, line=b"POST //a//b HTTP/1.1"),
    "another method": request_bytes(LENGTH, line=b"BREW / HTTP/1.1"),
    "absolute URL": request_bytes(LENGTH, line=b"POST http://x/ HTTP/1.1"),
}


def statuses_of(answered):
    """Return the statuses of the answers on one connection, after checking the bodies of errors."""
    stream, statuses = io.BufferedReader(io.BytesIO(answered)), []
    while line := stream.readline():
        statuses.append(int(line.split()[1]))
        headers = http.client.parse_headers(stream)
        content = stream.read(int(headers.get("Content-Length", 0)))
        if statuses[-1] != 100:
            check(statuses[-1], content, HTTP_STATUSES)
    return statuses


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_malformed_http_is_answered(target, content):
    statuses = statuses_of(target.send(content))
    assert statuses
    assert set(statuses) <= HTTP_STATUSES


@fuzzed
@given(mutations([request_bytes(LENGTH), request_bytes(CHUNKED, body=chunked(GOOD[:9], GOOD[9:])), *ODD.values()]))
def test_http_with_a_few_wrong_bytes_is_answered(target, content):
    answered = target.send(content)
    if b"HEAD" not in content:  # an answer to HEAD has a length but no body
        assert set(statuses_of(answered)) <= HTTP_STATUSES


def test_pipelined_requests_are_answered_in_order(target):
    wrong = request_bytes(b"Content-Length: 2", body=b"[]")
    good, chunks = request_bytes(LENGTH), request_bytes(CHUNKED, body=chunked(GOOD[:9], GOOD[9:]))
    answered = target.send(good + wrong + chunks + wrong + good)
    assert statuses_of(answered) == [200, 400, 200, 400, 200]


def test_expect_100_continue_is_answered_with_100(target):
    with socket.create_connection(target.address, timeout=LIMIT_S) as connection:
        connection.sendall(request_bytes(LENGTH, b"Expect: 100-continue", b"Connection: close", body=b""))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert statuses_of(connection.makefile("rb").read()) == [200]


def test_expect_100_continue_is_not_answered_with_100_if_the_body_has_arrived(target):
    assert statuses_of(target.send(request_bytes(LENGTH, b"Expect: 100-continue"))) == [200]


def test_a_request_that_is_too_large_is_rejected_before_its_body_is_sent(target):
    with socket.create_connection(target.address, timeout=LIMIT_S) as connection:
        connection.sendall(request_bytes(b"Content-Length: 1000000000", body=b""))
        assert b" 413 " in connection.recv(1000)


def test_clients_that_disconnect_mid_request_do_not_disturb_the_server(target):
    for length in range(0, 150, 7):
        with socket.create_connection(target.address, timeout=LIMIT_S) as connection:
            connection.sendall(request_bytes(LENGTH)[:length])
            # Reset instead of closed.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@pytest.mark.slow
def test_a_body_that_stalls_is_a_408(target):
    with socket.create_connection(target.address, timeout=30) as connection:
        connection.sendall(request_bytes(LENGTH)[:-5])
        assert statuses_of(connection.makefile("rb").read()) == [408]
