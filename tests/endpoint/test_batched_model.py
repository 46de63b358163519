import time
from types import SimpleNamespace

import gevent
import numpy as np
import odd_models
import pytest
from werkzeug.exceptions import GatewayTimeout, HTTPException, ServiceUnavailable, UnprocessableEntity

from rnn_serving.endpoint.batched_model import BatchedModel
from rnn_serving.http_worker.greenlets import Greenlets
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.saved_model import ServedModel, TensorInfo

pytestmark = pytest.mark.usefixtures("loop_on_time")

LIMIT_S = 20


class Fake:
    """A model that records its inputs in `calls` and answers with `function` of them."""

    def __init__(self, function=lambda x: x * 10, input_shape=(None,), output_shape=(None,), dtype="float32"):
        self.name, self.version, self.dataset, self.logits = "fake", 1, None, []
        x, y = TensorInfo("x", "x:0", dtype, input_shape), TensorInfo("y", "y:0", dtype, output_shape)
        self.signature = SimpleNamespace(inputs={"x": x}, outputs={"y": y}, has_loop=False)
        self.calls, self._function, self.is_closed = [], function, False

    def predict(self, inputs, timeout_s=None):
        self.calls.append(inputs["x"].tolist())
        return {"y": self._function(inputs["x"])}

    def close(self):
        self.is_closed = True


def batched(model, max_batch_size=8, max_enqueued_batches=10, request_timeout_s=LIMIT_S, is_batching=True):
    return BatchedModel(model, Greenlets, is_batching, max_batch_size, 0.0, max_enqueued_batches, request_timeout_s)


def answers_to(model, *requests):
    """Return the answers to concurrent requests, errors included."""
    greenlets = [gevent.spawn(_outcome, model, np.array(request, np.float32)) for request in requests]
    gevent.joinall(greenlets, LIMIT_S, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


def _outcome(model, x):
    try:
        return model.predict({"x": x})["y"].tolist()
    except HTTPException as error:
        return error


def test_concurrent_requests_share_one_call():
    model = Fake()
    assert answers_to(batched(model), [1], [2, 3], [4]) == [[10], [20, 30], [40]]
    assert model.calls == [[1, 2, 3, 4]]


def test_a_request_larger_than_the_limit_is_split():
    model = Fake()
    assert answers_to(batched(model, max_batch_size=2), [1, 2, 3, 4, 5]) == [[10, 20, 30, 40, 50]]
    assert model.calls == [[1, 2], [3, 4], [5]]


def test_requests_of_different_inner_shapes_do_not_share_a_call():
    model = Fake(input_shape=(None, None), output_shape=(None, None))
    assert answers_to(batched(model), [[1]], [[2, 3]], [[4]]) == [[[10]], [[20, 30]], [[40]]]
    assert sorted(model.calls) == [[[1], [4]], [[2, 3]]]


def reject(number, error):
    """Return a function that raises `error` if `number` is in its input."""

    def function(x):
        if number in x:
            raise error
        return x

    return function


def invalid(message="a bad number"):
    return tf.errors.InvalidArgumentError(None, None, message)


def test_a_request_that_the_model_rejects_does_not_fail_the_others():
    model = Fake(reject(2, invalid()))
    first, second, third = answers_to(batched(model), [1], [2], [3])
    assert (first, third) == ([1], [3])
    assert isinstance(second, UnprocessableEntity)
    assert second.description == "the model rejects 'data': a bad number"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (invalid(), UnprocessableEntity),
        (tf.errors.OutOfRangeError(None, None, ""), UnprocessableEntity),
        (tf.errors.UnimplementedError(None, None, ""), UnprocessableEntity),
        (tf.errors.DataLossError(None, None, ""), UnprocessableEntity),
        (tf.errors.UnknownError(None, None, ""), UnprocessableEntity),
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"), ServiceUnavailable),
        (tf.errors.DeadlineExceededError(None, None, ""), GatewayTimeout),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_an_op_error_is_never_a_500(error, expected):
    answers = answers_to(batched(Fake(reject(2, error))), [2])
    assert isinstance(answers[0], expected), answers


def test_a_batch_that_times_out_is_not_retried_request_by_request():
    model = Fake(reject(2, tf.errors.DeadlineExceededError(None, None, "")))
    assert [type(answer) for answer in answers_to(batched(model), [1], [2], [3])] == [GatewayTimeout] * 3
    assert len(model.calls) == 1


def test_the_parts_of_a_split_request_share_one_deadline():
    def slow(x):
        time.sleep(0.05)
        return x

    model = batched(Fake(slow), max_batch_size=1, request_timeout_s=0.2)
    began = time.monotonic()
    assert isinstance(answers_to(model, list(range(100)))[0], GatewayTimeout)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    "function",
    [lambda x: np.concatenate([x, x]), lambda x: x[:1], lambda x: x.sum(), lambda x: x[:0]],
    ids=["twice", "one", "sum", "none"],
)
def test_a_model_that_changes_the_number_of_rows_gets_one_request_at_a_time(function):
    requests = [[1, 2], [3], [4, 5, 6]]
    expected = [function(np.array(request, np.float32)).tolist() for request in requests]
    model = batched(Fake(function))
    assert answers_to(model, *requests) == expected
    assert answers_to(model, *requests) == expected


@pytest.mark.parametrize(
    ("input_shape", "output_shape"), [((None,), ()), ((None,), (2,)), (None, (None,)), ((3,), (3,)), ((), ())]
)
def test_signatures_without_an_open_number_of_rows_are_never_batched(input_shape, output_shape):
    model = Fake(input_shape=input_shape, output_shape=output_shape)
    assert answers_to(batched(model, max_batch_size=1), [1, 2, 3], [4, 5, 6]) == [[10, 20, 30], [40, 50, 60]]
    assert model.calls == [[1, 2, 3], [4, 5, 6]]


def test_a_full_queue_is_a_503_with_retry_after():
    model = batched(Fake(), max_batch_size=1, max_enqueued_batches=2)
    answers = answers_to(model, [1], [2], [3], [4])
    rejected = [answer for answer in answers if isinstance(answer, ServiceUnavailable)]
    assert [answer for answer in answers if answer not in rejected] == [[10], [20]]
    assert all(dict(error.get_headers())["Retry-After"] == "1" for error in rejected)


def test_closing_it_closes_the_model():
    model = Fake()
    batched(model).close()
    assert model.is_closed


@pytest.mark.parametrize(
    ("model", "in_loop"),
    [
        (Fake(), True),
        (Fake(input_shape=(None, None)), False),
        (Fake(input_shape=None), False),
        (Fake(dtype="string"), False),
    ],
    ids=["fixed", "open", "unknown", "strings"],
)
def test_only_calls_of_predictable_cost_run_in_the_event_loop(model, in_loop):
    assert (batched(model)._batcher._in_loop_s > 0) == in_loop


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    directory = odd_models.export(tmp_path_factory.mktemp("slow") / "1", odd_models.slow)
    with ServedModel(directory) as model:
        yield model


def test_a_slow_call_is_cancelled_at_its_deadline_and_does_not_block_the_event_loop(slow_model):
    model = batched(slow_model, request_timeout_s=0.3)
    assert answers_to(model, [[1]]) == [[[1]]]
    began = time.monotonic()
    slow = gevent.spawn(_outcome, model, np.array([[1e9]], np.float32))
    gevent.sleep(0.05)
    assert time.monotonic() - began < 0.2
    assert isinstance(slow.get(timeout=LIMIT_S), GatewayTimeout)
    assert time.monotonic() - began < 2
    # TensorFlow has cancelled the call too: the next request does not wait.
    assert answers_to(model, [[1]]) == [[[1]]]
