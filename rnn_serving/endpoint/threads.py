"""Concurrency for WSGI servers that run each request in a thread."""

from rnn_serving.batching import Batcher


class Threads:
    """How requests wait in threads; `http_worker.greenlets.Greenlets` is the counterpart for greenlets."""

    @staticmethod
    def batcher(run, max_batch_size, timeout_s, max_enqueued_batches, has_predictable_cost):
        """Return a batcher for `run`; every batch runs in the thread of one of its callers."""
        return Batcher(run, max_batch_size, timeout_s, max_enqueued_batches)

    @staticmethod
    def futures():
        """Return an object whose `wait(future)` blocks its thread until the future is done."""
        return _Futures


class _Futures:
    @staticmethod
    def wait(future):
        pass  # its `result()` blocks

    @staticmethod
    def close():
        pass
