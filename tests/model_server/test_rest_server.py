"""What clients can do to the HTTP port: use up the file descriptors, send bodies with two ends, large bodies."""

import contextlib
import errno
import http.client
import json
import os
import re
import resource
import socket
import time
from types import SimpleNamespace

import conformance_models
import pytest
from conftest import start_model_server

from benchmarks import server_processes
from rnn_serving.model_server import rest_server

BODY = b'{"instances": [[1.0]]}'
ANSWER = {"predictions": [[3.5]]}
FILE_LIMIT = 256


class RestServer:
    """A running server with the model `half` under the name `mnist`."""

    def __init__(self, process, port):
        self.process, self.port = process, port

    def connect(self):
        """Return an open connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def ask(self, connection=None):
        """Return the answer to a predict request, over a connection of its own or the given one."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        client.sock = connection or self.connect()
        client.request("POST", "/v1/models/mnist:predict", BODY)
        answer = json.loads(client.getresponse().read())
        if connection is None:
            client.close()
        return answer

    def send(self, content):
        """Return all that is answered to raw bytes."""
        with self.connect() as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(2**16), b""))

    def cpu_seconds(self):
        """Return the processor time that the server has used."""
        with open(f"/proc/{self.process.process.pid}/stat") as file:
            user, system = file.read().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def started(directory, files=None, **popen):
    """Start a server that may open a number of files."""
    conformance_models.build_half(directory)
    port = server_processes.free_port()
    if files:
        popen["preexec_fn"] = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with start_model_server(directory / "half", f"--rest_api_port={port}", **popen) as process:
        process.wait_for("Exporting HTTP/REST API")
        yield RestServer(process, port)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server for requests that are refused."""
    with started(tmp_path_factory.mktemp("models")) as server:
        yield server


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="reads the processor time in /proc")
def test_without_file_descriptors_new_connections_wait_quietly_until_others_are_closed(tmp_path):
    with started(tmp_path, files=FILE_LIMIT) as server, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(FILE_LIMIT + 100)]
        began, used = time.monotonic(), server.cpu_seconds()
        assert server.ask(idle[0]) == ANSWER  # a connection that was accepted goes on
        with pytest.raises(TimeoutError):
            idle[-1].settimeout(2)
            server.ask(idle[-1])
        assert server.cpu_seconds() - used < (time.monotonic() - began) / 2
        lines = [line for line in server.process.lines if "HTTP: " in line]
        assert len(lines) == 1
        assert re.search(r"the limit of 128 connections is reached.*128 connections are open, new ones wait", lines[0])
        assert "Traceback" not in server.process.output()
        for connection in idle[: FILE_LIMIT + 50]:
            connection.close()
        assert server.ask() == ANSWER


@pytest.mark.slow
def test_when_others_have_taken_the_descriptors_the_server_waits_quietly_too(tmp_path):
    # The process has more files open than this limit before the first connection.
    with started(tmp_path) as server, contextlib.ExitStack() as stack:
        pid = server.process.process.pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")), 4096))
        connections = [stack.enter_context(server.connect()) for _ in range(20)]
        time.sleep(2)
        assert "HTTP: Too many open files; 0 connections are open" in server.process.output()
        assert server.process.output().count("HTTP: ") == 1
        assert "Traceback" not in server.process.output()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (4096, 4096))
        assert server.ask(connections[-1]) == ANSWER


@pytest.mark.slow
def test_more_than_1024_connections_are_served(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("needs 4,096 file descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    try:
        with started(tmp_path, files=4096) as server, contextlib.ExitStack() as stack:
            idle = [stack.enter_context(server.connect()) for _ in range(1100)]
            assert server.ask(idle[-1]) == ANSWER
            assert server.ask() == ANSWER
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


HEAD = b"POST /v1/models/mnist:predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"transfer-encoding:chunked\r\ncontent-length:0\r\n",
        b"TRANSFER-ENCODING: Chunked\r\nContent-Length: %d\r\n" % len(CHUNKED),
        b"Transfer-Encoding:\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding:\r\n",
        b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 4\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: %d\r\n" % len(CHUNKED),
        b"Content-Length: +4\r\n",
        b"Content-Length: -4\r\n",
        b"Content-Length: 4, 4\r\n",
        b"Content-Length: 0x4\r\n",
        b"Content-Length : 4\r\n",
    ],
)
def test_a_body_with_two_ends_is_refused_and_nothing_after_it_is_read(server, headers):
    answer = server.send(HEAD + headers + b"\r\n" + CHUNKED + b"GET /v1/models/mnist HTTP/1.1\r\nHost: a\r\n\r\n")
    assert re.findall(rb"^HTTP/1.[01] (.*)\r$", answer, re.MULTILINE) == [b"400 Bad Request"]


def test_a_transfer_encoding_in_http_1_0_is_refused(server):
    answer = server.send(HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED)
    assert re.findall(rb"^HTTP/1.[01] (.*)\r$", answer, re.MULTILINE) == [b"400 Bad Request"]


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        (b"Content-Length: %d\r\n" % len(BODY), BODY),
        (b"Transfer-Encoding: chunked\r\n", CHUNKED),
        (b"X: transfer-encoding: chunked\r\nContent-Length: %d\r\n" % len(BODY), BODY),
    ],
)
def test_a_body_with_one_end_is_read(server, headers, content):
    answer = server.send(HEAD + headers + b"\r\n" + content)
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1]) == ANSWER


def test_a_body_that_is_too_large_is_refused_before_it_arrives(server):
    answer = server.send(HEAD + b"Content-Length: 2147483648\r\n\r\n" + BODY)
    assert answer.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
    assert b"expected at most 2147483647 bytes" in answer


def test_a_body_that_is_cut_off_gets_no_answer(server):
    assert server.send(HEAD + b"Content-Length: 100\r\n\r\n" + BODY) == b""


def test_a_thread_that_cannot_serve_is_an_error_and_nothing_hangs(monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(rest_server, "HTTPServer", fail)
    options = SimpleNamespace(host="127.0.0.1", rest_api_port=server_processes.free_port(), rest_api_num_threads=1)
    with pytest.raises(OSError, match="Too many open files"):
        rest_server.RestServer(SimpleNamespace(options=options)).start()


def test_a_connection_that_has_been_idle_for_long_is_closed(monkeypatch):
    monkeypatch.setattr(rest_server, "IDLE_S", 0.5)
    monkeypatch.setattr(rest_server, "CHECK_S", 0.05)
    options = SimpleNamespace(host="127.0.0.1", rest_api_port=server_processes.free_port(), rest_api_num_threads=1)
    server = rest_server.RestServer(SimpleNamespace(options=options))
    server.start()
    with socket.create_connection(("127.0.0.1", options.rest_api_port), timeout=20) as connection:
        assert connection.recv(1) == b""
    server.stop(grace_s=1)


@pytest.mark.slow
def test_a_body_that_stalls_times_out_and_occupies_no_thread(tmp_path):
    with started(tmp_path) as server, contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(server.connect()) for _ in range(100)]
        for connection in stalled:
            connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n" + BODY)
        assert server.ask() == ANSWER
        for connection in stalled:
            assert connection.recv(2**16).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


@pytest.mark.slow
def test_large_bodies_and_answers_need_no_temporary_files(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path / "nowhere")}
    with started(tmp_path, env=environment) as server:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as client:
            client.request("POST", "/v1/models/mnist:predict", json.dumps({"instances": [[1.25]] * 200_000}))
            answer = json.loads(client.getresponse().read())
        assert answer == {"predictions": [[3.625]] * 200_000}


@pytest.mark.parametrize(
    "document",
    [
        {"signature_name": "s" * 10**6, "instances": [1]},
        {"inputs": "x" * 10**6},
        {"instances": [{"k" * 10**6: 1}]},
        {"instances": 1, "k" * 10**6: 1},
    ],
    ids=lambda document: next(iter(document)),
)
def test_no_error_quotes_megabytes_of_a_request(server, document):
    content = json.dumps(document).encode()
    answer = server.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert len(answer) < 2**16 + 1000
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1]).keys() == {"error"}
