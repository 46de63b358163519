from scripted_servers import answers, down, measured

from benchmarks.compare import contents
from benchmarks.compare.rows import is_wrong
from benchmarks.load_process import RawLoad


def test_the_ratio_is_taken_round_by_round_and_shown_with_its_spread():
    script = {"article": map(answers, [10, 20, 40]), "other": map(answers, [30, 20, 80])}
    _, (_, row) = measured(script, rounds=3)
    assert row["ratio_to_article"]["throughput"] == {"median": 2, "min": 1, "max": 3}
    assert row["throughput_rps"] == 30
    assert contents.with_spread(row["ratio_to_article"]["throughput"]) == "2.00 (1.00-3.00)"


def test_a_server_that_dies_half_way_is_marked_and_the_others_are_finished():
    script = {"article": map(answers, [10] * 6), "other": [answers(10), down()]}
    status, rows = measured(script, rounds=6)
    assert status == 0
    article, other = rows
    assert len(article["throughput_of_rounds_rps"]) == 6
    assert other["marks"] == [
        "does not answer: connection refused",
        "measured in 2 of 6 rounds",
        "3 requests without an answer: connection refused (3 times)",
    ]
    assert is_wrong(other)
    assert not is_wrong(article)


def test_a_row_whose_load_generator_was_the_bottleneck_is_marked():
    _, (row,) = measured({"article": [answers(10, busy=0.5), answers(10, busy=0.95)]})
    assert row["marks"] == ["the load generator was the bottleneck: the server may be faster"]
    assert row["generator_busy"] == 0.95
    assert not is_wrong(row)


def test_an_answer_that_is_not_the_models_is_counted():
    wrong = RawLoad([(0, 0.001, b"right"), (0, 0.001, b"wrong")], [], 1.0, 0.1)
    _, (row,) = measured({"article": [wrong, answers(2)]})
    assert (row["different"], row["requests"]) == (1, 4)
    assert row["marks"] == ["1 answers differ from the model's"]


def test_a_rate_that_is_not_kept_up_with_is_marked():
    _, (closed, opened) = measured({"article": map(answers, [800, 800, 850, 850])}, rate=(1000,))
    assert opened["marks"] == ["could not keep up with the rate"]
    assert closed["marks"] == []


def test_a_rate_is_kept_up_with_if_only_chance_is_missing():
    _, (_, opened) = measured({"article": map(answers, [90, 90, 95, 95])}, rate=(100,))
    assert opened["marks"] == []
