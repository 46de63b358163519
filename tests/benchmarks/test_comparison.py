import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from conftest import ROOT, run_script, started
from pages import is_self_contained

from benchmarks.compare import comparison

SCRIPT = "scripts/compare_latency.py"
SHORT = ("--concurrency", "1,2", "--rate", "0", "--rounds", "2", "--duration", "0.1", "--num_tests", "20")
REPORTS = ["latency.html", "latency.json", "latency.md", "latency.png"]


@pytest.fixture
def compare(data_dir, export_base, tmp_path, monkeypatch, capfd):
    """A function that runs the script in this process, which has TensorFlow already: -> (status, stdout, stderr)."""
    monkeypatch.setattr("benchmarks.server_processes.end_on_sigterm", lambda: None)
    monkeypatch.setenv("TFSERVING", "python")

    def run(*flags):
        paths = ("--data_dir", data_dir, "--model_path", export_base, "--reports_dir", tmp_path)
        status = comparison.main([*map(str, paths), *SHORT, *flags])
        return (status, *capfd.readouterr())

    return run


def result_in(reports):
    return json.loads((reports / "latency.json").read_text())


@contextlib.contextmanager
def stub_server():
    """A server with the Flask endpoint's interface and another model; the value counts its answers."""
    found = SimpleNamespace(url=None, asked=0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer({"model": "mnist", "version": 7, "dataset": "letters"})

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            found.asked += 1
            self.answer({"y": [[0.1] * 10]})

        def answer(self, value):
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        found.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


@pytest.mark.slow
def test_running_servers_are_compared_with_the_articles_on_the_same_images(flask_url, grpc_address, compare, tmp_path):
    servers = ("--flask", flask_url, "--tfserving", grpc_address, "--servers", "article,flask,model_server")
    status, out, _ = compare(*servers, "--rate", "50")
    assert status == 0
    result = result_in(tmp_path)
    rows = result["rows"]
    names = ("article", "flask", "rnn_serving.model_server")
    points = ((1, None), (2, None), (None, 50))
    assert [(row["server"], row["concurrency"], row["rate_rps"]) for row in rows] == [
        (name, *point) for point in points for name in names
    ]
    assert all(row["errors"] == row["different"] == 0 and row["marks"] == [] for row in rows if row["concurrency"])
    assert all(row["num_tests"] == 20 for row in rows if row["concurrency"])
    assert len({row["accuracy"] for row in rows if row["num_tests"] == 20}) == 1
    assert all(row["latency_ms"]["p50"] <= row["latency_ms"]["p99"] for row in rows)
    assert all(row["ratio_to_article"]["p50"]["median"] == 1 for row in rows if row["server"] == "article")
    assert all(row["ratio_to_flask"] == 1 for row in rows if row["server"] == "flask")
    assert {"before", "after"} == set(result["load_average"])
    assert result["finding"] in out
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 9
    assert "\n".join(table) in (tmp_path / "latency.md").read_text()
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "latency.html").read_text()
    assert is_self_contained(page)
    assert page.count("<figure") == 6
    assert "TF_NUM_INTRAOP_THREADS" in page


@pytest.mark.slow
def test_it_starts_and_stops_a_server_itself_with_the_thread_limit(compare, tmp_path):
    status, _, _ = compare("--servers", "model_server", "--threads", "1")
    assert status == 0
    result = result_in(tmp_path)
    assert [(row["server"], row["protocol"]) for row in result["rows"][:2]] == [
        ("rnn_serving.model_server", "REST"),
        ("rnn_serving.model_server", "gRPC"),
    ]
    assert {row["model_version"] for row in result["rows"]} == {1}
    command = result["servers"][0]["command"]
    assert "--tensorflow_intra_op_parallelism=1" in command
    port = int(re.search(r"--port=(\d+)", command)[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


# The real server's command line and version, with this project's server behind them.
CPP_SERVER = """#!/bin/sh
[ "$1" = --version ] && echo "TensorFlow ModelServer: 2.19.1" && exit
exec {python} -m rnn_serving.model_server "$@"
"""


@pytest.fixture
def cpp_server_on_path(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    program.write_text(CPP_SERVER.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv("TFSERVING")


@pytest.mark.slow
def test_the_cpp_server_is_measured_without_and_with_batching(compare, cpp_server_on_path, tmp_path):
    status, _, _ = compare("--servers", "tensorflow_model_server,tensorflow_model_server_batching")
    assert status == 0
    result = result_in(tmp_path)
    assert result["versions"]["tensorflow_model_server"] == "2.19.1"
    # Each tells its name itself, and here it is not that of the C++ server.
    names = ("rnn_serving.model_server", "rnn_serving.model_server, batching")
    assert [(server["server"], server["protocol"]) for server in result["servers"]] == [
        (name, protocol) for name in names for protocol in ("REST", "gRPC")
    ]
    plain, batching = result["servers"][0], result["servers"][2]
    assert all("--grpc_max_threads=256" in server["command"] for server in (plain, batching))
    assert "--enable_batching=true --batching_parameters_file=MODELS/mnist/" in batching["command"]
    assert "--grpc_max_threads=256, since by default it refuses" in plain["settings"]
    assert "batching on: max_batch_size 32, batch_timeout_micros 0, num_batch_threads " in batching["settings"]
    assert "allowed_batch_sizes 1,2,4,8,16,32" in batching["settings"]


@pytest.mark.slow
def test_the_ratios_of_an_earlier_report_are_compared(flask_url, compare, tmp_path):
    servers = ("--flask", flask_url, "--servers", "article,flask", "--concurrency", "1")
    assert compare(*servers)[0] == 0
    report = tmp_path / "latency.json"
    earlier = result_in(tmp_path)
    ratio = earlier["rows"][1]["ratio_to_article"]["throughput"]
    ratio |= {name: value / 1e6 for name, value in ratio.items()}
    report.write_text(json.dumps(earlier))
    status, out, _ = compare(*servers, "--baseline", str(report))
    assert status == 0
    assert "- flask, concurrency 1: requests/s up, 0.00 (0.00-0.00) -> " in out
    assert "Since the earlier report" in (tmp_path / "latency.html").read_text(encoding="utf-8")
    changes = result_in(tmp_path)["baseline"]
    assert ("flask", "throughput", "up") in [(each["row"], each["figure"], each["direction"]) for each in changes]


@pytest.mark.slow
def test_a_quick_run_measures_every_server_in_half_a_minute(export_base, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TFSERVING", "python")
    paths = ("--data_dir", data_dir, "--model_path", export_base, "--reports_dir", tmp_path)
    ended = run_script(SCRIPT, *paths, "--quick", timeout_s=300)
    assert ended.returncode == 0, ended.stderr
    rows = result_in(tmp_path)["rows"]
    assert {row["concurrency"] for row in rows} == {1, 8, 32}
    assert {"article", "flask", "flask gateway", "rnn_serving.model_server"} <= {row["server"] for row in rows}


def test_a_server_that_is_down_has_a_row_that_says_so_and_the_others_are_finished(grpc_address, compare, tmp_path):
    servers = ("--flask", "http://127.0.0.1:9", "--tfserving", grpc_address, "--servers", "flask,model_server")
    status, _, err = compare(*servers)
    assert status == 1
    assert "requests without an answer: 1" in err
    assert "Traceback" not in err
    down, *others = result_in(tmp_path)["rows"]
    assert "expected a server there" in down["marks"][0]
    assert down["latency_ms"]["p50"] is None
    assert [(row["concurrency"], row["marks"]) for row in others] == [(1, []), (2, [])]


def test_a_server_with_another_model_is_marked(compare, tmp_path):
    with stub_server() as stub:
        status, _, err = compare("--flask", stub.url, "--servers", "flask")
    assert status == 1
    assert "expected the model's answer to each" in err
    result = result_in(tmp_path)
    for row in result["rows"]:
        assert row["different"] == row["requests"] > 0
        assert row["marks"] == ["serves version 7; expected 1", f"{row['different']} answers differ from the model's"]
    assert result["finding"].startswith("No server gave every answer")


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(data_dir, export_base, tmp_path):
    flags = ("--data_dir", data_dir, "--model_path", export_base, "--reports_dir", tmp_path, *SHORT)
    with stub_server() as stub:
        endless = ("--flask", stub.url, "--servers", "flask", "--rounds", "10000")
        with started(sys.executable, ROOT / SCRIPT, *flags, *endless) as run:
            while stub.asked < 100 and run.process.poll() is None:
                time.sleep(0.1)
            time.sleep(0.5)
            assert run.stop(signal.SIGINT) == 130, run.output()
    result = result_in(tmp_path)
    assert result["is_whole"] is False
    assert result["rows"][0]["requests"] > 0
    assert "cut short" in (tmp_path / "latency.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == REPORTS


def test_where_no_report_can_be_written_nothing_is_measured(compare, tmp_path):
    (tmp_path / "file").touch()
    with stub_server() as stub, pytest.raises(NotADirectoryError):  # which ends a script with its message and status 1
        compare("--reports_dir", str(tmp_path / "file" / "reports"), "--flask", stub.url, "--servers", "flask")
    assert stub.asked == 0


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--model_path", "/nonexistent"), 1, "no exported model; expected /nonexistent/<version>/saved_model.pb"),
        (("--tfserving", "9000"), 2, "'9000' is not HOST:PORT"),
        (("--servers", "flask,nginx"), 2, "'flask,nginx' is not of article, flask, gateway, model_server"),
        (("--concurrency", "1,0"), 2, "'0' is not a whole number"),
        (("--rate", "fast"), 2, "'fast' is not a number above 0"),
        (("--num_tests", "361"), 1, "has only 360 test images"),
    ],
)
def test_what_cannot_be_compared_is_an_error(data_dir, tmp_path, flags, status, message):
    ended = run_script(SCRIPT, "--data_dir", data_dir, "--reports_dir", tmp_path / "reports", *flags)
    assert ended.returncode == status
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "reports" / "latency.json").exists()


def test_the_package_is_the_same_command():
    helps = [
        run_script(*command, "--help").stdout.split("\n\n", 1)[1]
        for command in ([SCRIPT], ["-m", "benchmarks.compare"])
    ]
    assert helps[0] == helps[1]
    assert "python scripts/compare_latency.py --quick" in helps[0]
