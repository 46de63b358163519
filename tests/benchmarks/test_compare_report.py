import json

import pytest
from pages import is_self_contained
from scripted_servers import answers, measured

from benchmarks.compare import comparison, report
from rnn_serving.command_line import UserError


def write_report(directory):
    _, rows = measured({"article": [answers(10)] * 2, "flask": [answers(30)] * 2})
    result = comparison.describe_comparison(
        comparison.parse_arguments(["--data_dir", "digits", "--model_path", str(directory / "mnist" / "1")]), [0]
    )
    result |= {"load_average": {"before": [0, 0, 0]}, "duration_s": 1.0, "is_whole": True, "model_version": 1}
    result |= {"finding": "Found <nothing>.", "servers": [], "rows": rows}
    report.write(directory, result)


@pytest.fixture
def reports(tmp_path):
    (tmp_path / "mnist" / "1").mkdir(parents=True)
    (tmp_path / "mnist" / "1" / "saved_model.pb").touch()
    return tmp_path


def test_tables_of_other_benchmarks_are_shown_with_their_pictures(reports):
    choices = {"title": "Choices", "columns": ["choice", "ms"], "rows": [["a <new> session", 0.1234]], "note": "Noted."}
    (reports / "choices.json").write_text(json.dumps(choices))
    (reports / "choices.svg").write_text(
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><g id="a"/></svg>'
    )
    (reports / "breakdown.json").write_text(json.dumps({"conditions": {}, "rows": [{"part": "model", "ms": 1}]}))
    (reports / "breakdown.png").write_bytes(b"\x89PNG")
    write_report(reports)
    page = (reports / "latency.html").read_text()
    assert is_self_contained(page)
    assert '<td data-label="choice" class="text">a &lt;new&gt; session</td><td data-label="ms">0.12</td>' in page
    assert '<svg><g id="choices-a"/></svg>' in page
    assert "<h2>Breakdown</h2>" in page
    assert '<td data-label="part" class="text">model</td><td data-label="ms">1</td>' in page
    assert 'src="data:image/png;base64,' in page
    assert "Found &lt;nothing&gt;." in page
    assert "## Choices\n\nNoted.\n\n| choice | ms |" in (reports / "latency.md").read_text()


def test_a_table_that_cannot_be_read_is_reported(reports):
    (reports / "choices.json").write_text("{")
    (reports / "breakdown.json").write_text(json.dumps({"columns": ["a"], "rows": [[1]]}))
    (reports / "breakdown.svg").write_text("<svg><script>1</script></svg>")
    write_report(reports)
    page = (reports / "latency.html").read_text()
    assert "choices.json cannot be read" in page
    assert "breakdown.svg is left out" in page
    assert is_self_contained(page)


def test_a_note_marks_its_row_which_then_has_no_place_in_the_finding(reports):
    write_report(reports)
    result = json.loads((reports / "latency.json").read_text())
    result["notes"] = [{"text": "a <backup> ran", "disturbed": True, "server": "flask"}, {"text": "on all"}]
    (reports / "latency.json").write_text(json.dumps(result))
    for _ in range(2):  # the notes are added to what is shown, not to the file
        report.main(["--reports_dir", str(reports)])
    page = (reports / "latency.html").read_text()
    assert page.count('<span class="remark">disturbed</span><span class="remark">a &lt;backup&gt; ran</span>') == 1
    assert "<li>on all</li>" in page
    result = json.loads((reports / "latency.json").read_text())
    assert result["finding"].startswith("Most requests with 32 callers: article's Flask server, 10 per second.")
    assert all(row["marks"] == [] for row in result["rows"])


def test_the_report_can_be_written_again_from_its_json(reports, capsys):
    write_report(reports)
    assert report.main(["--reports_dir", str(reports)]) == 0
    printed = capsys.readouterr().out
    assert "Most requests with 32 callers: Flask endpoint, 1 worker, 30 per second, 3.00 times" in printed


def test_a_report_that_can_no_longer_be_written_is_written_elsewhere(reports, monkeypatch, capsys):
    def write_files(directory, result):
        if directory == reports:
            raise PermissionError(13, "Permission denied")
        written.append(directory)

    _, rows = measured({"article": [answers(10)] * 2})
    written = []
    monkeypatch.setattr(report, "write_files", write_files)
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(reports / "elsewhere"))
    with pytest.raises(UserError, match="Permission denied; the reports are in .*elsewhere instead"):
        report.write(reports, {"finding": "Found.", "rows": rows})
    assert written == [reports / "elsewhere"]
    assert "| article's Flask server | 32 |" in capsys.readouterr().out
