import contextlib
import threading

import numpy as np
import pytest
from conftest import random_split

from rnn_serving.clients import load
from rnn_serving.clients.load import RequestError
from rnn_serving.dataset import Split

SPLIT = Split(*random_split(10))


def connecting(ask):
    """Return a `connect` whose connections are all `ask`."""
    return lambda: contextlib.nullcontext(ask)


def right_answers(images):
    """Return one-hot scores of the labels of some images of `SPLIT`."""
    indices = [int(np.argmax((SPLIT.images == image).all(axis=(1, 2)))) for image in images]
    return np.eye(10)[SPLIT.labels[indices]]


@pytest.mark.parametrize(("batch_size", "concurrency"), [(1, 1), (3, 1), (1, 4), (4, 3), (100, 2)])
def test_every_image_is_sent_once_and_graded(batch_size, concurrency):
    graded = load.run_load(connecting(right_answers), SPLIT, batch_size, concurrency)
    assert graded.correct == 10
    assert len(graded.latencies_s) == -(-10 // batch_size)
    assert graded.errors == []


def test_each_caller_sends_one_warm_up_request_that_is_not_counted():
    calls = []
    graded = load.run_load(
        connecting(lambda images: calls.append(len(images)) or right_answers(images)),
        SPLIT,
        batch_size=5,
        concurrency=3,
    )
    assert sorted(calls) == [5] * (3 + 2)
    assert len(graded.latencies_s) == 2


def test_callers_send_requests_concurrently():
    barrier = threading.Barrier(5, timeout=10)

    def ask(images):
        barrier.wait()
        return right_answers(images)

    assert load.run_load(connecting(ask), SPLIT, 1, 5).errors == []


def test_errors_are_listed_apart_from_wrong_digits():
    def ask(images):
        index = int(np.argmax((SPLIT.images == images[0]).all(axis=(1, 2))))
        if index == 3:
            raise RequestError("no answer")
        return np.eye(10)[[(SPLIT.labels[index] + (index == 5)) % 10]]

    graded = load.run_load(connecting(ask), SPLIT)
    assert (graded.correct, graded.errors) == (8, ["image 3: no answer"])


def test_an_answer_of_the_wrong_length_is_an_error():
    graded = load.run_load(connecting(lambda images: np.zeros((1, 10))), SPLIT, 5)
    assert (
        graded.errors[0]
        == "image 0: answer has shape (1, 10) or numbers that are not finite; expected 5 rows of 10 finite numbers"
    )


def test_a_bug_in_the_client_is_raised_not_counted():
    def ask(images):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        load.run_load(connecting(ask), SPLIT, concurrency=2)


def failing_first(times, may_be_repeated):
    """Return an `ask` that fails so often before it answers, and the list of the images that it was asked for."""
    asked = []

    def ask(images):
        asked.append(len(images))
        if len(asked) <= times:
            raise RequestError("gone", may_be_repeated)
        return right_answers(images)

    return ask, asked


@pytest.mark.parametrize(
    ("failures", "may_be_repeated", "retries", "errors", "requests"),
    [
        (2, True, 2, 0, 13),
        (5, True, 2, 0, 15),  # of the warm-up, whose failure is not counted, and of the first image
        (100, True, 1, 10, 22),
        (2, True, 0, 1, 11),
        (2, False, 5, 1, 11),
    ],
)
def test_a_request_that_may_be_repeated_is_as_often_as_allowed(failures, may_be_repeated, retries, errors, requests):
    ask, asked = failing_first(failures, may_be_repeated)
    graded = load.run_load(connecting(ask), SPLIT, retries=retries)
    assert (len(graded.errors), graded.correct, len(asked)) == (errors, 10 - errors, requests)


def test_the_latency_of_a_repeated_request_includes_its_failures():
    ask, _ = failing_first(3, may_be_repeated=True)  # of the warm-up, twice, and of the first image
    graded = load.run_load(connecting(ask), SPLIT, retries=1)
    assert graded.latencies_s[0] >= load.FIRST_WAIT_S > graded.latencies_s[1]
