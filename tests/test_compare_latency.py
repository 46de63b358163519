import contextlib
import json
import re
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import compare_latency
import latency_exam
import latency_pictures
import latency_report
import latency_rows
import numpy as np
import pytest
from conftest import ROOT, run_script, started
from latency_rows import Point
from latency_servers import Measured

from rnn_serving.load_generator import Load

SCRIPT = "scripts/compare_latency.py"
SHORT = ("--concurrency", "1,2", "--rate", "0", "--rounds", "2", "--duration", "0.1", "--num_tests", "20")
REPORTS = ["latency.html", "latency.json", "latency.md", "latency.png"]


@pytest.fixture
def compare(data_dir, export_base, tmp_path, monkeypatch, capfd):
    """A function that runs the script in this process, which has TensorFlow already: -> (status, stdout, stderr)."""
    monkeypatch.setattr("rnn_serving.processes.end_on_sigterm", lambda: None)
    monkeypatch.setenv("TFSERVING", "python")

    def run(*flags):
        paths = ("--data_dir", data_dir, "--model_path", export_base, "--reports_dir", tmp_path)
        status = compare_latency.main([*map(str, paths), *SHORT, *flags])
        return (status, *capfd.readouterr())

    return run


def result_in(reports):
    return json.loads((reports / "latency.json").read_text())


def is_self_contained(page):
    return not re.search(r'(?:src|href)="(?!#|data:)|url\((?!#)|@import|<script|<link|<iframe', page)


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
        (("--num_tests", "361"), 1, "has 360 test images"),
    ],
)
def test_what_cannot_be_compared_is_an_error(data_dir, tmp_path, flags, status, message):
    ended = run_script(SCRIPT, "--data_dir", data_dir, "--reports_dir", tmp_path / "reports", *flags)
    assert ended.returncode == status
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "reports" / "latency.json").exists()


def answers(count, busy=0.1, milliseconds=1.0):
    """A load of one second in which image 0 was answered `count` times."""
    return Load([(0, milliseconds / 1000, b"right")] * count, [], 1.0, busy)


def down():
    return Load([], ["connection refused"] * 3, 1.0, 0.1)


class ScriptedGenerator:
    """Gives the loads of a script, {server: [load or exception, ...]}, instead of asking; a warm-up is not of it."""

    def __init__(self, script):
        self._script = {name: iter(loads) for name, loads in script.items()}

    def run(self, target, concurrency, duration_s, rate, warm_up_s, timeout_s, first):
        if duration_s == compare_latency.FIRST_WARM_UP_S:
            return answers(1)
        load = next(self._script[target])
        if isinstance(load, BaseException):
            raise load
        return load


def measured(script, concurrency=(32,), rate=(), rounds=2):
    """The exit status and the rows of a run in which the servers behave as scripted."""
    scores = np.full((1, 10), 0.1, np.float32)
    paper = latency_exam.Paper([b""], lambda body: scores if body == b"right" else scores + 1, scores, 1e-5)
    servers = [Measured(name, "HTTP/JSON", "", "", 1, name, latency_exam.Grader(paper, np.zeros(1))) for name in script]
    points = [*(Point(number) for number in concurrency), *(Point(rate=each) for each in rate)]
    args = SimpleNamespace(concurrency=concurrency, rounds=rounds, timeout=1.0)
    status = compare_latency.measure(ScriptedGenerator(script), servers, points, args, 1.0)
    return status, latency_rows.make_rows(servers, points, "digits", 1)


def test_the_ratio_is_taken_round_by_round_and_shown_with_its_spread():
    script = {"article": map(answers, [10, 20, 40]), "other": map(answers, [30, 20, 80])}
    _, (_, row) = measured(script, rounds=3)
    assert row["ratio_to_article"]["throughput"] == {"median": 2, "min": 1, "max": 3}
    assert row["throughput_rps"] == 30
    assert latency_report.with_spread(row["ratio_to_article"]["throughput"]) == "2.00 (1.00-3.00)"


def test_a_server_that_dies_half_way_is_marked_and_the_others_are_finished():
    script = {"article": map(answers, [10] * 6), "other": [answers(10), down()]}
    status, rows = measured(script, rounds=6)
    assert status == 0
    article, other = rows
    assert len(article["throughput_of_rounds_rps"]) == 6
    assert other["marks"] == [
        "does not answer: connection refused",
        "measured in 2 of 6 rounds",
        "3 requests without an answer: connection refused (3 times)",
    ]
    assert latency_rows.is_wrong(other)
    assert not latency_rows.is_wrong(article)


@pytest.mark.parametrize(("end", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_run_that_is_cut_short_keeps_its_rows(end, status):
    found, rows = measured({"article": [answers(10), end]})
    assert found == status
    assert [row["requests"] for row in rows] == [10]


def test_a_row_whose_load_generator_was_the_bottleneck_is_marked():
    _, (row,) = measured({"article": [answers(10, busy=0.5), answers(10, busy=0.95)]})
    assert row["marks"] == ["the load generator was the bottleneck: the server may be faster"]
    assert row["generator_busy"] == 0.95
    assert not latency_rows.is_wrong(row)


def test_an_answer_that_is_not_the_models_is_counted():
    wrong = Load([(0, 0.001, b"right"), (0, 0.001, b"wrong")], [], 1.0, 0.1)
    _, (row,) = measured({"article": [wrong, answers(2)]})
    assert (row["different"], row["requests"]) == (1, 4)
    assert row["marks"] == ["1 answers differ from the model's"]


def test_a_rate_that_is_not_kept_up_with_is_marked():
    _, (closed, opened) = measured({"article": map(answers, [800, 800, 850, 850])}, rate=(1000,))
    assert opened["marks"] == ["could not keep up with the rate"]
    assert closed["marks"] == []


def test_a_rate_is_kept_up_with_if_only_chance_is_missing():
    _, (_, opened) = measured({"article": map(answers, [90, 90, 95, 95])}, rate=(100,))
    assert opened["marks"] == []


def test_every_image_is_asked_though_no_round_asks_all():
    asked = []
    server = Measured("article", "HTTP/JSON", "", "", grader=SimpleNamespace(num_images=100, grade=lambda *_: None))
    for turn in range(4):
        compare_latency.take_turn(lambda *_, first: asked.append(first) or answers(1), server, Point(1), turn, 4)
    assert asked == [0, 25, 50, 75]


def test_a_model_that_is_not_the_lstm_is_an_error(export_base, test_images, monkeypatch):
    monkeypatch.setattr("rnn_serving.model.INPUT_KEY", "words")
    with pytest.raises(latency_report.UserError, match="expected from 'words' to 'y_output'"):
        latency_exam.prepared(export_base, test_images.first(1))


def test_the_finding_names_the_best_of_the_rows_and_what_it_is_not_sure_of():
    loads = {"article": (10, 10), "flask": (40, 50), "flask gateway": (45, 45), "odd": (99, 99)}
    script = {
        name: [answers(count, milliseconds=100 / count) for count in counts for _ in (1, 32)]
        for name, counts in loads.items()
    }
    script["odd"][1] = down()
    _, rows = measured(script, concurrency=(1, 32))
    sentence = latency_rows.finding([row for row in rows if row["server"] != "odd" or row["errors"]])
    assert sentence.startswith(
        "At concurrency 32, flask answers the most: 45 requests a second, 4.50 times the article's"
    )
    assert "(4.00 to 5.00 by round); its rounds overlap with those of flask gateway." in sentence
    assert "At concurrency 1, flask answers soonest" in sentence


def write_report(directory):
    _, rows = measured({"article": [answers(10)] * 2, "flask": [answers(30)] * 2})
    result = compare_latency.describe_run(
        compare_latency.parse_arguments(["--data_dir", "digits", "--model_path", str(directory / "mnist" / "1")]), [0]
    )
    result |= {"load_average": {"before": [0, 0, 0]}, "duration_s": 1.0, "is_whole": True, "model_version": 1}
    result |= {"finding": "Found <nothing>.", "servers": [], "rows": rows}
    latency_report.write(directory, result)


@pytest.fixture
def reports(tmp_path):
    (tmp_path / "mnist" / "1").mkdir(parents=True)
    (tmp_path / "mnist" / "1" / "saved_model.pb").touch()
    return tmp_path


def test_what_other_benchmarks_left_is_shown_with_their_pictures(reports):
    habits = {"title": "Habits", "columns": ["habit", "ms"], "rows": [["a <new> session", 0.1234]], "note": "Noted."}
    (reports / "habits.json").write_text(json.dumps(habits))
    (reports / "habits.svg").write_text(
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><g id="a"/></svg>'
    )
    (reports / "breakdown.json").write_text(json.dumps({"conditions": {}, "rows": [{"part": "model", "ms": 1}]}))
    (reports / "breakdown.png").write_bytes(b"\x89PNG")
    write_report(reports)
    page = (reports / "latency.html").read_text()
    assert is_self_contained(page)
    assert "<td>a &lt;new&gt; session</td><td>0.12</td>" in page
    assert '<svg><g id="habits-a"/></svg>' in page
    assert "<h2>Breakdown</h2>" in page
    assert "<td>model</td><td>1</td>" in page
    assert 'src="data:image/png;base64,' in page
    assert "Found &lt;nothing&gt;." in page
    assert "## Habits\n\nNoted.\n\n| habit | ms |" in (reports / "latency.md").read_text()


def test_what_cannot_be_read_of_other_benchmarks_is_said(reports):
    (reports / "habits.json").write_text("{")
    (reports / "breakdown.json").write_text(json.dumps({"columns": ["a"], "rows": [[1]]}))
    (reports / "breakdown.svg").write_text("<svg><script>1</script></svg>")
    write_report(reports)
    page = (reports / "latency.html").read_text()
    assert "habits.json cannot be read" in page
    assert "breakdown.svg is left out" in page
    assert is_self_contained(page)


def test_the_report_can_be_written_anew_from_its_json(reports, capsys):
    write_report(reports)
    assert latency_report.main(["--reports_dir", str(reports)]) == 0
    assert "At concurrency 32, flask answers the most: 30 requests a second, 3.00 times" in capsys.readouterr().out


def test_a_report_that_can_no_longer_be_written_is_written_elsewhere(reports, monkeypatch, capsys):
    def write_files(directory, result):
        if directory == reports:
            raise PermissionError(13, "Permission denied")
        written.append(directory)

    _, rows = measured({"article": [answers(10)] * 2})
    written = []
    monkeypatch.setattr(latency_report, "write_files", write_files)
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(reports / "elsewhere"))
    with pytest.raises(latency_report.UserError, match="Permission denied; the reports are in .*elsewhere instead"):
        latency_report.write(reports, {"finding": "Found.", "rows": rows})
    assert written == [reports / "elsewhere"]
    assert "| article | 32 |" in capsys.readouterr().out


def test_each_server_keeps_its_colour():
    styles = [latency_pictures.style_of(name)[0] for name in ("article", "flask", "flask, 8 workers", "flask gateway")]
    assert styles == [0, 1, 2, 3]
    assert latency_pictures.style_of("another")[0] == len(latency_pictures.STYLES)
