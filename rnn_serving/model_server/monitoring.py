"""Metrics under TensorFlow Serving's names, in Prometheus's text format (prometheus_exporter.cc).

prometheus-client cannot write these names: they begin with a colon, as in `:tensorflow:serving:request_count`, and
counters lack the suffix `_total`.
"""

import bisect
import contextlib
import itertools
import re
import threading
import time

from rnn_serving.model_server.errors import ServingError

# Upper bounds of the histograms, in microseconds: 10 * 1.8^k.
_BUCKETS = [10 * 1.8**power for power in range(33)]


class Counter:
    """A count for each combination of labels."""

    kind = "counter"

    def __init__(self, name, *labels):
        self.name, self.labels = name, labels
        self._lock, self._values = threading.Lock(), {}
        _METRICS.append(self)

    def add(self, *labels, amount=1):
        """Add `amount` to the count."""
        with self._lock:
            self._values[labels] = self._values.get(labels, 0) + amount

    def total(self):
        """Return the sum over all labels."""
        return sum(self._values.values())

    def lines(self):
        """Return the samples as text."""
        with self._lock:
            samples = [(_labels(self.labels, key), value) for key, value in self._values.items()]
        return [f"{prometheus_name(self.name)}{labels} {value}" for labels, value in samples]


class Histogram:
    """The number of values below each bound, for each combination of labels."""

    kind = "histogram"

    def __init__(self, name, *labels):
        self.name, self.labels = name, labels
        self._lock, self._cells = threading.Lock(), {}
        _METRICS.append(self)

    def observe(self, value, *labels):
        """Add a value."""
        with self._lock:
            counts, total = self._cells.setdefault(labels, ([0] * (len(_BUCKETS) + 1), [0.0]))
            counts[bisect.bisect_left(_BUCKETS, value)] += 1
            total[0] += value

    def total(self):
        """Return the number of values."""
        return sum(sum(counts) for counts, _ in self._cells.values())

    def lines(self):
        """Return the samples as text: cumulative buckets, sum and count."""
        name, lines = prometheus_name(self.name), []
        with self._lock:
            for key, (counts, total) in self._cells.items():
                bounds = [*(f"{bound:g}" for bound in _BUCKETS), "+Inf"]
                for bound, count in zip(bounds, itertools.accumulate(counts)):
                    lines.append(f"{name}_bucket{_labels((*self.labels, 'le'), (*key, bound))} {count}")
                lines.append(f"{name}_sum{_labels(self.labels, key)} {total[0]:g}")
                lines.append(f"{name}_count{_labels(self.labels, key)} {sum(counts)}")
        return lines


_METRICS = []
REQUEST_COUNT = Counter("/tensorflow/serving/request_count", "model_name", "status")
REQUEST_LATENCY = Histogram("/tensorflow/serving/request_latency", "model_name", "API", "entrypoint")
RUNTIME_LATENCY = Histogram("/tensorflow/serving/runtime_latency", "model_name", "API", "runtime")
WARMUP_LATENCY = Histogram("/tensorflow/serving/model_warmup_latency", "model_path", "status")
EXAMPLE_COUNT = Counter("/tensorflow/serving/request_example_count_total", "model")
QUEUING_LATENCY = Histogram("/tensorflow/serving/batching_session/queuing_latency")
BATCHES = Counter("/tensorflow/serving/batching_session/wrapped_run_count")
PROCESSED_BATCH_SIZE = Histogram("/tensorflow/serving/batching_session/processed_batch_size")
INPUT_BATCH_SIZE = Histogram("/tensorflow/serving/batching_session/input_batch_size")
PADDING_SIZE = Histogram("/tensorflow/serving/batching_session/padding_size", "execution_batch_size")


def prometheus_name(name):
    """Return a metric's name with a colon for each character that Prometheus does not allow."""
    return re.sub("[^A-Za-z0-9_]", ":", name)


def _labels(names, values):
    if not names:
        return "{}"
    escaped = (value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(names, escaped)) + "}"


@contextlib.contextmanager
def request(api, entrypoint, model_name):
    """Count a request by its status, and record its latency if it succeeds."""
    started = time.perf_counter()
    try:
        yield
    except ServingError as error:
        REQUEST_COUNT.add(model_name, error.code.name)
        raise
    REQUEST_COUNT.add(model_name, "OK")
    REQUEST_LATENCY.observe((time.perf_counter() - started) * 1e6, model_name, api, entrypoint)


@contextlib.contextmanager
def model_call(api, model_name):
    """Record the latency of a request's model call."""
    started = time.perf_counter()
    yield
    RUNTIME_LATENCY.observe((time.perf_counter() - started) * 1e6, model_name, api, "TF1")


def page():
    """Return all metrics in Prometheus's text format."""
    lines = []
    for metric in _METRICS:
        samples = metric.lines()
        if samples:
            lines += [f"# TYPE {prometheus_name(metric.name)} {metric.kind}", *samples]
    return "\n".join(lines) + "\n"


def add_metric(response, name):
    """Add the value of a metric to a ReloadConfigResponse."""
    value = sum(metric.total() for metric in _METRICS if metric.name == name)
    response.metric.add(name=name, int64_value_increase=value)
