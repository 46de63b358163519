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

    def access(self, resp, req, environ, request_time):
        """Count and time a request, and write its line."""
        # Imported here, in a worker: the metrics of the workers begin with the first import.
        from rnn_serving.flask_endpoint import metrics

        path, seconds = environ.get("PATH_INFO") or "", request_time.total_seconds()
        label = path if path in _PATHS else "other"
        metrics.REQUESTS.labels(label, str(resp.status_code)).inc()
        metrics.SECONDS.labels(label).observe(seconds)
        if self.cfg.accesslog:
            sys.stdout.write(_line(resp, environ, path, seconds))
            sys.stdout.flush()


def _line(resp, environ, path, seconds):
    headers = {name.lower(): value for name, value in resp.headers}
    fields = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "remote": environ.get("REMOTE_ADDR"),
        "method": environ.get("REQUEST_METHOD"),
        "path": path,
        "status": resp.status_code,
        "ms": round(1000 * seconds, 3),
        # Whatever a client claims, JSON's writer takes no more than 64 bits.
        "bytes_in": min(int(environ.get("CONTENT_LENGTH") or 0), _MAX_BYTES),
        "bytes_out": resp.sent,
        "model_version": headers.get("x-model-version"),
        "user_agent": environ.get("HTTP_USER_AGENT"),
    }
    return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE).decode()
