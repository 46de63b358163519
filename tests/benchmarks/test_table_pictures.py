import re

import pytest

from benchmarks import plots, table_pictures

BREAKDOWN = {
    "title": "Parts",
    "columns": ["server", "encode, ms", "send and wait, ms", "model call, ms", "whole, ms"],
    "rows": [["Flask endpoint", 1.0, 2.0, 1.0, 4.0], ["another <one>", 0.5, -0.5, 2.0, 2.0]],
}
CHOICES = {
    "title": "Choices",
    "columns": ["what", "choice", "ms an image", "costs, ms", "times as long", "spread", "rounds"],
    "rows": [
        ["floats", "as text", 3.0, 2.0, "3.00", "1 - 4", 3],
        ["floats", "as `tensor_content`", 1.0, "-", "1", "-", 3],
    ],
}
BATCHES = {
    "title": "Batches",
    "columns": ["images a request", "bare model call", "article's Flask server", "Flask gateway"],
    "rows": [[1, "2,000", "500 (25 %)", "900 (45 %)"], [32, "9,000", "450 (5 %)", "4,000 (44 %)"]],
}


def widths(picture):
    return [float(width) for width in re.findall(r'<rect [^>]* width="([\d.]+)%"', picture)]


def test_bars_are_as_long_as_their_parts_and_a_negative_part_takes_from_what_is_before_it():
    picture = table_pictures.draw("breakdown", BREAKDOWN)
    unit = widths(picture)[0]
    assert widths(picture) == pytest.approx([unit, 2 * unit, unit, unit / 2, 0, 2 * unit], abs=0.02)
    assert all(f">{text}</text>" in picture for text in ("another &lt;one&gt;", "4.00 ms", "2.00 ms"))
    ends = [float(end) for end in re.findall(r'<text x="([\d.]+)%"[^>]*>\d', picture)]
    assert ends == pytest.approx([4 * unit, 2 * unit], abs=0.02)


def test_each_group_of_choices_has_a_picture_without_backticks():
    picture = table_pictures.draw("choices", CHOICES)
    assert picture.count("<svg") == 1
    assert all(f">{text}</text>" in picture for text in ("floats", "as tensor_content", "3 ms", "3.00 times"))


def test_the_curves_of_batches_are_labelled_at_their_ends():
    picture = table_pictures.draw("batches", BATCHES)
    assert all(f">{text}</text>" in picture for text in ("bare call", "article's", "gateway"))


@pytest.mark.parametrize(("name", "table"), [("breakdown", BREAKDOWN), ("choices", CHOICES), ("batches", BATCHES)])
def test_all_colours_follow_the_theme(name, table):
    picture = table_pictures.draw(name, table)
    assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'(?:id|href)="[^"]*"|url\([^)]*\)', "", picture))
    file = plots.standalone(picture, 720)
    assert all(f"--{variable}:" in file for variable in re.findall(r"var\(--(\w+)\)", file))


def test_what_is_not_measured_is_not_drawn():
    assert table_pictures.draw("breakdown", BREAKDOWN | {"rows": []}) is None
    assert table_pictures.draw("another", BREAKDOWN) is None


def test_labels_are_moved_apart_and_keep_their_order():
    heights = plots.spread([0.5, 0.1, 0.5, 0.52], 0.1)
    assert heights[1] == 0.1
    assert heights[0] < heights[2] < heights[3]
    assert heights[2] - heights[0] == pytest.approx(0.1, abs=1e-5)
