import math

import pytest
from benchmark_runs import ROUTES, quick_run

from benchmarks import breakdown
from benchmarks.routes import Route


def test_the_parts_add_up_to_the_whole():
    parts = breakdown.parts_of(
        encode_s=0.0002, round_trip_s=0.003, decode_s=0.0001, server_s=0.002, model_s=0.0005, bare_s=9
    )
    assert parts == pytest.approx(
        {"encode": 0.2, "send and wait": 1.0, "server's own work": 1.5, "model call": 0.5, "decode": 0.1}
    )
    assert sum(parts.values()) == pytest.approx(3.3)


def test_a_rest_below_zero_is_shown_as_it_is():
    parts = breakdown.parts_of(
        encode_s=0.0, round_trip_s=0.001, decode_s=0.0, server_s=0.0004, model_s=0.0005, bare_s=9
    )
    assert parts["server's own work"] == pytest.approx(-0.1)
    assert sum(parts.values()) == pytest.approx(1.0)


def test_a_server_that_does_not_time_its_model_has_the_time_of_the_bare_call():
    parts = breakdown.parts_of(0.0, 0.003, 0.0, server_s=0.002, model_s=math.nan, bare_s=0.0005)
    assert (parts["model call"], parts["server's own work"]) == pytest.approx((0.5, 1.5))


def test_the_model_of_the_gateway_is_timed_by_the_server_behind_it():
    names = ("Flask endpoint", breakdown.GATEWAY, "rnn_serving.model_server, REST")
    routes = [Route(name, "", f"{name} metrics", None, None, None) for name in names]
    found = [breakdown.model_metrics_url(route, routes) for route in routes]
    assert found == ["Flask endpoint metrics", *["rnn_serving.model_server, REST metrics"] * 2]


def test_the_parts_shown_in_a_row_add_up_to_the_whole_that_it_shows():
    parts = breakdown.parts_of(*(number / 7000 for number in (1, 6, 1, 4, 2, 9)))
    [[name, *shown, whole]] = breakdown.table_rows({"a server": parts})
    assert name == "a server"
    assert whole == round(math.fsum(shown), 4)
    assert whole == pytest.approx(8 / 7, abs=5e-4)


def test_the_picture_has_the_names_of_the_servers_and_their_wholes():
    rows = [["a server", 1.0, 2.0, 3.0, 4.0, 5.0, 15.0], ["another", 0.5, 1.0, 1.5, 2.0, 2.5, 7.5]]
    picture = breakdown.picture(rows)
    assert all(f">{text}</text>" in picture for text in ("a server", "another", "15.00 ms", "7.50 ms"))


@pytest.mark.slow
def test_the_time_of_a_request_is_broken_down_for_every_route(data_dir, export_base, tmp_path, monkeypatch):
    table, printed = quick_run("breakdown", data_dir, export_base, tmp_path, monkeypatch)
    assert [row[0] for row in table["rows"]] == [row[0] for row in printed[2:]] == ROUTES
    for _, *parts, whole in table["rows"]:
        assert sum(parts) == pytest.approx(whole, abs=1e-3)
        assert min(parts[0], parts[-1], parts[3], whole) > 0
    assert all(f">{part}</text>" in (tmp_path / "breakdown.svg").read_text() for part in ("encode", "model call"))
