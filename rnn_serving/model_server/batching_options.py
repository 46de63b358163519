"""Validate BatchingParameters, with the error messages of shared_batch_scheduler.h and batching_session.cc."""

import itertools
import os
from dataclasses import dataclass

from rnn_serving.batching import Slots
from rnn_serving.model_server.errors import invalid_argument


@dataclass(frozen=True)
class BatchingOptions:
    """The options of --enable_batching and its file; `slots` are the threads that all models of a server share.

    A request may have `max_batch_size` rows; those with more than `execution_size` run in several batches. With
    `needs_independent_rows`, a version is batched only if it records that the rows of all its signatures are
    independent.
    """

    slots: Slots
    per_model: bool
    max_batch_size: int
    execution_size: int
    timeout_s: float
    max_enqueued_batches: int
    allowed_batch_sizes: tuple
    pad_variable_length_inputs: bool
    needs_independent_rows: bool = False

    @classmethod
    def of(cls, parameters, per_model=False, needs_independent_rows=False):
        """Return the options of a BatchingParameters message.

        Raises: ServingError INVALID_ARGUMENT.
        """
        threads = _positive(parameters, "num_batch_threads", os.cpu_count() or 1)
        return cls._on(Slots(threads), per_model, parameters, needs_independent_rows)

    def with_parameters(self, parameters):
        """Return the options of a version's own BatchingParameters, on the same threads.

        Raises: ServingError INVALID_ARGUMENT.
        """
        return self._on(self.slots, self.per_model, parameters, self.needs_independent_rows)

    @classmethod
    def _on(cls, slots, per_model, parameters, needs_independent_rows):
        timeout_micros = parameters.batch_timeout_micros.value
        if timeout_micros < 0:
            raise invalid_argument(f"batch_timeout_micros must be non-negative; was {timeout_micros}")
        # shared_batch_scheduler.h has another name for this field.
        max_size = _positive(parameters, "max_batch_size", 1000, "max_batch_size: input_batch_size_limit")
        splits = parameters.enable_large_batch_splitting.value
        execution_size = _positive(parameters, "max_execution_batch_size", max_size) if splits else max_size
        if execution_size > max_size:
            raise invalid_argument(
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
                f"max_execution_batch_size. max_batch_size was {max_size}; max_execution_batch_size was "
                f"{execution_size}"
            )
        allowed = tuple(parameters.allowed_batch_sizes)
        rule = "be equal to max_execution_batch_size" if splits else "match max_batch_size"
        _check_allowed_sizes(allowed, execution_size, rule)
        return cls(
            slots,
            per_model,
            max_size,
            execution_size,
            timeout_micros / 1e6,
            _positive(parameters, "max_enqueued_batches", 10),
            allowed,
            parameters.pad_variable_length_inputs,
            needs_independent_rows,
        )


def _positive(parameters, name, default, shown=None):
    """Return the value of a wrapper field, or the default. Raises: ServingError unless it is positive."""
    value = getattr(parameters, name).value if parameters.HasField(name) else default
    if value < 1:
        raise invalid_argument(f"{shown or name} must be positive; was {value}")
    return value


def _check_allowed_sizes(sizes, largest, rule):
    if any(low >= high for low, high in itertools.pairwise(sizes)):
        raise invalid_argument("allowed_batch_sizes entries must be monotonically increasing")
    if sizes and sizes[0] < 1:
        raise invalid_argument(f"allowed_batch_sizes entries must be positive; was {sizes[0]}")
    if sizes and sizes[-1] != largest:
        raise invalid_argument(
            f"Last entry in allowed_batch_sizes must {rule}; last entry was {sizes[-1]}; expected {largest}"
        )
