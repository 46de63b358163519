"""What the tests of the Flask endpoint's processes share: its workers, their memory and connections, and waiting."""

import contextlib
import os
import re
import time
from pathlib import Path

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
