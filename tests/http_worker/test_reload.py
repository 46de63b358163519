"""SIGHUP and SIGTERM under load: new workers take over when they are ready, and no request in flight is lost."""

import contextlib
import http.client
import json
import signal
import threading
import time
from urllib.parse import urlsplit

import pytest
from conftest import start_flask
from endpoint_processes import all_workers_accept, wait_until, worker_pids

BODY = json.dumps({"data": [0.5] * 784}).encode()
HEADERS = {"Content-Type": "application/json"}


class Callers:
    """Threads that send requests until the server refuses connections; `failures` lists lost requests and errors."""

    def __init__(self, address, count, keeps_alive):
        self.answered, self.failures, self._stop = 0, [], threading.Event()
        self._address, self._keeps_alive, self._lock = address, keeps_alive, threading.Lock()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self.threads:
            thread.join(30)

    def _run(self):
        while not self._stop.is_set():
            connection = http.client.HTTPConnection(self._address, timeout=20)
            try:
                connection.connect()
            except OSError:
                return  # the server has stopped: nothing was sent
            with contextlib.closing(connection):
                while not self._stop.is_set() and self._send(connection) and self._keeps_alive:
                    pass

    def _send(self, connection):
        """Send one request; return whether another one may follow on the connection."""
        try:
            connection.request("POST", "/", BODY, HEADERS)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self.failures.append(repr(error))
            return False
        with self._lock:
            self.answered += 1
            if answer.status != 200:
                self.failures.append(answer.status)
        return not answer.will_close


@pytest.mark.parametrize("keeps_alive", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_no_request_in_flight_is_reset_when_the_server_stops(export_base, keeps_alive):
    with start_flask(export_base, "--workers", "2", "--threads", "1") as server:
        wait_until(lambda: all_workers_accept(server, 2))  # one that still loads its model answers 503
        with Callers(urlsplit(server.ready[1]).netloc, 16, keeps_alive) as callers:
            wait_until(lambda: callers.answered > 300)
            assert server.stop() == 0
        assert not callers.failures, callers.failures[:5]


@pytest.mark.slow
def test_after_sighup_new_workers_take_over_without_a_failed_request(export_base):
    with start_flask(export_base, "--workers", "2", "--threads", "1") as server:
        before = set(worker_pids(server))
        with Callers(urlsplit(server.ready[1]).netloc, 8, keeps_alive=False) as callers:
            wait_until(lambda: callers.answered > 100)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: not before & set(worker_pids(server)))
            answered = callers.answered
            wait_until(lambda: callers.answered > answered + 100)
        assert len(worker_pids(server)) == 2
        assert not callers.failures, callers.failures[:5]


@pytest.mark.slow
def test_a_second_sighup_is_ignored_while_the_workers_of_the_first_are_loading(export_base):
    with start_flask(export_base, "--threads", "1") as server:
        before = set(worker_pids(server))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(worker_pids(server)) == 2)
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("SIGHUP is ignored")
        wait_until(lambda: not before & set(worker_pids(server)))
        time.sleep(0.5)
        assert len(worker_pids(server)) == 1
        assert server.stop() == 0
