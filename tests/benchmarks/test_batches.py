import pytest
from benchmark_runs import ROUTES, quick_run

from benchmarks import batches
from benchmarks.answers import Answers
from benchmarks.colours import style_of
from rnn_serving.command_line import UserError
from rnn_serving.saved_model import ServedModel


def test_an_answer_that_is_not_the_models_is_an_error(export_base, test_images):
    with ServedModel(export_base) as model:
        answers = Answers(model, test_images.images[:5])
        wrong = lambda images: answers.call_model(images)[::-1]  # noqa: E731
        with pytest.raises(UserError, match="a route: another answer to image 0.*expected the bare model's logits"):
            batches.images_per_second("a route", "logits", wrong, answers, answers.batches(2), 0.001)
        assert batches.images_per_second("", "logits", answers.call_model, answers, answers.batches(2), 0.01) > 0


def test_rates_are_shown_with_their_share_of_the_bare_call_by_rounds():
    rates = {batches.BARE: {1: [4000, 1000, 2000], 32: [9000.0]}, "a route": {1: [1000, 500, 500], 32: [450.0]}}
    columns, rows = batches.rates_table(rates)
    assert columns == ["images a request", "bare model call", "a route"]
    assert rows == [[1, "2,000", "500 (25 %)"], [32, "9,000", "450 (5 %)"]]
    picture = batches.picture({"title": "", "columns": columns, "rows": rows})
    assert ">a route</text>" in picture


@pytest.mark.slow
def test_images_a_second_are_measured_by_every_route_beside_the_bare_call(data_dir, export_base, tmp_path, monkeypatch):
    table, printed = quick_run("batches", data_dir, export_base, tmp_path, monkeypatch)
    assert table["columns"] == printed[0] == ["images a request", "bare model call", *ROUTES]
    assert [row[0] for row in table["rows"]] == [1, 32]
    assert all(cell.endswith(" %)") for row in table["rows"] for cell in row[2:])
    picture = (tmp_path / "batches.svg").read_text().replace("&apos;", "'")
    assert all(f">{style_of(name)[1].short}</text>" in picture for name in ROUTES)
