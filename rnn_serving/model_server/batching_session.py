"""TensorFlow Serving's batching (batching_session.cc): allowed sizes, padding, and its words."""

import asyncio
import contextlib
import itertools
import math
import os
import threading
import time
from dataclasses import dataclass

import grpc
import numpy as np

from rnn_serving.batching import Batcher, ExpiredError, QueueFullError, Slots
from rnn_serving.model_server import monitoring, text_protos
from rnn_serving.model_server.errors import ServingError, failed_precondition, invalid_argument

PER_MODEL_FILE = "batching_params.pbtxt"


@dataclass(frozen=True)
class BatchingOptions:
    """What --enable_batching and its file say; `slots` are the threads that all models of a server share."""

    slots: Slots
    per_model: bool = False
    max_batch_size: int = 1000
    timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    allowed_batch_sizes: tuple = ()
    pad_variable_length_inputs: bool = False

    @classmethod
    def of(cls, parameters, per_model=False):
        """Return the options that a BatchingParameters message stands for."""
        threads = (
            parameters.num_batch_threads.value if parameters.HasField("num_batch_threads") else os.cpu_count() or 1
        )
        return cls(Slots(threads), per_model).with_parameters(parameters)

    def with_parameters(self, parameters):
        """Return what a version's own BatchingParameters ask for, defaults included, on the same threads."""
        fields = {
            "max_batch_size": parameters.max_batch_size,
            "max_enqueued_batches": parameters.max_enqueued_batches,
        }
        given = {name: field.value for name, field in fields.items() if parameters.HasField(name)}
        return BatchingOptions(
            self.slots,
            self.per_model,
            timeout_s=parameters.batch_timeout_micros.value / 1e6,
            allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
            pad_variable_length_inputs=parameters.pad_variable_length_inputs,
            **given,
        )


class _Request:
    """The inputs of one request; times are of `time.monotonic()`."""

    __slots__ = ("came", "deadline", "inputs", "rows")

    def __init__(self, inputs, timeout_s):
        self.inputs, self.rows, self.came = inputs, _rows(inputs), time.monotonic()
        self.deadline = None if timeout_s is None else self.came + timeout_s


class BatchingSession:
    """One queue for each set of inputs and outputs of a version."""

    @classmethod
    def of(cls, options, directory):
        """Return a session with the options of the server, or of a file in the version's directory; None without.

        Raises: ServingError.
        """
        if options is None:
            return None
        path = os.path.join(directory, PER_MODEL_FILE)
        if options.per_model and os.path.exists(path):
            options = options.with_parameters(text_protos.read(path, text_protos.BatchingParameters))
        elif options.per_model:
            return None
        sizes = options.allowed_batch_sizes
        if sizes and sizes[-1] != options.max_batch_size:
            raise invalid_argument(
                f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
                f"expected {options.max_batch_size}"
            )
        if any(low >= high for low, high in itertools.pairwise(sizes)):
            raise invalid_argument("allowed_batch_sizes entries must be monotonically increasing")
        return cls(options)

    def __init__(self, options):
        self._options, self._batchers, self._lock = options, {}, threading.Lock()

    def run(self, signature, inputs, output_aliases, timeout_s=None):
        """Return {alias: array} of one request's share of a joined call.

        Raises: ServingError, or what the call raises.
        """
        request = _Request(inputs, timeout_s)
        if not self._checked_rows(request):
            return signature(inputs, output_aliases, timeout_s)
        with self._own_words():
            return self._batcher(signature, inputs, output_aliases).submit(request, request.rows, request.deadline)

    async def run_async(self, signature, inputs, output_aliases, timeout_s=None):
        """Do as `run` does without holding up the event loop."""
        request = _Request(inputs, timeout_s)
        if not self._checked_rows(request):
            return await asyncio.to_thread(signature, inputs, output_aliases, timeout_s)
        batcher = self._batcher(signature, inputs, output_aliases)
        with self._own_words():
            return await batcher.submit_async(request, request.rows, request.deadline)

    def _checked_rows(self, request):
        """Return the number of rows; with none there is nothing to wait for, where C++ would wait for another request.

        Raises: ServingError if they are too many.
        """
        limit = self._options.max_batch_size
        if request.rows > limit:
            raise invalid_argument(f"Task size {request.rows} is larger than maximum input batch size {limit}")
        return request.rows

    @contextlib.contextmanager
    def _own_words(self):
        """Turn what the batcher raises into the C++ server's errors."""
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
                    options.max_batch_size,
                    options.timeout_s,
                    options.max_enqueued_batches,
                    options.slots,
                )
            return self._batchers[key]

    def _run_batch(self, signature, requests, aliases):
        """Run one joined call; return {alias: array} for each request."""
        began = time.monotonic()
        for request in requests:
            monitoring.QUEUING_LATENCY.observe((began - request.came) * 1e6)
        sizes = [request.rows for request in requests]
        total = sum(sizes)
        padded = self._padded_size(total)
        joined = {alias: self._join(signature, alias, requests, padded - total) for alias in requests[0].inputs}
        outputs = signature(joined, aliases, _time_left(requests))
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
        ends = np.cumsum(sizes)
        return [{alias: array[end - size : end] for alias, array in outputs.items()} for size, end in zip(sizes, ends)]

    def _padded_size(self, rows):
        return next((size for size in self._options.allowed_batch_sizes if size >= rows), rows)

    def _join(self, signature, alias, requests, padding):
        """Return one input of all requests under each other, and `padding` copies of the last one's first row."""
        arrays = [request.inputs[alias] for request in requests]
        if len({array.shape[1:] for array in arrays}) > 1:
            if not self._options.pad_variable_length_inputs:
                raise failed_precondition(
                    f"Tensors with name '{signature.inputs[alias].name}' from different tasks have different shapes "
                    "and padding is turned off. Set pad_variable_length_inputs to true, or ensure that all tensors "
                    "with the same name have equal dimensions starting with the first dim."
                )
            arrays = _padded(signature.inputs[alias].name, arrays)
        if padding:
            arrays = [*arrays, np.repeat(arrays[-1][:1], padding, axis=0)]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _time_left(requests):
    """Return the seconds until nobody waits for a batch any more, None if one of its requests has no deadline."""
    deadlines = [request.deadline for request in requests]
    return None if None in deadlines else max(deadlines) - time.monotonic()


def _rows(inputs):
    """Return the number of rows of a request.

    Raises: ServingError unless all its inputs have as many.
    """
    sizes = [array.shape[0] if array.ndim else None for array in inputs.values()]
    if None in sizes:
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    if len(set(sizes)) != 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes[0]


def _padded(name, arrays):
    """Return arrays whose inner dimensions are those of the largest, filled with each one's own first element."""
    if len({array.ndim for array in arrays}) > 1:
        raise invalid_argument(f"Tensors with name '{name}' from different tasks have different ranks")
    shape = [max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays))]
    padded = []
    for array in arrays:
        filled = np.full((len(array), *shape), array.ravel()[0] if math.prod(array.shape) else 0, array.dtype)
        filled[tuple(slice(size) for size in array.shape)] = array
        padded.append(filled)
    return padded
