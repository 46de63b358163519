"""Run one of the benchmarks that print a table, quickly."""

import json

from conftest import run_script

ROUTES = [
    "article's Flask server",
    "Flask endpoint",
    "Flask gateway",
    "rnn_serving.model_server, REST",
    "rnn_serving.model_server, gRPC",
]


def quick_run(name, data_dir, export_base, directory, monkeypatch):
    """Return (the table written to a directory as JSON, the rows of cells that were printed)."""
    monkeypatch.setenv("TFSERVING", "python")
    written = directory / f"{name}.json"
    flags = ("--data_dir", data_dir, "--model_path", export_base, "--quick", "--json", written)
    ended = run_script("-m", f"benchmarks.{name}", *flags, timeout_s=400)
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("| ")]
    table = json.loads(written.read_text())
    assert set(table) == {"title", "columns", "rows", "note", "machine", "versions"}
    assert table["note"] in ended.stdout
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    return table, [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
