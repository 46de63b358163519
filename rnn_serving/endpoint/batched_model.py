"""One loaded version of a model, which batches concurrent requests and splits large ones."""

import time
from typing import NamedTuple

from werkzeug.exceptions import GatewayTimeout, ServiceUnavailable, UnprocessableEntity

from rnn_serving import array_batches
from rnn_serving.batching import ExpiredError, QueueFullError
from rnn_serving.command_line import error_reason
from rnn_serving.endpoint import metrics
from rnn_serving.quiet_tensorflow import tf

# Transient server errors: what the request contains is not the cause.
_TRANSIENT = (
    tf.errors.ResourceExhaustedError,
    tf.errors.CancelledError,
    tf.errors.AbortedError,
    tf.errors.UnavailableError,
)


class _ModelCall(NamedTuple):
    """Inputs of a call, arrays by key; how many rows, None if it cannot be batched; and its deadline."""

    inputs: dict
    rows: int | None
    deadline: float


class BatchedModel:
    """A version whose `predict` shares model calls with concurrent requests; it takes over a `ServedModel`."""

    def __init__(
        self, model, concurrency, is_batching, max_batch_size, batch_timeout_s, max_enqueued_batches, request_timeout_s
    ):
        """Batch up to `max_batch_size` rows, or without `is_batching` make one call for each request, whole.

        `concurrency` says how requests wait, `Threads` or `Greenlets`.
        """
        self.name, self.version, self.dataset = model.name, model.version, model.dataset
        self.signature, self.logits = model.signature, model.logits
        self.mode = f"batching {'on' if is_batching else 'off'}"
        self._model, self._timeout_s = model, request_timeout_s
        # Whether requests may be joined and split: as long as no answer shows that the model mixes rows.
        self._can_batch = is_batching and has_rows(model.signature)
        # Without batching, each request is its own batch: scale the queue limit so that as many rows may wait.
        max_waiting = max_enqueued_batches if self._can_batch else max_enqueued_batches * max_batch_size
        limits = (max_batch_size, batch_timeout_s, max_waiting)
        self._batcher = concurrency.batcher(self._run, *limits, has_predictable_cost(model))
        metrics.WORKERS.labels(self.name, self.version).set(1)

    def predict(self, inputs):
        """Return {key: array} of the outputs from {key: array} of the inputs, as many rows each.

        Raises: UnprocessableEntity if the model rejects the inputs, ServiceUnavailable if the queue is full or memory
        is short, GatewayTimeout at the deadline.
        """
        deadline = time.monotonic() + self._timeout_s
        try:
            return self._answer(inputs, deadline)
        except QueueFullError as error:
            raise ServiceUnavailable(f"{error}; expected fewer requests at a time", retry_after=1) from error
        except (ExpiredError, tf.errors.DeadlineExceededError) as error:
            raise GatewayTimeout(f"no answer within {self._timeout_s:g} s") from error
        except _TRANSIENT as error:
            raise ServiceUnavailable(f"the model call failed: {error_reason(error)}", retry_after=1) from error
        except tf.errors.OpError as error:
            raise UnprocessableEntity(f"the model rejects 'data': {error_reason(error)}") from error

    def close(self):
        """Free what the model holds."""
        metrics.WORKERS.labels(self.name, self.version).set(0)
        self._batcher.close()
        self._model.close()

    def _answer(self, inputs, deadline):
        """Return the outputs of a request, which is split if it has more rows than a batch may have."""
        if self._can_batch:
            parts = self._parts(inputs, deadline)
            answers = [self._submit(part) for part in parts]
            if len(parts) == 1 or all(_has_row_count(outputs, part.rows) for part, outputs in zip(parts, answers)):
                return _joined_answers(answers)
            self._can_batch = False
        return self._submit(_ModelCall(inputs, None, deadline))

    def _parts(self, inputs, deadline):
        rows, limit = len(next(iter(inputs.values()))), self._batcher.max_batch_size
        parts = []
        for start in range(0, rows, limit):
            part = {key: array[start : start + limit] for key, array in inputs.items()}
            parts.append(_ModelCall(part, min(limit, rows - start), deadline))
        return parts

    def _submit(self, call):
        if call.deadline <= time.monotonic():
            raise ExpiredError
        # A call that cannot be batched fills a batch of its own.
        return self._batcher.submit(call, call.rows or self._batcher.max_batch_size, call.deadline)

    def _run(self, calls):
        """Return the outputs of each of several calls, or its error; calls whose rows have one shape are joined."""
        outcomes = [None] * len(calls)
        for indexes in _grouped_by_shape(calls):
            for index, outcome in zip(indexes, self._run_group([calls[index] for index in indexes])):
                outcomes[index] = outcome
        return outcomes

    def _run_group(self, calls):
        if len(calls) > 1 and self._can_batch and all(call.rows for call in calls):
            try:
                return self._run_joined(calls)
            except tf.errors.DeadlineExceededError as error:
                return [error] * len(calls)
            except tf.errors.OpError:
                pass  # one request's content must not fail the others
            except _RowsChangedError:
                self._can_batch = False
        return [self._run_alone(call) for call in calls]

    def _run_joined(self, calls):
        sizes = [call.rows for call in calls]
        total, deadline = sum(sizes), max(call.deadline for call in calls)
        outputs = self._call_model(array_batches.join([call.inputs for call in calls]), total, deadline)
        if not _has_row_count(outputs, total):
            raise _RowsChangedError
        return array_batches.split(outputs, sizes)

    def _run_alone(self, call):
        try:
            return self._call_model(call.inputs, call.rows or 1, call.deadline)
        except (ExpiredError, tf.errors.OpError) as error:
            return error

    def _call_model(self, inputs, rows, deadline):
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise ExpiredError
        metrics.BATCH_SIZE.observe(rows)
        return self._model.predict(inputs, remaining_s)


class _RowsChangedError(Exception):
    """The outputs do not have a row for each input row, whatever the signature says."""


def _has_row_count(outputs, rows):
    return all(array.shape[:1] == (rows,) for array in outputs.values())


def has_rows(signature):
    """Return whether all inputs and outputs leave their first size open."""
    shapes = [info.shape for info in (*signature.inputs.values(), *signature.outputs.values())]
    return all(shape and shape[0] is None for shape in shapes)


def has_predictable_cost(model):
    """Return whether the number of rows alone decides how long a call takes, as far as the signature shows."""
    inputs = model.signature.inputs.values()
    return not model.signature.has_loop and all(
        info.shape is not None and None not in info.shape[1:] and info.dtype != "string" for info in inputs
    )


def _joined_answers(answers):
    """Return the answers to the parts of a request as one."""
    try:
        return array_batches.join(answers)
    except ValueError as error:
        raise UnprocessableEntity(
            "the model's answers to parts of 'data' differ in shape; expected no more rows than --max_batch_size"
        ) from error


def _grouped_by_shape(calls):
    """Return lists of the indexes of calls whose rows have the same shape."""
    groups = {}
    for index, call in enumerate(calls):
        groups.setdefault(tuple(array.shape[1:] for array in call.inputs.values()), []).append(index)
    return groups.values()
