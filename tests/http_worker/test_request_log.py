import json

import pytest
from gunicorn.config import Config

from rnn_serving.endpoint import metrics
from rnn_serving.http_worker.request_log import RequestLog

HEADERS = [("X-Model-Version", "3")]
ENVIRON = {"REMOTE_ADDR": "1.2.3.4", "REQUEST_METHOD": "POST", "PATH_INFO": "/", "CONTENT_LENGTH": "34"}


def logged(capsys, environ, accesslog="-"):
    config = Config()
    config.set("accesslog", accesslog)
    RequestLog(config).answered(environ, 200, HEADERS, size=12, seconds=0.0015)
    return capsys.readouterr().out


def test_a_line_describes_the_request_and_its_answer(capsys):
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


def test_an_invalid_request_is_logged_too(capsys):
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
def test_odd_requests_are_still_one_line_of_json(capsys, odd):
    lines = logged(capsys, ENVIRON | odd).splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["status"] == 200


def test_without_an_access_log_requests_are_only_counted(capsys):
    def count():
        return metrics.REQUESTS.labels("/", "200")._value.get()

    before = count()
    assert logged(capsys, ENVIRON, accesslog=None) == ""
    assert count() == before + 1


def test_an_unknown_path_is_not_a_label(capsys):
    logged(capsys, ENVIRON | {"PATH_INFO": "/made/up"})
    assert b"made/up" not in metrics.page()
