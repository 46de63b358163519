"""TensorFlow Serving's batching (batching_session.cc): allowed sizes, padding, splitting and error messages."""

import asyncio
import contextlib
import copy
import math
import os
import threading
import time

import grpc
import numpy as np

from rnn_serving import array_batches, exports
from rnn_serving.batching import Batcher, ExpiredError, QueueFullError
from rnn_serving.model_server import monitoring, text_protos
from rnn_serving.model_server.errors import ServingError, failed_precondition, invalid_argument

PER_MODEL_FILE = "batching_params.pbtxt"


class _BatchedRequest:
    """The inputs of one request; times are `time.monotonic()` timestamps."""

    __slots__ = ("arrived", "deadline", "inputs", "rows")

    def __init__(self, inputs, timeout_s):
        self.inputs, self.rows, self.arrived = inputs, _rows(inputs), time.monotonic()
        self.deadline = None if timeout_s is None else self.arrived + timeout_s

    def split(self, size):
        """Return requests of at most `size` rows, the request itself if it has no more."""
        if self.rows <= size:
            return [self]
        return [self._part(start, start + size) for start in range(0, self.rows, size)]

    def _part(self, start, end):
        part = copy.copy(self)
        part.inputs = {alias: array[start:end] for alias, array in self.inputs.items()}
        part.rows = _rows(part.inputs)
        return part


class BatchingSession:
    """One queue for each combination of inputs and outputs of a version."""

    @classmethod
    def of(cls, options, directory, signatures):
        """Return a session with the options of the server or of a file in `directory`, None without batching.

        `signatures` are the names of the version's signatures.
        Raises: ServingError.
        """
        if options is None or (options.needs_independent_rows and not _has_independent_rows(directory, signatures)):
            return None
        path = os.path.join(directory, PER_MODEL_FILE)
        if options.per_model and os.path.exists(path):
            return cls(options.with_parameters(text_protos.read(path, text_protos.BatchingParameters)))
        return None if options.per_model else cls(options)

    def __init__(self, options):
        self._options, self._batchers, self._lock = options, {}, threading.Lock()

    def run(self, signature, inputs, output_aliases, timeout_s=None):
        """Return {alias: array} of one request's share of a batch, or of the batches that it was split into.

        Raises: ServingError, or what the call raises.
        """
        request = _BatchedRequest(inputs, timeout_s)
        if not self._checked_rows(request):
            return signature(inputs, output_aliases, timeout_s)
        batcher = self._batcher(signature, inputs, output_aliases)
        with self._as_serving_errors():
            parts = request.split(self._options.execution_size)
            return _joined_outputs([batcher.submit(part, part.rows, part.deadline) for part in parts])

    async def run_async(self, signature, inputs, output_aliases, timeout_s=None):
        """Do the same as `run` without blocking the event loop; the parts of a request wait at the same time."""
        request = _BatchedRequest(inputs, timeout_s)
        if not self._checked_rows(request):
            return await asyncio.to_thread(signature, inputs, output_aliases, timeout_s)
        batcher = self._batcher(signature, inputs, output_aliases)
        with self._as_serving_errors():
            parts = request.split(self._options.execution_size)
            if len(parts) == 1:
                return await batcher.submit_async(request, request.rows, request.deadline)
            submitted = (batcher.submit_async(part, part.rows, part.deadline) for part in parts)
            return _joined_outputs(await asyncio.gather(*submitted))

    def _checked_rows(self, request):
        """Check and return the number of rows. Empty requests skip batching, unlike in C++.

        Raises: ServingError if they are too many.
        """
        options = self._options
        if request.rows > options.max_batch_size:
            raise invalid_argument(
                f"Task size {request.rows} is larger than maximum input batch size {options.max_batch_size}"
            )
        capacity = options.max_enqueued_batches * options.execution_size
        if options.execution_size < request.rows > capacity:
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; task size is "
                f"{request.rows} but scheduling capacity is only {capacity} (num_enqueued_batches=1, "
                f"max_enqueued_batches={options.max_enqueued_batches}, open_batch_size=0, "
                f"max_execution_batch_size={options.execution_size})",
            )
        return request.rows

    @contextlib.contextmanager
    def _as_serving_errors(self):
        """Turn the exceptions of the batcher into the C++ server's errors."""
        try:
            yield
        except QueueFullError as error:
            raise ServingError(
                grpc.StatusCode.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{error.batches} batches enqueued and max_enqueued_batches is {self._options.max_enqueued_batches}",
            ) from error
        except ExpiredError as error:
            raise ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue"
            ) from error

    def _batcher(self, signature, inputs, output_aliases):
        aliases = tuple(output_aliases) if output_aliases is not None else tuple(signature.outputs)
        # By type as well, so that one request of a wrong type does not fail the others of its batch.
        types = tuple((alias, array.dtype.str) for alias, array in sorted(inputs.items()))
        feeds = tuple(signature.inputs[alias].name for alias, _ in types)
        key = (feeds, types, tuple(signature.outputs[alias].name for alias in aliases), aliases)
        with self._lock:
            if key not in self._batchers:
                options = self._options
                self._batchers[key] = Batcher(
                    lambda requests: self._run_batch(signature, requests, aliases),
                    options.execution_size,
                    options.timeout_s,
                    options.max_enqueued_batches,
                    options.slots,
                )
            return self._batchers[key]

    def _run_batch(self, signature, requests, aliases):
        """Run one batch; return {alias: array} for each request."""
        began = time.monotonic()
        for request in requests:
            monitoring.QUEUING_LATENCY.observe((began - request.arrived) * 1e6)
        sizes = [request.rows for request in requests]
        total = sum(sizes)
        padded = self._padded_size(total)
        inputs = self._joined_inputs(signature, requests, padded - total)
        outputs = signature(inputs, aliases, _time_left(requests))
        monitoring.BATCHES.add()
        monitoring.PROCESSED_BATCH_SIZE.observe(padded)
        monitoring.PADDING_SIZE.observe(padded - total, str(padded))
        for size in sizes:
            monitoring.INPUT_BATCH_SIZE.observe(size)
        for array in outputs.values():
            if not np.ndim(array):
                raise failed_precondition("Batched output tensor has 0 dimensions")
            if len(array) != padded:
                raise failed_precondition(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors"
                )
        return array_batches.split(outputs, sizes)

    def _padded_size(self, rows):
        return next((size for size in self._options.allowed_batch_sizes if size >= rows), rows)

    def _joined_inputs(self, signature, requests, padding):
        """Return the inputs of all requests as one batch, and `padding` copies of the last one's first row."""
        batches = [request.inputs for request in requests]
        for alias in requests[0].inputs:
            if len({batch[alias].shape[1:] for batch in batches}) > 1:
                name = signature.inputs[alias].name
                if not self._options.pad_variable_length_inputs:
                    raise failed_precondition(
                        f"Tensors with name '{name}' from different tasks have different shapes and padding is turned "
                        "off. Set pad_variable_length_inputs to true, or ensure that all tensors with the same name "
                        "have equal dimensions starting with the first dim."
                    )
                arrays = _padded(name, [batch[alias] for batch in batches])
                batches = [batch | {alias: array} for batch, array in zip(batches, arrays)]
        if padding:
            batches.append({alias: np.repeat(array[:1], padding, axis=0) for alias, array in batches[-1].items()})
        return array_batches.join(batches)


def _joined_outputs(parts):
    """Return {alias: array} of a request from those of its parts.

    Raises: ServingError if the rows of the parts differ in shape.
    """
    try:
        return array_batches.join(parts)
    except ValueError as error:
        raise failed_precondition(f"The outputs of a request that was split cannot be joined: {error}") from error


def _time_left(requests):
    """Return the seconds until all requests of a batch have expired, None if one of them has no deadline."""
    deadlines = [request.deadline for request in requests]
    return None if None in deadlines else max(deadlines) - time.monotonic()


def _rows(inputs):
    """Return the number of rows of a request.

    Raises: ServingError unless all its inputs have the same number.
    """
    sizes = [array.shape[0] if array.ndim else None for array in inputs.values()]
    if None in sizes:
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    if len(set(sizes)) != 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes[0]


def _padded(name, arrays):
    """Return arrays padded to the largest inner dimensions, each with its own first element."""
    if len({array.ndim for array in arrays}) > 1:
        raise invalid_argument(f"Tensors with name '{name}' from different tasks have different ranks")
    shape = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays))]
    padded = []
    for array in arrays:
        filled = np.full((len(array), *shape), array.ravel()[0] if math.prod(array.shape) else 0, array.dtype)
        filled[tuple(slice(size) for size in array.shape)] = array
        padded.append(filled)
    return padded


def _has_independent_rows(directory, signatures):
    """Return whether a version records of each of its signatures that the rows are independent."""
    origin = exports.provenance(directory)
    return all(exports.described_signature(origin, name).get("independent_rows") is True for name in signatures)
