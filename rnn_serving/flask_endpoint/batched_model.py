"""A loaded model that answers concurrent requests together."""

import time
from typing import NamedTuple

import numpy as np
from werkzeug.exceptions import GatewayTimeout, ServiceUnavailable, UnprocessableEntity

from rnn_serving.batching import ExpiredError, QueueFullError
from rnn_serving.command_line import first_line
from rnn_serving.flask_endpoint import metrics
from rnn_serving.flask_endpoint.greenlet_batcher import IN_LOOP_S, GreenletBatcher
from rnn_serving.quiet_tensorflow import tf

# What says more about the moment, or about the size of the answer, than about the content of a request.
_MOMENTARY = (
    tf.errors.ResourceExhaustedError,
    tf.errors.CancelledError,
    tf.errors.AbortedError,
    tf.errors.UnavailableError,
)


class _Request(NamedTuple):
    """What the model is asked: arrays by key, how many rows (None: not to be joined), and until when."""

    inputs: dict
    rows: int | None
    deadline: float


class BatchedModel:
    """A `ServedModel` whose `predict` joins concurrent calls and splits large ones."""

    def __init__(self, model, max_batch_size, batch_timeout_s, max_enqueued_batches, request_timeout_s):
        """Take over `model`; at most `max_batch_size` rows are asked of it at once."""
        self.name, self.version, self.dataset = model.name, model.version, model.dataset
        self.signature, self._model, self._timeout_s = model.signature, model, request_timeout_s
        in_loop_s = IN_LOOP_S if _takes_what_it_took(model) else 0
        self._batcher = GreenletBatcher(self._run, max_batch_size, batch_timeout_s, max_enqueued_batches, in_loop_s)
        self._has_rows = self._keeps_rows = _has_rows(model.signature)
        metrics.WORKERS.labels(self.name, self.version).set(1)

    def predict(self, inputs):
        """Return {key: array} of the outputs from {key: array} of the inputs, as many rows each.

        Raises: UnprocessableEntity for a content that the model refuses, ServiceUnavailable if too many wait or memory
        is short, GatewayTimeout if it takes too long.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            answers = [self._submit(request) for request in self._requests(inputs, deadline)]
        except QueueFullError as error:
            raise ServiceUnavailable(f"{error}; expected fewer requests at a time", retry_after=1) from error
        except (ExpiredError, tf.errors.DeadlineExceededError) as error:
            raise GatewayTimeout(f"no answer within {self._timeout_s:g} s") from error
        except _MOMENTARY as error:
            raise ServiceUnavailable(f"the model gives up: {first_line(error)}", retry_after=1) from error
        except tf.errors.OpError as error:
            raise UnprocessableEntity(f"the model refuses 'data': {first_line(error)}") from error
        return answers[0] if len(answers) == 1 else _concatenated(answers)

    def close(self):
        """Free what the model holds."""
        metrics.WORKERS.labels(self.name, self.version).set(0)
        self._batcher.close()
        self._model.close()

    def _requests(self, inputs, deadline):
        """Yield a request in parts of at most a batch, or whole if the signature does not leave open how many rows."""
        if not self._has_rows:
            yield _Request(inputs, None, deadline)
            return
        rows, limit = len(next(iter(inputs.values()))), self._batcher.max_batch_size
        for start in range(0, rows, limit):
            part = {key: array[start : start + limit] for key, array in inputs.items()}
            yield _Request(part, min(limit, rows - start), deadline)

    def _submit(self, request):
        remaining = request.deadline - time.monotonic()
        if remaining <= 0:
            raise ExpiredError
        # What cannot be joined fills a batch of its own.
        return self._batcher.submit(request, request.rows or self._batcher.max_batch_size, remaining)

    def _run(self, requests):
        """Return the outputs of each of several requests, or its error; those of one shape are joined."""
        outcomes = [None] * len(requests)
        for indexes in _alike(requests):
            for index, outcome in zip(indexes, self._run_alike([requests[index] for index in indexes])):
                outcomes[index] = outcome
        return outcomes

    def _run_alike(self, requests):
        if len(requests) > 1 and self._keeps_rows:
            try:
                return self._run_joined(requests)
            except tf.errors.DeadlineExceededError as error:
                return [error] * len(requests)
            except tf.errors.OpError:
                pass  # one request's content must not fail the others
            except _RowsChangedError:
                self._keeps_rows = False
        return [self._run_alone(request) for request in requests]

    def _run_joined(self, requests):
        sizes = [request.rows for request in requests]
        inputs = {key: np.concatenate([request.inputs[key] for request in requests]) for key in requests[0].inputs}
        outputs = self._ask(inputs, sum(sizes), max(request.deadline for request in requests))
        if any(array.shape[:1] != (sum(sizes),) for array in outputs.values()):
            raise _RowsChangedError
        ends = np.cumsum(sizes)
        return [{key: array[end - size : end] for key, array in outputs.items()} for size, end in zip(sizes, ends)]

    def _run_alone(self, request):
        try:
            return self._ask(request.inputs, request.rows or 1, request.deadline)
        except (ExpiredError, tf.errors.OpError) as error:
            return error

    def _ask(self, inputs, rows, deadline):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise ExpiredError
        metrics.BATCH_SIZE.observe(rows)
        return self._model.predict(inputs, remaining)


class _RowsChangedError(Exception):
    """The model answered other than a row for each row, whatever its signature says."""


def _has_rows(signature):
    """Return whether all inputs and outputs have a first size that is open."""
    shapes = [info.shape for info in (*signature.inputs.values(), *signature.outputs.values())]
    return all(shape and shape[0] is None for shape in shapes)


def _takes_what_it_took(model):
    """Return whether the number of rows alone decides how long a call takes, by all that the signature says."""
    inputs = model.signature.inputs.values()
    return not model.signature.has_loop and all(
        info.shape is not None and None not in info.shape[1:] and info.dtype != "string" for info in inputs
    )


def _concatenated(answers):
    """Return the answers to the parts of a request as one."""
    try:
        return {key: np.concatenate([answer[key] for answer in answers]) for key in answers[0]}
    except ValueError as error:
        raise UnprocessableEntity(
            "the model's answers to parts of 'data' differ in shape; expected no more rows than --max_batch_size"
        ) from error


def _alike(requests):
    """Return lists of the indexes of requests whose rows have the same shape."""
    groups = {}
    for index, request in enumerate(requests):
        groups.setdefault(tuple(array.shape[1:] for array in request.inputs.values()), []).append(index)
    return groups.values()
