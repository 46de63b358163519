import json
import statistics

import compare_latency
import pytest
from conftest import run_script


def compare(data_dir, *flags, **run):
    return run_script("scripts/compare_latency.py", "--data_dir", data_dir, "--num_tests", "60", *flags, **run)


def test_running_servers_are_compared_on_the_same_images(flask_url, grpc_address, data_dir, tmp_path):
    flags = ("--flask", flask_url, "--tfserving", grpc_address, "--reports_dir", tmp_path, "--rounds", "2")
    ended = compare(data_dir, *flags)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "latency.json").read_text())
    rows = result["rows"]
    assert [(row["server"], row["concurrency"]) for row in rows] == [
        (server, concurrency) for concurrency in (1, 8, 32) for server in ("flask", "rnn_serving.model_server")
    ]
    assert {row["num_tests"] for row in rows} == {120}
    assert len({row["accuracy"] for row in rows}) == 1
    assert all(row["ratio_to_flask"] == 1 for row in rows if row["server"] == "flask")
    assert all(row["errors"] == 0 and row["latency_ms"]["p50"] <= row["latency_ms"]["p99"] for row in rows)
    assert result["dataset"] == "digits"
    table = [line for line in ended.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 6
    assert "\n".join(table) in (tmp_path / "latency.md").read_text()
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_it_starts_and_stops_the_servers_itself(export_base, data_dir, tmp_path):
    ended = compare(data_dir, "--model_path", export_base, "--reports_dir", tmp_path, "--rounds", "1")
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((tmp_path / "latency.json").read_text())["rows"]
    assert {row["model_version"] for row in rows} == {1}


def test_the_ratio_is_the_median_of_the_rounds():
    def measured(name, throughputs):
        loads = [compare_latency.Load(1.0, [0.001] * count) for count in throughputs]
        return compare_latency.Measured(name, "", 1, None, dict.fromkeys(compare_latency.CONCURRENCIES, loads))

    servers = [measured("flask", [10, 20, 40]), measured("other", [30, 20, 80])]
    rows = compare_latency.with_ratios([{"server": "other", "concurrency": 8}], servers)
    assert rows[0]["ratio_to_flask"] == statistics.median([3, 1, 2])


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--model_path", "/nonexistent"), 1, "no exported model; expected /nonexistent/<version>/saved_model.pb"),
        (("--flask", "http://127.0.0.1:9", "--tfserving", "127.0.0.1:9"), 1, "expected a server there"),
        (("--tfserving", "9000"), 2, "'9000' is not HOST:PORT"),
        (("--num_tests", "361"), 1, "has 360 test images"),
    ],
)
def test_what_cannot_be_compared_is_an_error(data_dir, tmp_path, flags, status, message):
    ended = run_script(
        "scripts/compare_latency.py", "--data_dir", data_dir, "--reports_dir", tmp_path / "reports", *flags
    )
    assert ended.returncode == status
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "reports").exists()
