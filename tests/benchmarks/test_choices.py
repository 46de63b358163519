import contextlib

import numpy as np
import pytest
from benchmark_runs import quick_run

from benchmarks import choice_groups, choices
from benchmarks.answers import Answers, open_model

CHOICES = {
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


def test_a_choice_is_compared_with_the_last_of_its_group_round_by_round():
    asked = [choice_groups.Choice(group, name, "logits", None) for group, name in (("a", "x"), ("a", "y"), ("b", "z"))]
    rows = choices.table_rows(asked, [[2.0, 6.0, 9.0], [1.0, 2.0, 6.0], [5.0, 4.0, 6.0]])
    assert rows == [
        ["a", "x", 6.0, 3.0, "2.00", "1.50 - 3.00", 3],
        ["a", "y", 2.0, "-", "1", "-", 3],
        ["b", "z", 5.0, "-", "1", "-", 3],
    ]


def test_every_way_to_call_the_model_gives_the_same_answer(export_base, test_images):
    with contextlib.ExitStack() as stack:
        _, model = open_model(stack, export_base)
        answers = Answers(model, test_images.images[:5])
        ways = choice_groups.model_choices(stack, model)
        assert [way.name for way in ways] == CHOICES["model call"]
        for way in ways:
            answers.check(way.name, way.kind, np.arange(5), way.ask(answers.images))


def test_floats_are_read_as_they_were_written_in_every_format(test_images):
    images = test_images.images[:5]
    ways = choice_groups.float_choices()
    assert [way.name for way in ways] == CHOICES["floats"]
    for way in ways:
        np.testing.assert_array_equal(way.ask(images), images)


@pytest.mark.slow
def test_every_choice_is_measured_against_the_last_of_its_group(data_dir, export_base, tmp_path, monkeypatch):
    table, _ = quick_run("choices", data_dir, export_base, tmp_path, monkeypatch)
    found = {}
    for group, choice, milliseconds, *_ in table["rows"]:
        assert milliseconds > 0
        found.setdefault(group, []).append(choice)
    assert found == CHOICES
    assert all(row[4:] == ["1", "-", 2] for row in table["rows"] if row[1] == CHOICES[row[0]][-1])
    assert not (tmp_path / "choices.svg").exists()
