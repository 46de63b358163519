"""What the tests of the Flask endpoint's processes share: its workers, their memory and connections, and waiting."""

import contextlib
import http.client
import os
import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests

LIMIT_S = 40


def wait_until(condition, limit_s=LIMIT_S):
    """Return what `condition()` gives once that is true."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{condition} has not come true in {limit_s} s"
        time.sleep(0.02)
    return value


def worker_pids(server):
    """Return the process ids of a server's workers."""
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sockets(pid):
    """Return how many sockets a process has open."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(link).startswith("socket:")
    return count


def spread(server):
    """Return how many sockets each worker has open."""
    return [sockets(pid) for pid in worker_pids(server)]


def wait_until_settled(server):
    """Return the sockets of each worker once the connections before have gone."""
    return wait_until(lambda: (first := spread(server)) == (time.sleep(0.1) or spread(server)) and first)


def all_take_part(server, workers):
    """Return whether every worker has been given one of as many connections."""
    idle, address = wait_until_settled(server), urlsplit(server.ready[1])
    with contextlib.ExitStack() as stack:
        for _ in range(workers):
            connection = stack.enter_context(contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=20)))
            connection.request("GET", "/readyz")
            if connection.getresponse().read() != b'{"status":"ready"}\n':
                return False
        return all(now > before for now, before in zip(spread(server), idle))


def rss_mb(pid):
    """Return the memory that a process occupies."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def metric(url, name):
    """Return the value of a metric, by name and labels; 0 where it is not there."""
    found = re.search(re.escape(name) + r" (\S+)$", requests.get(url + "metrics", timeout=10).text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def ready_workers(url, model, version=1):
    """Return how many workers serve a version."""
    return metric(url, f'flask_workers{{model="{model}",version="{version}"}}')
