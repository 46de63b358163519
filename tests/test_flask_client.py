import contextlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from conftest import run_script, start_flask, started

import flask_client
from benchmarks import server_processes
from rnn_serving import checkpoint, dataset
from rnn_serving.clients import load
from rnn_serving.command_line import UserError


def client(url, data_dir, *flags):
    address = urlsplit(url)
    return flask_client.main(
        ["--data_dir", str(data_dir), "--host", address.hostname, "--port", str(address.port), *flags]
    )


def test_the_accuracy_is_that_of_training(flask_url, data_dir, checkpoint_dir, tmp_path, capsys):
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


def test_the_host_may_start_with_http_and_images_may_be_batched(flask_url, data_dir):
    assert client(flask_url, data_dir, "--host", "http://127.0.0.1", "--batch_size", "50", "--num_tests", "120") == 0


def test_more_images_than_the_data_set_has_is_an_error(flask_url, data_dir):
    with pytest.raises(UserError, match="has only 360 test images"):
        client(flask_url, data_dir, "--num_tests", "361")


def test_no_server_is_an_error_that_says_how_to_start_one(data_dir):
    with pytest.raises(UserError, match="Connection refused; expected a server there, .*flask_server.py"):
        client("http://127.0.0.1:9", data_dir, "--wait", "0")


@pytest.mark.slow
def test_a_command_pasted_right_after_the_servers_start_waits_for_it(export_base, data_dir, capsys):
    port = server_processes.free_port()
    command = [sys.executable, "flask_server.py", "--model_path", export_base, "--port", str(port)]
    with started(*command):
        assert client(f"http://127.0.0.1:{port}", data_dir, "--num_tests", "3", "--wait", "60") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith(f"127.0.0.1:{port}: ")
    assert captured.err.endswith("; waiting up to 60 s\n")
    assert len(captured.err.splitlines()) == 1
    assert "3 images, " in captured.out


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


def test_a_server_that_is_still_loading_is_one_error_not_one_for_each_image(data_dir):
    with failing_server((503, b""), metadata=(503, b'{"error": "no model yet"}')) as url:
        with pytest.raises(UserError, match='status 503 {"error": "no model yet"}; expected a server that has loaded'):
            client(url, data_dir, "--wait", "0.3")


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


@pytest.mark.slow
def test_requests_to_a_server_that_died_are_errors_not_wrong_digits(export_base, data_dir):
    test, sent = dataset.load_test_images(data_dir), []
    with start_flask(export_base) as server, flask_client.connect(server.ready[1], timeout_s=5) as ask:

        def ask_and_stop_the_server(images):
            sent.append(images)
            if len(sent) == 100:
                server.stop()
            return ask(images)

        graded = load.run_load(lambda: contextlib.nullcontext(ask_and_stop_the_server), test)
    assert 0 < graded.correct <= 99
    assert len(graded.errors) >= 360 - 99
    assert len(graded.errors) + len(graded.latencies_s) == 360


def test_it_imports_no_tensorflow():
    assert run_script("-c", "import sys, flask_client; sys.exit('tensorflow' in sys.modules)").returncode == 0
