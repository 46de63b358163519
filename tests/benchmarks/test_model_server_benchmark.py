import json

import pytest
from conftest import run_script

FIGURES = [
    "one image: article's Flask path, ms",
    "one image: article's gRPC client, ms",
    "one image: article's gRPC client, list of floats, ms",
    "one image: tfserving_client.py, ms",
    "one image: article's gRPC client / Flask path",
    "one image: article's gRPC client, list of floats / Flask path",
    "one image: tfserving_client.py / Flask path",
    "128 images: Predict, ms",
    "128 images: the model call, ms",
    "128 images: Predict / the model call",
    "32 callers: without batching, requests/s",
    "32 callers: with batching, requests/s",
    "32 callers: throughput with / without batching",
    "32 callers: the load generator's own share, cores",
    "3 version swaps, 8 callers: slowest request, ms",
]
TARGETS = {
    "one image: article's gRPC client / Flask path": "at most 0.45",
    "one image: tfserving_client.py / Flask path": "at most 0.45",
    "128 images: Predict / the model call": "at most 1.5",
    "32 callers: throughput with / without batching": "at least 1.25",
    "3 version swaps, 8 callers: slowest request, ms": "at most 500",
}


@pytest.mark.slow
def test_the_model_server_is_measured_and_every_figure_printed(export_base, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TFSERVING", "python")
    flags = ("--data_dir", data_dir, "--model_path", export_base, "--json", tmp_path / "figures.json")
    ended = run_script("-m", "benchmarks.model_server", *flags, "--rounds", "1", "--num_tests", "20")
    assert ended.returncode == 0, ended.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ended.stdout.splitlines() if line[:1] == "|"]
    assert rows[0] == ["figure", "target", "measured", "spread", "rounds"]
    assert [row[0] for row in rows[2:]] == FIGURES
    assert {row[0]: row[1] for row in rows[2:] if row[1]} == TARGETS
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [figure["name"] for figure in figures] == FIGURES
    assert all(figure["measured"] > 0 for figure in figures)
    assert [figure["name"] for figure in figures if figure["met"] is not None] == list(TARGETS)
