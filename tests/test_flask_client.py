import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from conftest import run_script, start_flask

import flask_client
from rnn_serving import checkpoint, dataset, latency
from rnn_serving.command_line import UserError


def client(url, data_dir, *flags):
    address = urlsplit(url)
    return flask_client.main(
        ["--data_dir", str(data_dir), "--host", address.hostname, "--port", str(address.port), *flags]
    )


def test_its_accuracy_is_the_models(flask_url, data_dir, checkpoint_dir, tmp_path, capsys):
    assert client(flask_url, data_dir, "--json", str(tmp_path / "r.json"), "--concurrency", "4") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["num_tests"] == 360
    assert report["accuracy"] == checkpoint.read_run(checkpoint_dir)["testing_accuracy"]
    assert (report["server"], report["model_version"], report["dataset"]) == ("flask", 1, "digits")
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["max"]
    output = capsys.readouterr().out
    assert f"Accuracy= {100 * report['accuracy']:.2f}\n" in output
    assert "Time taken= " in output
    assert "Latency in ms: mean " in output


def test_a_host_with_http_and_batches_work(flask_url, data_dir):
    assert client(flask_url, data_dir, "--host", "http://127.0.0.1", "--batch_size", "50", "--num_tests", "120") == 0


def test_more_images_than_there_are_is_an_error(flask_url, data_dir):
    with pytest.raises(UserError, match="has 360 test images"):
        client(flask_url, data_dir, "--num_tests", "361")


def test_no_server_is_an_error_that_says_how_to_start_one(data_dir):
    with pytest.raises(UserError, match="Connection refused; expected a server there, .*flask_server.py"):
        client("http://127.0.0.1:9", data_dir)


@pytest.mark.parametrize(
    ("told", "form"),
    [
        ({}, (28, 28)),
        ({"signature": []}, (28, 28)),
        ({"signature": {"inputs": {"x": {"dtype": 1, "shape": 5}}}}, (28, 28)),
        ({"signature": {"inputs": {"x": {"dtype": "float64", "shape": [None, 784]}}}}, (784,)),
        ({"signature": {"inputs": {"x": {"dtype": "float32", "shape": None}}}}, (28, 28)),
    ],
)
def test_the_shape_of_an_image_is_the_servers_where_it_tells_one(told, form):
    assert flask_client.image_form("http://h/", told) == form


def test_a_model_that_takes_no_images_is_an_error_before_anything_is_timed():
    told = {"model": "m", "version": 3, "signature": {"inputs": {"x": {"dtype": "float32", "shape": [None, 5]}}}}
    with pytest.raises(UserError, match=r"http://h/: model m version 3 takes float32 \(None, 5\) as 'x'; expected"):
        flask_client.image_form("http://h/", told)


class Failing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(*self.server.metadata)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(*self.server.answers())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def failing_server(answer, metadata=(200, b'{"model": "m", "version": 3}')):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    server.answers, server.metadata = lambda: answer, metadata
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_server_that_is_still_loading_is_an_error_not_a_thousand(data_dir):
    with failing_server((503, b""), metadata=(503, b'{"error": "no model yet"}')) as url:
        with pytest.raises(UserError, match='status 503 {"error": "no model yet"}; expected a server that has loaded'):
            client(url, data_dir)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((503, b'{"error": "busy"}'), 'status 503 {"error": "busy"}; expected 200'),
        ((200, b"<html>"), "'<html>'; expected JSON"),
        ((200, b'{"x": 1}'), "expected JSON with 'y'"),
        ((200, b'{"y": [[1, 2], [3]]}'), "expected JSON with 'y'"),
        ((200, b'{"y": [1, 2]}'), "answer has shape (2,)"),
    ],
)
def test_errors_are_counted_listed_and_end_with_status_1(data_dir, tmp_path, answer, message):
    with failing_server(answer) as url:
        assert client(url, data_dir, "--num_tests", "4", "--json", str(tmp_path / "r.json")) == 1
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["errors"], report["correct"], report["model_version"]) == (4, 0, 3)
    assert message in report["error_list"][0]


def test_a_server_that_dies_while_the_client_runs_is_errors_not_wrong_digits(export_base, data_dir):
    test, asked = dataset.load_test_images(data_dir), []
    with start_flask(export_base) as server, flask_client.connect(server.ready[1], timeout_s=5) as ask:

        def ask_and_stop_the_server(images):
            asked.append(images)
            if len(asked) == 100:
                server.stop()
            return ask(images)

        load = latency.run_load(lambda: contextlib.nullcontext(ask_and_stop_the_server), test)
    assert 0 < load.correct <= 99
    assert len(load.errors) >= 360 - 99
    assert len(load.errors) + len(load.latencies_s) == 360


def test_it_imports_no_tensorflow():
    assert run_script("-c", "import sys, flask_client; sys.exit('tensorflow' in sys.modules)").returncode == 0
