import numpy as np
import pytest

from rnn_serving.clients.classify import scores_by_digit
from rnn_serving.clients.load import RequestError


def test_labels_in_any_order_become_scores_by_digit():
    scores = scores_by_digit([[("7", 0.75), ("0", 0.25)], [("1", -3.0)]])
    assert scores.argmax(axis=1).tolist() == [7, 1]
    assert scores[0, 7] == 0.75
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("labels", [[], [("cat", 1.0)], [("10", 1.0)], [("", 1.0)], [("٣", 1.0)]])
def test_labels_that_are_not_digits_are_an_error(labels):
    with pytest.raises(RequestError, match="answer has the labels .*; expected digits"):
        scores_by_digit([[("7", 0.75)], labels])
