"""A worker's heartbeat, kept in memory: gunicorn's own file needs a writable directory."""

import os

from gunicorn.workers import base
from gunicorn.workers.workertmp import WorkerTmp


class Heartbeat(WorkerTmp):
    """The file whose time of change tells the arbiter that a worker is alive, without a directory (Linux)."""

    def __init__(self, cfg):
        self._tmp = os.fdopen(os.memfd_create("heartbeat"), "w+b", 0)


def keep_in_memory():
    """Let gunicorn's workers use a `Heartbeat` where the system has such files."""
    if hasattr(os, "memfd_create"):
        base.WorkerTmp = Heartbeat
