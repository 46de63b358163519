import json

import pytest
from gunicorn.config import Config

from rnn_serving.flask_endpoint import metrics
from rnn_serving.flask_endpoint.request_log import RequestLog

HEADERS = [("X-Model-Version", "3")]
ENVIRON = {"REMOTE_ADDR": "1.2.3.4", "REQUEST_METHOD": "POST", "PATH_INFO": "/", "CONTENT_LENGTH": "34"}


def logged(capsys, environ, accesslog="-"):
    config = Config()
    config.set("accesslog", accesslog)
    RequestLog(config).answered(environ, 200, HEADERS, size=12, seconds=0.0015)
    return capsys.readouterr().out


def test_a_line_says_who_asked_what_and_what_came_of_it(capsys):
    line = json.loads(logged(capsys, ENVIRON | {"HTTP_USER_AGENT": "curl"}))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "remote": "1.2.3.4",
        "method": "POST",
        "path": "/",
        "status": 200,
        "ms": 1.5,
        "bytes_in": 34,
        "bytes_out": 12,
        "model_version": "3",
        "user_agent": "curl",
    }


def test_what_is_no_request_has_a_line_too(capsys):
    line = json.loads(logged(capsys, {"REMOTE_ADDR": "1.2.3.4"}))
    assert (line["method"], line["path"], line["bytes_in"]) == (None, "", 0)


@pytest.mark.parametrize(
    "odd",
    [
        {"PATH_INFO": 'a"\n\x00é'},
        {"HTTP_USER_AGENT": '"\r\n\xff'},
        {"CONTENT_LENGTH": "9" * 100},
        {"CONTENT_LENGTH": ""},
    ],
    ids=str,
)
def test_whatever_a_client_sends_it_is_one_line_of_json(capsys, odd):
    lines = logged(capsys, ENVIRON | odd).splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["status"] == 200


def test_without_an_access_log_requests_are_only_counted(capsys):
    def count():
        return metrics.REQUESTS.labels("/", "200")._value.get()

    before = count()
    assert logged(capsys, ENVIRON, accesslog=None) == ""
    assert count() == before + 1


def test_a_path_that_is_not_ours_is_no_label(capsys):
    logged(capsys, ENVIRON | {"PATH_INFO": "/made/up"})
    assert b"made/up" not in metrics.page()
