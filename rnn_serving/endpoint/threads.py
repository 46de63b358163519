"""Concurrency for WSGI servers that run each request in a thread."""

from rnn_serving.batching import Batcher


class Threads:
    """How requests wait in threads; `http_worker.greenlets.Greenlets` is the counterpart for greenlets."""

    @staticmethod
    def batcher(run, max_batch_size, timeout_s, max_enqueued_batches, has_predictable_cost):
        """Return a batcher for `run`; every batch runs in the thread of one of its callers."""
        return Batcher(run, max_batch_size, timeout_s, max_enqueued_batches)

    @staticmethod
    def blocking_calls(count):
        """Return an object whose `call(function, *arguments)` blocks its thread.

        `count` has no effect: the WSGI server limits the calls by its threads.
        """
        return _DirectCalls


class _DirectCalls:
    @staticmethod
    def call(function, *arguments):
        return function(*arguments)

    @staticmethod
    def close():
        pass
