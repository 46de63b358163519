from scripted_servers import answers, measured

from benchmarks.compare import charts, pictures


def test_the_lines_of_a_chart_are_labelled_at_their_ends_and_follow_the_theme():
    _, rows = measured({"article": [answers(10)] * 4, "flask": [answers(30)] * 4}, concurrency=(1, 32))
    throughput, *_ = charts.make_charts(rows)
    assert throughput.lines == {"article": [(1, 10), (32, 10)], "flask": [(1, 30), (32, 30)]}
    picture = pictures.svg(throughput)
    assert all(f">{name}</text>" in picture for name in ("article's", "Flask, 1 worker"))
    assert "var(--s0)" in picture


def test_each_nine_of_a_percentage_is_as_wide_as_the_last():
    assert [round(charts.nines(percent), 6) for percent in (0, 90, 99, 99.9)] == [0, 1, 2, 3]
