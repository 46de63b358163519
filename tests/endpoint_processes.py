"""Helpers for tests of the Flask endpoint's processes: waiting, workers, their sockets and memory, metrics."""

import contextlib
import http.client
import os
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

LIMIT_S = 40


def wait_until(condition, limit_s=LIMIT_S):
    """Return the first true value of `condition()`."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{condition} is still false after {limit_s} s"
        time.sleep(0.02)
    return value


def proc_directory(pid):
    """Return the directory of a process under /proc; skip the test on a system without one, such as macOS."""
    if not Path("/proc/self/task").exists():
        pytest.skip("needs /proc, as on Linux, to look at processes")
    return Path(f"/proc/{pid}")


def children(pid):
    """Return the process ids of the children that a process's main thread has started."""
    return [int(child) for child in (proc_directory(pid) / f"task/{pid}/children").read_text().split()]


def worker_pids(server):
    """Return the process ids of a server's workers."""
    return children(server.process.pid)


def sockets(pid):
    """Return how many sockets a process has open."""
    count = 0
    for link in (proc_directory(pid) / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(link).startswith("socket:")
    return count


def sockets_by_worker(server):
    """Return how many sockets each worker has open."""
    return [sockets(pid) for pid in worker_pids(server)]


def wait_until_settled(server):
    """Return the sockets of each worker, once earlier connections have been closed."""

    def unchanged_sockets():
        before = sockets_by_worker(server)
        time.sleep(0.1)
        return before == sockets_by_worker(server) and before

    return wait_until(unchanged_sockets)


def all_workers_accept(server, workers):
    """Return whether every worker accepts one of as many connections as there are workers."""
    idle, address = wait_until_settled(server), urlsplit(server.ready[1])
    with contextlib.ExitStack() as stack:
        for _ in range(workers):
            connection = stack.enter_context(contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=20)))
            connection.request("GET", "/readyz")
            if connection.getresponse().read() != b'{"status":"ready"}\n':
                return False
        return all(now > before for now, before in zip(sockets_by_worker(server), idle))


def rss_mb(pid):
    """Return the resident memory of a process in MB."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", (proc_directory(pid) / "status").read_text())[1]) / 1024


def metric(url, name):
    """Return the value of a metric, by name and labels; 0 if it does not exist."""
    found = re.search(re.escape(name) + r" (\S+)$", requests.get(url + "metrics", timeout=10).text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def ready_workers(url, model, version=1):
    """Return how many workers serve a version."""
    return metric(url, f'flask_workers{{model="{model}",version="{version}"}}')
