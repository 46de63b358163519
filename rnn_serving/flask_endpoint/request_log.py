"""One metric and, if wanted, one line for each request that a worker answers."""

import sys
from datetime import UTC, datetime

import orjson
from gunicorn.glogging import Logger

# What clients can make up is not a label: each one would stay in memory.
_PATHS = {"/", "/metadata", "/healthz", "/readyz", "/metrics"}
_MAX_BYTES = 2**63 - 1


class RequestLog(Logger):
    """gunicorn's logger; `accesslog` turns on the line, in JSON on stdout."""

    def __init__(self, cfg):
        super().__init__(cfg)
        self._writes_lines = bool(cfg.accesslog)

    def answered(self, environ, status, headers, size, seconds):
        """Count and time a request, and write its line."""
        # Imported here, in a worker: the metrics of the workers begin with the first import.
        from rnn_serving.flask_endpoint import metrics

        path = environ.get("PATH_INFO", "")
        metrics.count_request(path if path in _PATHS else "other", status, seconds)
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
        # Whatever a client claims, JSON's writer takes no more than 64 bits.
        "bytes_in": min(int(environ.get("CONTENT_LENGTH") or 0), _MAX_BYTES),
        "bytes_out": size,
        "model_version": lower.get("x-model-version"),
        "user_agent": environ.get("HTTP_USER_AGENT"),
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE).decode()
