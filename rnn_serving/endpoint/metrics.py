"""The metrics of `GET /metrics`, in Prometheus's format, summed over the workers."""

import functools
import os

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, multiprocess

# Seconds: from 0.25 ms to the default deadline.
_SECONDS = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2.5, 5, 10)
CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST

REQUESTS = Counter("flask_requests", "requests answered", ["path", "status"])
SECONDS = Histogram(
    "flask_request_seconds", "from a request's head to its answer, not yet sent", ["path"], buckets=_SECONDS
)
BATCH_SIZE = Histogram("flask_batch_size", "rows of one model call", buckets=[2**power for power in range(11)])
WORKERS = Gauge("flask_workers", "workers that serve a version", ["model", "version"], multiprocess_mode="livesum")


def count_request(path, status, seconds):
    """Count and time an answer."""
    count, time = _request_metrics(path, status)
    count.inc()
    time.observe(seconds)


@functools.cache
def _request_metrics(path, status):
    # Cached: finding a metric by its labels costs as much as counting.
    return REQUESTS.labels(path, str(status)), SECONDS.labels(path)


def page():
    """Return the metrics of all workers, or of this process if there are no others."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return prometheus_client.generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    return prometheus_client.generate_latest(registry)
