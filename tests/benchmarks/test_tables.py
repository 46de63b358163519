import json

import pytest

from benchmarks import tables

CONDITIONS = {
    "dataset": "digits",
    "num_tests": 5,
    "rounds": 2,
    "load_average": 0.5,
    "machine": {"cpu": "a processor", "cores": 2},
    "versions": {"python": "3"},
}
ABOUT = (
    "Data set digits, 5 images a round, 2 rounds; a processor, 2 cores, shared by servers and clients; "
    "load average before the start 0.50."
)


def test_the_table_is_printed_and_written_with_the_picture_beside_it(tmp_path, capsys):
    rows = [["a server", 1.0, 15.0], ["another | one", 0.5, 7.5]]
    table = tables.make_table("title", ("server", "encode, ms", "whole, ms"), rows, "Note.", CONDITIONS)
    tables.report(table, tmp_path / "reports" / "table.json", lambda: "<svg/>")
    assert json.loads((tmp_path / "reports" / "table.json").read_text()) == {
        "title": "title",
        "columns": ["server", "encode, ms", "whole, ms"],
        "rows": rows,
        "note": f"Note. {ABOUT}",
        "machine": CONDITIONS["machine"],
        "versions": CONDITIONS["versions"],
    }
    assert (tmp_path / "reports" / "table.svg").read_text() == "<svg/>"
    printed = capsys.readouterr().out
    assert "| server | encode, ms | whole, ms |\n| --- | --- | --- |\n| a server | 1.000 | 15.000 |" in printed
    assert "| another \\| one | 0.500 | 7.500 |" in printed
    assert ABOUT in printed


def test_nothing_is_written_without_a_file(capsys):
    table = tables.make_table("title", ["what"], [["this"]], "Note.", CONDITIONS)
    tables.report(table, None, lambda: pytest.fail("there is no file"))
    assert "| this |" in capsys.readouterr().out


def test_quick_lowers_rounds_and_images_but_does_not_raise_them():
    args = tables.parse_arguments(["--quick", "--num_tests", "3"], "doc", rounds=7, num_tests=256)
    assert (args.rounds, args.num_tests) == (2, 3)
