"""How greenlets wait: for their batch, in the loop or beside it, and for calls of gRPC."""

import time

import gevent
from gevent.event import Event

from rnn_serving.batching import Batcher, Caller, ExpiredError, QueuedRequest
from rnn_serving.http_server.hand_over import HandOver
from rnn_serving.http_server.native_threads import NativeThreads

# Seconds a model call may take in the thread of the event loop. A hand-over to another thread would cost 0.1 ms; a
# longer call would keep the loop from refusing requests that the queue has no room for.
IN_LOOP_S = 0.01
# Seconds after which a batch no longer waits until the loop has read everything: under a flood, that never happens.
READ_LIMIT_S = 0.005


class Greenlets:
    """The concurrency of an application whose requests are greenlets; `endpoint.threads.Threads` is its counterpart."""

    @staticmethod
    def batcher(run, max_batch_size, timeout_s, max_enqueued_batches, has_predictable_cost):
        """Return a batcher for `run`; calls of an unpredictable cost never run in the loop's thread."""
        in_loop_s = IN_LOOP_S if has_predictable_cost else 0
        return GreenletBatcher(run, max_batch_size, timeout_s, max_enqueued_batches, in_loop_s)

    @staticmethod
    def futures():
        """Return an object whose `wait(future)` holds up its greenlet until another thread completes the future."""
        return GreenletFutures()


class GreenletFutures:
    """Futures that greenlets of one thread wait for, such as those of gRPC's calls."""

    def __init__(self):
        self._hand_over = HandOver()

    def wait(self, future):
        """Return when a future is done; other greenlets run until then."""
        waiter = self._hand_over.waiter()
        future.add_done_callback(lambda future: self._hand_over.give(waiter, None))
        waiter.get()

    def close(self):
        """Free what this takes of the loop, once nothing waits; any thread may call this."""
        self._hand_over.close()


class GreenletCaller(Caller):
    """A greenlet that waits for an event; all of them share one thread."""

    __slots__ = ("_event", "has_given_up")

    def __init__(self):
        self._event, self.has_given_up = None, False

    def wait(self, limit_s=None):
        """Return when woken, at the latest after `limit_s` seconds."""
        if self._event is None:
            self._event = Event()
        self._event.wait(limit_s)
        self._event.clear()

    def wake(self):
        """End the present `wait`, if there is one."""
        if self._event is not None:
            self._event.set()


class GreenletBatcher(Batcher):
    """Batch the requests of greenlets.

    A batch also waits until the loop has read what has arrived. It runs in the loop's own thread if its rows are
    expected to take less than `in_loop_s` seconds, judged by the batch before.
    """

    def __init__(self, run, max_batch_size, timeout_s=0.0, max_enqueued_batches=10, in_loop_s=IN_LOOP_S):
        super().__init__(run, max_batch_size, timeout_s, max_enqueued_batches)
        # Seconds of one row; a first call, whose time is unknown, does not run in the loop.
        self._in_loop_s, self._row_s, self._thread = in_loop_s, in_loop_s, NativeThreads()

    def submit(self, item, size=1, deadline=None):
        """Return the result for one item of `size` rows, at most `max_batch_size`; the greenlet waits.

        Raises: QueueFullError at once, ExpiredError at the `deadline`, or what `run` raises.
        """
        request = QueuedRequest(GreenletCaller(), item, size, deadline)
        if not self._enqueue(request):
            _wait(request, lambda: request.leads or request.is_done)
        if request.leads:
            self._lead(request)
        return request.result()

    def close(self):
        """End the thread for long calls."""
        self._thread.close()

    def _lead(self, leader):
        """Run the first batch once it is ready; a leader whose deadline passes before a long call ends gives up."""
        with gevent.Timeout(READ_LIMIT_S, False):
            gevent.idle()
        self._wait_until_ready(leader)
        if self._is_quick(self._batches[0].size):
            self._run_first(leader)
        else:
            gevent.spawn(self._run_first, leader)
            _wait(leader, lambda: leader.is_done)

    def _is_quick(self, rows):
        return self._row_s * rows < self._in_loop_s

    def _call_run(self, requests):
        rows = sum(request.size for request in requests)
        began = time.perf_counter()
        try:
            if self._is_quick(rows):
                return super()._call_run(requests)
            return self._thread.call(super()._call_run, requests)
        finally:
            self._row_s = (time.perf_counter() - began) / rows


def _wait(request, is_over):
    """Return once `is_over()`; raise ExpiredError, and give up, if the deadline passes before."""
    while not is_over():
        remaining_s = None if request.deadline is None else request.deadline - time.monotonic()
        if remaining_s is not None and remaining_s <= 0:
            request.caller.has_given_up = True
            raise ExpiredError
        request.caller.wait(remaining_s)
