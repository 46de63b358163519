"""The Flask endpoint under load for a minute: versions change, a worker is killed, and no request is lost."""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import odd_models
import pytest
import requests
from conftest import start_flask
from endpoint_processes import (
    all_workers_accept,
    ready_workers,
    rss_mb,
    sockets,
    sockets_by_worker,
    wait_until,
    worker_pids,
)

from rnn_serving import exports

pytestmark = pytest.mark.slow

SOAK_S, CALLERS, WORKERS = 60, 32, 2
REQUESTS, SETTLED_AFTER, CONNECTIONS = 100_000, 10_000, 16
KILLED_WORKERS, KILLING_CALLERS = 200, 8
LIMIT_S = 20
SLOWEST_S = 5
# By what factor a worker's memory may grow after it has settled.
GROWTH_LIMIT = 1.1


class Caller(threading.Thread):
    """Sends requests over one persistent connection, until `stop` is set or `count` times."""

    def __init__(self, url, stop, count=None):
        super().__init__(daemon=True)
        self._address, self._stop_event, self._left = urlsplit(url).netloc, stop, count
        self.seconds, self.lost, self.failures, self.versions = [], 0, [], set()

    def run(self):
        """Send requests; a connection that breaks without an answer is counted and opened again."""
        connection = http.client.HTTPConnection(self._address, timeout=LIMIT_S)
        while not self._stop_event.is_set() and self._left != 0:
            began = time.perf_counter()
            try:
                self._send(connection, len(self.seconds) % 7 + 1)
            except (ConnectionError, http.client.BadStatusLine):
                self.lost += 1
                connection.close()
                continue
            except Exception as error:
                self.failures.append(repr(error))
                connection.close()
            self.seconds.append(time.perf_counter() - began)
            if self._left is not None:
                self._left -= 1
        connection.close()

    def _send(self, connection, rows):
        connection.request("POST", "/", json.dumps({"data": [[float(rows)] * 4] * rows}), HEADERS)
        response = connection.getresponse()
        content = response.read()
        assert response.status == 200, (response.status, content)
        # Every version adds its own number: the scores must come from the version in the header.
        version = int(response.headers["X-Model-Version"])
        self.versions.add(version)
        assert json.loads(content)["y"] == [[rows + version] * 4] * rows, content


HEADERS = {"Content-Type": "application/json"}


@contextlib.contextmanager
def load(url, callers, count=None):
    """Run callers while the body runs, or until each has sent `count` requests; yield them."""
    stop = threading.Event()
    threads = [Caller(url, stop, count) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        stop.set()
        for thread in threads:
            thread.join(LIMIT_S)


def export(base, version):
    """Publish a version that adds its number to rows of four."""
    if not (source := base.parent / f"source-{version}").exists():
        odd_models.export(source, odd_models.of([None, 4], lambda x: odd_models.plus_variable(x, version)))
    with exports.staging_directory(base, version, overwrite=True) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True)


def export_broken(base, version):
    """Publish a version whose graph is garbage."""
    with exports.staging_directory(base, version, overwrite=True) as staging:
        (staging / exports.SAVED_MODEL_FILE).write_bytes(random.Random(version).randbytes(1000))


def report(name, callers):
    """Print the callers' latencies; return the requests answered and lost."""
    seconds = np.concatenate([caller.seconds for caller in callers])
    lost = sum(caller.lost for caller in callers)
    p50, p99, slowest = np.percentile(seconds, [50, 99, 100]) * 1000
    print(f"\n{name}: {len(seconds)} requests, {lost} lost, p50 {p50:.1f}, p99 {p99:.1f}, slowest {slowest:.0f} ms")
    failures = [failure for caller in callers for failure in caller.failures]
    assert not failures, f"{len(failures)} of {len(seconds)} failed, the first: {failures[:3]}"
    assert slowest < SLOWEST_S * 1000
    return len(seconds), lost


@pytest.fixture
def base(tmp_path):
    """A directory with version 1."""
    export(tmp_path / "plus", 1)
    return tmp_path / "plus"


def all_serve(url, version):
    """Wait until every worker serves a version."""
    wait_until(lambda: ready_workers(url, "plus", version) == WORKERS)


def swap(base, url):
    """Publish a new version, a broken one and one that replaces another, and roll back."""
    export(base, 2)
    all_serve(url, 2)
    export_broken(base, 3)
    export(base, 2)
    all_serve(url, 2)
    shutil.rmtree(base / "3")
    export(base, 4)
    all_serve(url, 4)
    shutil.rmtree(base / "4")
    shutil.rmtree(base / "2")
    all_serve(url, 1)


def test_in_a_minute_of_load_only_the_requests_of_a_killed_worker_are_lost(base):
    with start_flask(base, "--workers", str(WORKERS), "--threads", "1", "--postprocess", "none") as server:
        url = server.ready[1]
        wait_until(lambda: all_workers_accept(server, WORKERS))
        with load(url, CALLERS) as callers:
            wait_until(lambda: all(caller.seconds for caller in callers))
            at_first = sockets_by_worker(server)
            deadline, swaps = time.monotonic() + SOAK_S, 0
            swap(base, url)
            before = sum(caller.lost for caller in callers)
            victim = worker_pids(server)[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: len(pids := worker_pids(server)) == WORKERS and victim not in pids)
            all_serve(url, 1)
            settled = {}
            while time.monotonic() < deadline:
                swap(base, url)
                swaps += 1
                settled = settled or {pid: rss_mb(pid) for pid in worker_pids(server)}
            after = {pid: rss_mb(pid) for pid in worker_pids(server)}
        print("sockets of each worker at first:", at_first)
        answered, lost = report(f"{swaps + 1} rounds of versions, one killed worker", callers)
        print("RSS in MB after the first round and the last:", [(int(settled[pid]), int(after[pid])) for pid in after])
        assert before == 0
        # No more than it had connections.
        assert lost <= CALLERS / WORKERS + 1
        assert answered > SOAK_S * 100
        assert set.union(*(caller.versions for caller in callers)) == {1, 2, 4}
        assert server.stop() == 0
        assert "Traceback" not in server.output()
    assert all(after[pid] <= GROWTH_LIMIT * settled[pid] for pid in after)


def accepts(url, pid):
    """Return whether a worker with fewer connections than the others accepts one."""
    idle = sockets(pid)
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=LIMIT_S)
    with contextlib.closing(connection):
        connection.request("GET", "/readyz")
        return connection.getresponse().read() == b'{"status":"ready"}\n' and sockets(pid) > idle


def test_two_hundred_workers_killed_one_after_the_other_are_replaced(base):
    with start_flask(base, "--workers", str(WORKERS), "--threads", "1", "--postprocess", "none") as server:
        url = server.ready[1]
        all_serve(url, 1)
        with load(url, KILLING_CALLERS) as callers:
            for _ in range(KILLED_WORKERS):
                victim = worker_pids(server)[0]
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda gone=victim: len(pids := worker_pids(server)) == WORKERS and gone not in pids)
                wait_until(lambda: accepts(url, worker_pids(server)[-1]))
        answered, lost = report(f"{KILLED_WORKERS} killed workers", callers)
        assert lost <= KILLED_WORKERS * KILLING_CALLERS
        assert answered > KILLED_WORKERS * 10
        assert server.stop() == 0
        assert "Traceback" not in server.output()


def test_a_hundred_thousand_requests_do_not_grow_a_workers_memory(base):
    with start_flask(base, "--postprocess", "none") as server:
        (pid,) = worker_pids(server)
        with load(server.ready[1], CONNECTIONS, SETTLED_AFTER // CONNECTIONS) as callers:
            for caller in callers:
                caller.join(300)
        settled = rss_mb(pid)
        with load(server.ready[1], CONNECTIONS, (REQUESTS - SETTLED_AFTER) // CONNECTIONS) as callers:
            for caller in callers:
                caller.join(300)
        occupied = rss_mb(pid)
        answered, lost = report("one worker", callers)
        print(f"RSS {settled:.1f} MB after {SETTLED_AFTER} requests, {occupied:.1f} MB after {REQUESTS}")
        assert (answered, lost) == (REQUESTS - SETTLED_AFTER, 0)
        assert requests.get(server.ready[1] + "readyz", timeout=10).status_code == 200
    assert occupied <= GROWTH_LIMIT * settled
