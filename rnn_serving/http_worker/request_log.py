"""Metrics and, with --access_log, a line for each request that a worker answers."""

import sys
from datetime import UTC, datetime

import orjson
from gunicorn.glogging import Logger

from rnn_serving.endpoint.json_api import VERSION_HEADER
from rnn_serving.endpoint.operations import PATHS

_MAX_BYTES = 2**63 - 1


class RequestLog(Logger):
    """gunicorn's logger; `accesslog` turns on the lines, JSON on stdout."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self._writes_lines = bool(cfg.accesslog)

    def answered(self, environ, status, headers, size, seconds):
        """Count and time a request; write its line."""
        # Imported here, in a worker: the metrics of a worker begin with the first import.
        from rnn_serving.endpoint import metrics

        path = environ.get("PATH_INFO", "")
        # A path that clients can invent must not be a label: each one would stay in memory.
        metrics.count_request(path if path in PATHS else "other", status, seconds)
        if self._writes_lines:
            sys.stdout.write(_line(environ, path, status, headers, size, seconds))
            sys.stdout.flush()


def _line(environ, path, status, headers, size, seconds):
    lower = {name.lower(): value for name, value in headers}
    fields = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "remote": environ.get("REMOTE_ADDR"),
        "method": environ.get("REQUEST_METHOD"),
        "path": path,
        "status": status,
        "ms": round(1000 * seconds, 3),
        # A client may claim any length; orjson writes 64 bits at most.
        "bytes_in": min(int(environ.get("CONTENT_LENGTH") or 0), _MAX_BYTES),
        "bytes_out": size,
        "model_version": lower.get(VERSION_HEADER.lower()),
        "user_agent": environ.get("HTTP_USER_AGENT"),
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE).decode()
