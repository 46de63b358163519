"""How an application waits whose requests are threads, as those of most WSGI servers are."""

from rnn_serving.batching import Batcher


class Threads:
    """The concurrency of such an application; `http_worker.greenlets.Greenlets` is its counterpart."""

    @staticmethod
    def batcher(run, max_batch_size, timeout_s, max_enqueued_batches, has_predictable_cost):
        """Return a batcher for `run`; every batch runs in the thread of one of its callers."""
        return Batcher(run, max_batch_size, timeout_s, max_enqueued_batches)

    @staticmethod
    def blocking_calls(count):
        """Return an object whose `call(function, *arguments)` blocks its thread; the WSGI server limits the calls."""
        return _DirectCalls


class _DirectCalls:
    @staticmethod
    def call(function, *arguments):
        return function(*arguments)

    @staticmethod
    def close():
        pass
