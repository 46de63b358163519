from types import SimpleNamespace

import pytest
from scripted_servers import answers, measured

from benchmarks.compare.rows import Point
from benchmarks.compare.servers import MeasuredServer
from benchmarks.compare.turns import take_turn


@pytest.mark.parametrize(("end", "status"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_run_that_is_cut_short_keeps_its_rows(end, status):
    found, rows = measured({"article": [answers(10), end]})
    assert found == status
    assert [row["requests"] for row in rows] == [10]


def test_every_image_is_sent_though_no_round_sends_all():
    asked = []
    server = MeasuredServer(
        "article", "HTTP/JSON", "", "", grader=SimpleNamespace(num_images=100, grade=lambda *_: None)
    )
    for turn in range(4):
        take_turn(lambda *_, first: asked.append(first) or answers(1), server, Point(1), turn, 4)
    assert asked == [0, 25, 50, 75]
