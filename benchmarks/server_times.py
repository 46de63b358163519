"""What a server's metrics say about the time that it took for its predictions, and for its calls of the model."""

from benchmarks.protocols import TIMEOUT_S, content
from rnn_serving.clients.http_json import direct_session


def read_metrics(url):
    """Return a page of metrics, in Prometheus's text format."""
    with direct_session() as session:
        return content(session.get(url, timeout=TIMEOUT_S)).decode()


def server_time(page):
    """Return (seconds, requests) of all predictions so far, of a Flask endpoint or a model server."""
    return _sum_and_count(page, "flask_request_seconds", ":tensorflow:serving:request_latency")


def model_time(page):
    """Return (seconds, calls) of all calls of the model so far; the Flask endpoint's metrics do not have them."""
    return _sum_and_count(page, "flask_model_seconds", ":tensorflow:serving:runtime_latency")


def _sum_and_count(page, flask_name, model_server_name):
    """Return (seconds, count) of the first name, in seconds, or of the second, in microseconds."""
    # A page has one of the two.
    flask_s, flask_count = (sum_of_samples(page, f'{flask_name}_{what}{{path="/"}}') for what in ("sum", "count"))
    model_us, model_count = (sum_of_samples(page, f"{model_server_name}_{what}{{") for what in ("sum", "count"))
    return flask_s + model_us / 1e6, flask_count + model_count


def sum_of_samples(page, prefix):
    """Return the sum of the samples whose lines begin with a prefix."""
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(prefix))
