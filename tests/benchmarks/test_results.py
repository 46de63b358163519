import json
import shutil

import pytest
from conftest import ROOT

from benchmarks import results, results_tables
from rnn_serving.command_line import UserError

PAGE = "Before.\n\n<!-- results: begin{} -->\nold\n<!-- results: end -->\n\nAfter.\n"


@pytest.fixture
def root(tmp_path):
    """A project with a README, a chapter and the reports that are kept."""
    (tmp_path / "docs").mkdir()
    reports = shutil.ignore_patterns("*.png")
    shutil.copytree(ROOT / results.REPORTS, tmp_path / results.REPORTS, ignore=reports, copy_function=shutil.copyfile)
    (tmp_path / "README.md").write_text(PAGE.format(""))
    (tmp_path / "docs" / "results.md").write_text(PAGE.format(" cpp_server closed") + PAGE.format(" cpp_server open"))
    return tmp_path


def report_in(root):
    return json.loads((root / results.REPORTS / "cpp_server.json").read_text())


def write_report(path, report):
    path.write_text(json.dumps(report))
    return path


def test_the_tables_and_the_picture_of_the_project_are_those_of_its_reports(capfd):
    assert results.main(["--check"]) == 0, capfd.readouterr().err


def test_what_is_out_of_date_is_rewritten(root, capfd):
    flags = ("--root", str(root))
    assert results.main([*flags, "--check"]) == 1
    assert "README.md, " in capfd.readouterr().err
    assert "old" in (root / "README.md").read_text()
    assert results.main(flags) == 0
    readme, chapter = (root / "README.md").read_text(), (root / "docs" / "results.md").read_text()
    assert readme.startswith("Before.\n\n<!-- results: begin -->\n| server, one image per request | p50 at 1 caller")
    assert "| TensorFlow Serving (C++), REST | 0.44 | 5,924 | 6,191 | 6.2 |" in readme
    assert "| 32 | Flask endpoint, 2 workers | 6,733 | 4.25 | 7.95 | 9.70 | 6.95 (6.89-7.61) | 24 % |" in chapter
    assert "| 800 | C++ server, gRPC | 1.42 | 2.86 | 4.35 | 26 % |" in chapter
    assert "old" not in readme + chapter
    assert readme.endswith("<!-- results: end -->\n\nAfter.\n")
    assert results.main([*flags, "--check"]) == 0


def test_a_new_report_replaces_the_old_one(root, tmp_path):
    flags = ("--root", str(root))
    assert results.main(flags) == 0
    report = report_in(root)
    for row in report["rows"]:
        row["throughput_rps"] += 1000
    new = write_report(tmp_path / "latency.json", report)
    assert results.main([*flags, "--report", str(new)]) == 0
    assert "| 0.44 | 6,924 | 7,191 | 6.2 |" in (root / "README.md").read_text()
    assert results.main([*flags, "--check"]) == 0


def test_a_picture_of_another_report_is_out_of_date(root, capfd):
    flags = ("--root", str(root))
    assert results.main(flags) == 0
    write_report(root / results.REPORTS / "cpp_server.json", report_in(root) | {"finding": "Another."})
    assert results.main([*flags, "--check"]) == 1
    assert "out of date: " + str(root / results.REPORTS / "latency.png") in capfd.readouterr().err


def test_a_disturbed_row_is_marked_with_the_reason(root):
    report = report_in(root)
    report["notes"] = [{"text": "a backup ran", "disturbed": True, "server": "article", "concurrency": 8}]
    short, closed = results_tables.short(report), results_tables.of_loop(report, "closed")
    assert "| the article's Flask server | 1.23 | 969\\* | 970 | 1.0 |" in short
    assert "| 8 | article's Flask server\\* | 969 |" in closed
    assert all(table.endswith("\n\n\\* disturbed: a backup ran") for table in (short, closed))
    assert "disturbed" not in results_tables.of_loop(report, "open")


def test_the_cpp_server_with_batching_has_rows_of_its_own(root):
    report = report_in(root)
    for row in report["rows"]:
        row["server"] = row["server"].replace("tensorflow_model_server", "tensorflow_model_server, batching")
    report["grpc_client"] = "HTTP/2 frames"
    assert "| TensorFlow Serving (C++), batching, gRPC | 0.55 |" in results_tables.short(report)
    assert "| 1 | C++ server, batching, gRPC | 1,742 |" in results_tables.of_loop(report, "closed")


@pytest.mark.parametrize(
    ("readme", "report", "message"),
    [
        ("No place.", None, "expected a line `<!-- results: begin -->`"),
        (PAGE.format(" mine closed"), None, "no report mine; expected one of cpp_server"),
        (PAGE.format(""), {"is_whole": True}, "KeyError: 'rows'"),
        (PAGE.format(""), {"rows": [], "is_whole": False}, "the run was cut short"),
        (PAGE.format(""), {"rows": [], "notes": [{}]}, "expected an object with a 'text'"),
        (PAGE.format(""), {"rows": [], "finding": "x" * 2**20}, "expected less than 1,048,576"),
    ],
)
def test_what_cannot_be_shown_is_an_error(root, tmp_path, readme, report, message):
    (root / "README.md").write_text(readme)
    flags = ["--report", str(write_report(tmp_path / "latency.json", report))] if report else []
    with pytest.raises(UserError, match=message):
        results.main(["--root", str(root), *flags])


def test_no_report_that_is_kept_is_large():
    assert all(path.stat().st_size < 2**20 for path in (ROOT / results.REPORTS).iterdir())
