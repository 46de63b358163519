"""A loaded model that answers concurrent requests together."""

import numpy as np
from werkzeug.exceptions import GatewayTimeout, ServiceUnavailable, UnprocessableEntity

from rnn_serving.batching import ExpiredError, QueueFullError
from rnn_serving.command_line import first_line
from rnn_serving.flask_endpoint import metrics
from rnn_serving.flask_endpoint.greenlet_batcher import GreenletBatcher
from rnn_serving.quiet_tensorflow import tf

# What the content of a request can make the model's ops say.
_CONTENT_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.OutOfRangeError,
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
)


class BatchedModel:
    """A `ServedModel` whose `predict` joins concurrent calls and splits large ones."""

    def __init__(self, model, max_batch_size, batch_timeout_s, max_enqueued_batches, request_timeout_s):
        """Take over `model`; at most `max_batch_size` rows are asked of it at once."""
        self.name, self.version, self.dataset = model.name, model.version, model.dataset
        self.signature, self._model, self._timeout_s = model.signature, model, request_timeout_s
        self._batcher = GreenletBatcher(self._run, max_batch_size, batch_timeout_s, max_enqueued_batches)
        metrics.WORKERS.labels(self.name, self.version).set(1)

    def predict(self, inputs):
        """Return {key: array} of the outputs from {key: array} of the inputs, as many rows each.

        Raises: UnprocessableEntity for a content that the model refuses, ServiceUnavailable if too many wait,
        GatewayTimeout if it takes too long.
        """
        rows = self._rows(inputs)
        try:
            if rows is None:
                return self._model.predict(inputs, self._timeout_s)
            parts = [
                self._batcher.submit(part, size, self._timeout_s)
                for part, size in _parts(inputs, rows, self._batcher.max_batch_size)
            ]
        except QueueFullError as error:
            raise ServiceUnavailable(f"{error}; expected fewer requests at a time", retry_after=1) from error
        except (ExpiredError, tf.errors.DeadlineExceededError) as error:
            raise GatewayTimeout(f"no answer within {self._timeout_s:g} s") from error
        except _CONTENT_ERRORS as error:
            raise UnprocessableEntity(f"the model refuses 'data': {first_line(error)}") from error
        return parts[0] if len(parts) == 1 else {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def close(self):
        """Free what the model holds."""
        metrics.WORKERS.labels(self.name, self.version).set(0)
        self._batcher.close()
        self._model.close()

    def _rows(self, inputs):
        """Return the number of rows of a request, None if the signature does not leave it open."""
        shapes = [info.shape for info in (*self.signature.inputs.values(), *self.signature.outputs.values())]
        if not all(shape and shape[0] is None for shape in shapes):
            return None
        return len(next(iter(inputs.values())))

    def _run(self, requests):
        """Return the outputs of each of several requests, or its error; those of one shape are joined."""
        outcomes = [None] * len(requests)
        for indexes in _alike(requests):
            for index, outcome in zip(indexes, self._run_alike([requests[index] for index in indexes])):
                outcomes[index] = outcome
        return outcomes

    def _run_alike(self, requests):
        try:
            return self._run_joined(requests)
        except tf.errors.OpError as error:
            if len(requests) == 1:
                return [error]
            # One request's content must not fail the others.
            return [outcome for request in requests for outcome in self._run_alike([request])]

    def _run_joined(self, requests):
        sizes = [len(next(iter(request.values()))) for request in requests]
        metrics.BATCH_SIZE.observe(sum(sizes))
        outputs = self._model.predict(_joined(requests), self._timeout_s)
        ends = np.cumsum(sizes)
        return [{key: array[end - size : end] for key, array in outputs.items()} for size, end in zip(sizes, ends)]


def _parts(inputs, rows, limit):
    """Yield (inputs, number of rows) of at most `limit` rows."""
    if rows <= limit:
        yield inputs, rows
        return
    for start in range(0, rows, limit):
        yield {key: array[start : start + limit] for key, array in inputs.items()}, min(limit, rows - start)


def _alike(requests):
    """Return lists of the indexes of requests whose rows have the same shape."""
    groups = {}
    for index, request in enumerate(requests):
        groups.setdefault(tuple(array.shape[1:] for array in request.values()), []).append(index)
    return groups.values()


def _joined(requests):
    """Return the inputs of several requests under each other."""
    if len(requests) == 1:
        return requests[0]
    return {key: np.concatenate([request[key] for request in requests]) for key in requests[0]}
