import contextlib
import json
import math

import numpy as np
import pytest
from conftest import ROOT, run_script

from rnn_serving.command_line import UserError
from rnn_serving.saved_model import ServedModel

ROUTES = [
    "article's Flask server",
    "Flask endpoint",
    "Flask gateway",
    "rnn_serving.model_server, REST",
    "rnn_serving.model_server, gRPC",
]
HABITS = {
    "model call": [
        "model.predict of Keras",
        "eager call, model(images)",
        "signature of tf.saved_model.load",
        "signature by Session.run",
        "Session.run in the caller's thread",
        "caller's thread by the C API",
    ],
    "server": ["development server", "gunicorn"],
    "connection": ["one for each request", "kept open"],
    "JSON, both ends": ["json", "orjson"],
    "gRPC channel": ["one for each call", "used again"],
    "images a request, gRPC": ["1", "32", "128"],
    "floats": ["as text, orjson", "as a list, `float_val`", "as `tensor_content`"],
}
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
"""


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def routes():
    """benchmarks/routes.py as a module."""
    import routes

    return routes


@pytest.fixture
def tables():
    """benchmarks/tables.py as a module."""
    import tables

    return tables


@pytest.fixture
def batches():
    """benchmarks/batches.py as a module."""
    import batches

    return batches


@pytest.fixture
def breakdown():
    """benchmarks/breakdown.py as a module."""
    import breakdown

    return breakdown


@pytest.fixture
def habits():
    """benchmarks/habits.py as a module."""
    import habits

    return habits


@pytest.fixture
def answers(routes, export_base, test_images):
    """The `Answers` of the small model to 5 images."""
    with ServedModel(export_base) as model:
        yield routes.Answers(model, test_images.images[:5])


def test_the_parts_add_up_to_the_whole(breakdown):
    parts = breakdown.parts_of(encode_s=0.0002, round_trip_s=0.003, decode_s=0.0001, server_s=0.002, model_s=0.0005)
    assert parts == pytest.approx(
        {"encode": 0.2, "send and wait": 1.0, "server's own work": 1.5, "model call": 0.5, "decode": 0.1}
    )
    assert sum(parts.values()) == pytest.approx(3.3)


def test_a_server_that_takes_less_than_the_bare_call_has_no_work_of_its_own(breakdown):
    parts = breakdown.parts_of(encode_s=0.0, round_trip_s=0.001, decode_s=0.0, server_s=0.0004, model_s=0.0005)
    assert parts["server's own work"] == 0
    assert sum(parts.values()) == pytest.approx(1.0)


def test_a_row_shows_parts_that_add_up_to_what_it_shows_as_the_whole(breakdown):
    parts = breakdown.parts_of(*(number / 7000 for number in (1, 6, 1, 4, 2)))
    [[name, *shown, whole]] = breakdown.table_rows({"a server": parts})
    assert name == "a server"
    assert whole == round(math.fsum(shown), 4)
    assert whole == pytest.approx(8 / 7, abs=5e-4)


@pytest.mark.parametrize(("page", "spent"), [(FLASK_PAGE, (0.25, 100)), (MODEL_SERVER_PAGE, (1.002, 10)), ("", (0, 0))])
def test_a_servers_time_is_that_of_its_predictions(breakdown, page, spent):
    assert breakdown.server_time(page) == pytest.approx(spent)


def test_the_articles_application_tells_the_time_of_its_requests_as_the_endpoint_does(breakdown):
    application = breakdown.TimedApplication(lambda environ, start_response: iter([environ["PATH_INFO"].encode()]))

    def get(path):
        return b"".join(application({"PATH_INFO": path}, lambda *_: None)).decode()

    assert breakdown.server_time(get("/metrics")) == (0, 0)
    assert [get("/"), get("/")] == ["/", "/"]
    seconds, count = breakdown.server_time(get("/metrics"))
    assert 0 < seconds < 1
    assert count == 2


def test_batches_have_every_image_and_as_many_as_asked_for(answers):
    for size in (1, 2, 5, 12):
        chosen = [indexes for indexes, _ in answers.batches(size)]
        assert all(len(indexes) == size for indexes in chosen)
        assert set(np.concatenate(chosen)) == set(range(5))
    assert answers.batches(2)[1][1].shape == (2, 28, 28)


def test_an_answer_that_is_not_the_models_is_an_error(batches, answers):
    wrong = lambda images: answers.call_model(images)[::-1]  # noqa: E731
    for ask, size in ((wrong, 2), (lambda images: answers.call_model(images)[:, :9], 1)):
        with pytest.raises(UserError, match="a route: another answer to image 0.*expected the bare model's logits"):
            batches.images_per_second("a route", "logits", ask, answers, answers.batches(size), 0.001)
    assert batches.images_per_second("", "logits", answers.call_model, answers, answers.batches(2), 0.01) > 0


def test_a_request_without_an_answer_is_an_error(routes):
    route = routes.flask_route("a route", "http://127.0.0.1:9/", routes.direct_session())
    with pytest.raises(UserError, match="a route: .*expected an answer"):
        route.ask(np.zeros((1, 28, 28), np.float32))


def test_rates_are_shown_beside_the_part_of_the_bare_call_that_they_are_by_rounds(batches):
    rates = {batches.BARE: {1: [4000, 1000, 2000], 32: [9000.0]}, "a route": {1: [1000, 500, 500], 32: [450.0]}}
    columns, rows = batches.rates_table(rates)
    assert columns == ["images a request", "bare model call", "a route"]
    assert rows == [[1, "2,000", "500 (25 %)"], [32, "9,000", "450 (5 %)"]]
    assert ">a route</text>" in batches.curves(rates, "rates")


def test_a_habit_is_compared_with_the_last_of_its_group_round_by_round(habits):
    asked = [habits.Habit(group, name, "logits", None) for group, name in (("a", "x"), ("a", "y"), ("b", "z"))]
    rows = habits.table_rows(asked, [[2.0, 6.0, 9.0], [1.0, 2.0, 6.0], [5.0, 4.0, 6.0]])
    assert rows == [
        ["a", "x", 6.0, 3.0, "2.00", "1.50 - 3.00", 3],
        ["a", "y", 2.0, "-", "1", "-", 3],
        ["b", "z", 5.0, "-", "1", "-", 3],
    ]


def test_the_table_is_printed_and_written_with_the_picture_beside_it(breakdown, tables, tmp_path, capsys):
    rows = [["a server", 1.0, 2.0, 3.0, 4.0, 5.0, 15.0], ["another", 0.5, 1.0, 1.5, 2.0, 2.5, 7.5]]
    conditions = {"machine": {"cpu": "?"}, "versions": {"python": "3"}}
    result = tables.described("title", breakdown.COLUMNS, rows, "note", conditions)
    tables.report(result, tmp_path / "reports" / "breakdown.json", lambda: breakdown.bars(rows, "title"))
    assert json.loads((tmp_path / "reports" / "breakdown.json").read_text()) == {
        "title": "title",
        "columns": list(breakdown.COLUMNS),
        "rows": rows,
        "note": "note",
        **conditions,
    }
    picture = (tmp_path / "reports" / "breakdown.svg").read_text()
    assert all(f">{text}</text>" in picture for text in ("a server", "another", "15.00", "7.50"))
    printed = capsys.readouterr().out
    assert "| a server | 1.000 | 2.000 | 3.000 | 4.000 | 5.000 | 15.000 |" in printed
    tables.report(result, None, lambda: pytest.fail("nothing is written without --json"))


def test_every_way_to_call_the_model_gives_the_same_answer(habits, routes, answers, export_base):
    with contextlib.ExitStack() as stack:
        _, model = routes.open_model(stack, export_base)
        ways = habits.model_habits(stack, model)
        assert [way.name for way in ways] == HABITS["model call"]
        for way in ways:
            answers.check(way.name, way.kind, np.arange(5), way.ask(answers.images))


def test_floats_are_read_as_they_were_written_whichever_way(habits, answers):
    ways = habits.float_habits()
    assert [way.name for way in ways] == HABITS["floats"]
    for way in ways:
        np.testing.assert_array_equal(way.ask(answers.images), answers.images)


def test_pythons_json_stands_in_for_orjson_in_the_flask_application(habits, export_base, answers, monkeypatch):
    import flask_server

    monkeypatch.setattr(flask_server, "orjson", habits.PlainJSON)
    app, model = habits.open_app(export_base)
    with model:
        client = app.test_client()
        scores = client.post("/", json={"data": answers.images.tolist()}).json["y"]
        answers.check("json", "probabilities", np.arange(5), np.array(scores))
        assert client.post("/", data="{", content_type="application/json").status_code == 400


@pytest.fixture
def measured(export_base, data_dir, tmp_path, monkeypatch):
    """A function that runs a benchmark quickly and returns (what it wrote as JSON, rows of the table it printed)."""
    monkeypatch.setenv("TFSERVING", "python")

    def run(name):
        written = tmp_path / f"{name}.json"
        flags = ("--data_dir", data_dir, "--model_path", export_base, "--quick", "--json", written)
        ended = run_script(f"benchmarks/{name}.py", *flags, timeout_s=400)
        assert ended.returncode == 0, ended.stderr
        lines = [line for line in ended.stdout.splitlines() if line.startswith("| ")]
        result = json.loads(written.read_text())
        assert set(result) == {"title", "columns", "rows", "note", "machine", "versions"}
        assert result["note"] in ended.stdout
        assert all(len(row) == len(result["columns"]) for row in result["rows"])
        return result, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]

    return run


@pytest.mark.slow
def test_the_time_of_a_request_is_broken_down_for_every_route(measured, tmp_path):
    result, printed = measured("breakdown")
    assert [row[0] for row in result["rows"]] == [row[0] for row in printed[2:]] == ROUTES
    for _, *parts, whole in result["rows"]:
        assert sum(parts) == pytest.approx(whole, abs=1e-3)
        assert min(parts[0], parts[-1], parts[3], whole) > 0
    assert all(f">{part}</text>" in (tmp_path / "breakdown.svg").read_text() for part in ("encode", "model call"))


@pytest.mark.slow
def test_images_a_second_are_measured_by_every_route_beside_the_bare_call(measured, tmp_path):
    result, printed = measured("batches")
    assert result["columns"] == printed[0] == ["images a request", "bare model call", *ROUTES]
    assert [row[0] for row in result["rows"]] == [1, 32]
    assert all(cell.endswith(" %)") for row in result["rows"] for cell in row[2:])
    assert all(f">{name}</text>" in (tmp_path / "batches.svg").read_text().replace("&apos;", "'") for name in ROUTES)


@pytest.mark.slow
def test_every_habit_is_measured_against_the_last_of_its_group(measured, tmp_path):
    result, _ = measured("habits")
    found = {}
    for group, habit, milliseconds, *_ in result["rows"]:
        assert milliseconds > 0
        found.setdefault(group, []).append(habit)
    assert found == HABITS
    assert all(row[4:] == ["1", "-", 2] for row in result["rows"] if row[1] == HABITS[row[0]][-1])
    assert not (tmp_path / "habits.svg").exists()
