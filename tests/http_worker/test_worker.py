import contextlib
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from urllib.parse import urlsplit

import odd_models
import pytest
import requests
from conftest import start_flask, started
from endpoint_processes import (
    all_workers_accept,
    proc_directory,
    ready_workers,
    sockets_by_worker,
    wait_until,
    wait_until_settled,
    worker_pids,
)

WORKERS, CONNECTIONS = 2, 8


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    """A directory `plus` with version 1 of a model that adds 1."""
    base = tmp_path_factory.mktemp("models") / "plus"
    odd_models.export(base / "1", odd_models.variable(1))
    return base


@pytest.fixture(scope="module")
def server(model_path):
    """A server with two workers, both ready."""
    with start_flask(model_path, "--workers", WORKERS, "--threads", "1") as server:
        wait_until(lambda: all_workers_accept(server, WORKERS))
        yield server


@contextlib.contextmanager
def kept_alive(url, count):
    """Yield `count` connections, each opened after the one before it has been answered."""
    with contextlib.ExitStack() as stack:
        connections = []
        for _ in range(count):
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
            stack.callback(connection.close)
            assert ask(connection) == [2.0]
            connections.append(connection)
        yield connections


def gained(server, idle):
    """Return how many sockets each worker has more than in `idle`."""
    return [now - before for now, before in zip(sockets_by_worker(server), idle)]


def ask(connection):
    """Return the answer to a request; the connection stays open."""
    connection.request("POST", "/", json.dumps({"data": [1]}), {"Content-Type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200, content
    return json.loads(content)["y"]


def test_persistent_connections_spread_evenly_over_the_workers(server):
    idle = wait_until_settled(server)
    with kept_alive(server.ready[1], CONNECTIONS):
        assert gained(server, idle) == [CONNECTIONS / WORKERS] * WORKERS


def test_connections_opened_at_once_spread_evenly_too(server):
    address = urlsplit(server.ready[1])
    idle = wait_until_settled(server)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=20))
        wait_until(lambda: sum(gained(server, idle)) == 40)
        assert min(gained(server, idle)) >= 17


def test_a_killed_worker_is_replaced_and_the_others_go_on_serving(server):
    wait_until_settled(server)
    with kept_alive(server.ready[1], CONNECTIONS) as connections:
        victim, survivor = worker_pids(server)
        os.kill(victim, signal.SIGKILL)
        lost = 0
        for connection in connections:
            try:
                assert ask(connection) == [2.0]
            except (ConnectionError, http.client.BadStatusLine):
                lost += 1
        assert lost == CONNECTIONS / WORKERS
        wait_until(lambda: len(pids := worker_pids(server)) == WORKERS and victim not in pids)
        assert survivor in worker_pids(server)
    # The new worker accepts no connections until it is ready.
    wait_until(lambda: all_workers_accept(server, WORKERS))
    assert ready_workers(server.ready[1], "plus") == WORKERS
    idle = wait_until_settled(server)
    with kept_alive(server.ready[1], CONNECTIONS):
        assert gained(server, idle) == [CONNECTIONS / WORKERS] * WORKERS


def test_a_worker_that_hangs_does_not_keep_connections_waiting(server):
    wait_until_settled(server)
    hanging = worker_pids(server)[0]
    os.kill(hanging, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with kept_alive(server.ready[1], 4):
            assert time.monotonic() - began < 4
    finally:
        os.kill(hanging, signal.SIGCONT)


def test_it_stops_with_status_0_despite_idle_connections_and_leaves_no_files_behind(model_path, tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with start_flask(model_path, env=environment) as server:
        with kept_alive(server.ready[1], 3):
            assert list(tmp_path.iterdir())
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 8
        assert "Traceback" not in server.output()
    assert not list(tmp_path.iterdir())


SHORT_KEEP_ALIVE = """
import sys, flask_server
from rnn_serving.http_worker import gunicorn_server
gunicorn_server.KEEP_ALIVE_S = 1
sys.exit(flask_server.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_clients_that_send_nothing_or_read_nothing_are_disconnected(model_path):
    command = [sys.executable, "-c", SHORT_KEEP_ALIVE, "--model_path", str(model_path), "--port", "0"]
    with started(*command, ready=r"ready on (http://\S+/)") as server, contextlib.ExitStack() as stack:
        address = urlsplit(server.ready[1])
        silent, partial, unreading = (
            stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=20))
            for _ in range(3)
        )
        partial.sendall(b"GET / HTTP/1.1\r\nX:")
        # More answers than the buffers of both sides hold.
        unreading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with contextlib.suppress(ConnectionError):
            unreading.sendall(b"GET / HTTP/1.1\r\n\r\n" * 2000)
            wait_until(lambda: unreading.send(b"\r\n") and False)
        assert silent.recv(1) == b""
        assert partial.recv(1) == b""
        with kept_alive(server.ready[1], 1):
            pass


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["importing", "loading"])
def test_it_can_be_stopped_while_it_starts(model_path, tmp_path, moment, how):
    command = [sys.executable, "flask_server.py", "--model_path", str(model_path), "--port", "0", "--batching", "off"]
    with started(*command, env=os.environ | {"TMPDIR": str(tmp_path)}) as server:
        wait_until(lambda: worker_pids(server) if moment == "loading" else list(tmp_path.iterdir()))
        assert server.stop(how) == 0
        lines = server.output().splitlines()
        assert [line for line in lines if not line.startswith("Flask server ready")] == []
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(model_path):
    with start_flask(model_path) as server:
        pids = worker_pids(server)
        server.stop(signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)))


def is_alive(pid):
    """Return whether a process exists and is not a zombie."""
    try:
        state = (proc_directory(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.slow
def test_a_server_whose_model_was_deleted_exits_when_its_worker_dies(tmp_path):
    odd_models.export(tmp_path / "plus" / "1", odd_models.variable(1))
    with start_flask(tmp_path / "plus") as server:
        (tmp_path / "plus").rename(tmp_path / "gone")
        # The loaded version keeps answering.
        with kept_alive(server.ready[1], 1) as (connection,):
            assert ask(connection) == [2.0]
        os.kill(worker_pids(server)[0], signal.SIGKILL)
        assert server.process.wait(40) == 1
        assert "no exported model" in server.wait_for("error:").string


def test_requests_before_the_model_is_loaded_get_a_503_with_retry_after(model_path):
    command = [sys.executable, "flask_server.py", "--model_path", str(model_path), "--port", "0"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command[-1] = str(port)
    statuses, failures = [], []
    with started(*command) as server:
        asking = threading.Thread(target=ask_until_ready, args=(f"http://127.0.0.1:{port}", statuses, failures))
        asking.start()
        server.wait_for("ready on")
        asking.join(40)
    assert not failures
    assert 503 in statuses
    assert statuses == sorted(statuses, reverse=True)


def ask_until_ready(url, statuses, failures):
    """Ask /healthz and /readyz until the latter is 200."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        try:
            ready = requests.get(url + "/readyz", timeout=10)
        except requests.ConnectionError:
            time.sleep(0.01)
            continue
        statuses.append(ready.status_code)
        if ready.status_code == 200:
            return
        if (ready.headers["Retry-After"], ready.headers["Connection"]) != ("1", "close") or not ready.json()["error"]:
            failures.append(ready.headers)
        for path, status in (("/healthz", 200), ("/metadata", 503), ("/metrics", 200)):
            answer = requests.get(url + path, timeout=10)
            if answer.status_code not in (status, 200):
                failures.append((path, answer.status_code))
