import pytest

from benchmarks.server_times import model_time, server_time
from benchmarks.timed_article_server import TimedApplication, TimedSession

FLASK_PAGE = """# TYPE flask_request_seconds histogram
flask_request_seconds_bucket{le="0.001",path="/"} 7.0
flask_request_seconds_sum{path="/metrics"} 5.0
flask_request_seconds_count{path="/metrics"} 9.0
flask_request_seconds_sum{path="/"} 0.25
flask_request_seconds_count{path="/"} 100.0
"""
MODEL_SERVER_PAGE = """# TYPE :tensorflow:serving:request_latency histogram
:tensorflow:serving:request_latency_bucket{model_name="mnist",API="Predict",entrypoint="GRPC",le="10"} 1
:tensorflow:serving:request_latency_sum{model_name="mnist",API="Predict",entrypoint="GRPC"} 2000
:tensorflow:serving:request_latency_count{model_name="mnist",API="Predict",entrypoint="GRPC"} 4
:tensorflow:serving:request_latency_sum{model_name="mnist",API="predict",entrypoint="REST"} 1e+06
:tensorflow:serving:request_latency_count{model_name="mnist",API="predict",entrypoint="REST"} 6
:tensorflow:serving:runtime_latency_sum{model_name="mnist",API="Predict",runtime="TF1"} 900
:tensorflow:serving:runtime_latency_count{model_name="mnist",API="Predict",runtime="TF1"} 3
"""


@pytest.mark.parametrize(("page", "spent"), [(FLASK_PAGE, (0.25, 100)), (MODEL_SERVER_PAGE, (1.002, 10)), ("", (0, 0))])
def test_a_servers_time_is_that_of_its_predictions(page, spent):
    assert server_time(page) == pytest.approx(spent)


def test_the_articles_application_reports_the_time_of_its_requests_as_the_endpoint_does():
    application = TimedApplication(lambda environ, start_response: iter([environ["PATH_INFO"].encode()]))

    def get(path):
        return b"".join(application({"PATH_INFO": path}, lambda *_: None)).decode()

    assert server_time(get("/metrics")) == (0, 0)
    assert [get("/"), get("/")] == ["/", "/"]
    seconds, count = server_time(get("/metrics"))
    assert 0 < seconds < 1
    assert count == 2


@pytest.mark.parametrize(("page", "spent"), [(FLASK_PAGE, (0, 0)), (MODEL_SERVER_PAGE, (0.0009, 3)), ("", (0, 0))])
def test_the_time_of_the_model_is_that_of_its_calls(page, spent):
    assert model_time(page) == pytest.approx(spent)


def test_the_articles_server_times_its_model():
    class Session:
        def run(self, *args, **kwargs):
            return args, kwargs

    session = TimedSession(Session())
    application = TimedApplication(lambda environ, start_response: [b""], session.spent)
    assert session.run("output", feed_dict={}) == (("output",), {"feed_dict": {}})
    page = b"".join(application({"PATH_INFO": "/metrics"}, lambda *_: None)).decode()
    seconds, calls = model_time(page)
    assert 0 < seconds < 1
    assert calls == 1
