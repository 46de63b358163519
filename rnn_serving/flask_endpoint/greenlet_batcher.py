"""Join what concurrent greenlets ask into one call."""

import time
from collections import deque

import gevent
from gevent.event import Event

from rnn_serving.batching import ExpiredError, QueueFullError
from rnn_serving.flask_endpoint.native_threads import NativeThreads

# Seconds a call may take in the thread of the event loop. Handing it over would cost 0.1 ms; a longer call would keep
# the loop from refusing what the queue has no room for.
IN_LOOP_S = 0.01
# Seconds until a batch no longer waits for the loop to have read everything: under a flood, that never happens.
READ_LIMIT_S = 0.005


class _Task:
    __slots__ = ("is_expired", "item", "leads", "outcome", "size", "wake")

    def __init__(self, item, size):
        self.item, self.size, self.wake = item, size, None
        self.outcome, self.is_expired, self.leads = None, False, False


class GreenletBatcher:
    """Run `run(items) -> results` on what greenlets submit at about the same time.

    One of the waiting greenlets runs the batch for all, as in `rnn_serving.batching.Batcher`. A result that is an
    exception is raised for its own caller only. A batch runs when it is full, or `timeout_s` after its first request
    and once the loop has read what has come meanwhile. It runs in the loop's own thread if its rows are expected to
    take less than `in_loop_s` seconds, by what those before took; 0 for calls that need not resemble those before.
    """

    def __init__(self, run, max_batch_size, timeout_s=0.0, max_enqueued_batches=10, in_loop_s=IN_LOOP_S):
        self._run, self._timeout_s, self._max_enqueued = run, timeout_s, max_enqueued_batches
        self._in_loop_s = in_loop_s
        self.max_batch_size = max_batch_size
        self._batches, self._is_full, self._has_leader = deque(), Event(), False
        # Seconds of one row; a first call, whose time nobody knows, is handed over.
        self._expected_s, self._thread = in_loop_s, NativeThreads()

    def submit(self, item, size=1, limit_s=None):
        """Return the result for one item of `size` rows, at most `max_batch_size`.

        Raises: QueueFullError at once, ExpiredError after `limit_s` seconds, or what `run` raises or returns.
        """
        task, ends = _Task(item, size), None if limit_s is None else time.monotonic() + limit_s
        self._enqueue(task)
        if self._has_leader:
            self._wait(task, ends)
        else:
            self._has_leader = task.leads = True
        if task.leads:
            self._lead(task, ends)
        if isinstance(task.outcome, Exception):
            raise task.outcome
        return task.outcome

    def close(self):
        """End the thread for long calls."""
        self._thread.close()

    def _enqueue(self, task):
        """Put a task into the last batch, or into a new one if it does not fit."""
        if not self._batches or self._rows(self._batches[-1]) + task.size > self.max_batch_size:
            if len(self._batches) >= self._max_enqueued:
                raise QueueFullError(len(self._batches))
            self._batches.append([])
        if len(self._batches) > 1:
            self._is_full.set()  # nothing fits into the first one any more
        self._batches[-1].append(task)
        if self._rows(self._batches[0]) >= self.max_batch_size:
            self._is_full.set()

    @staticmethod
    def _rows(batch):
        return sum(task.size for task in batch)

    @staticmethod
    def _wait(task, ends):
        """Wait until a task is answered or is to lead."""
        task.wake = Event()
        task.wake.wait(None if ends is None else max(0, ends - time.monotonic()))
        # Not what `wait` says: one whose time was up in the same turn of the loop has been told to lead, and must.
        if not task.wake.is_set():
            task.is_expired = True
            raise ExpiredError

    def _lead(self, leader, ends):
        """Run the first batch, which has the leader's own task, and let the next one lead."""
        self._wait_until_ready()
        tasks = [task for task in self._batches.popleft() if not task.is_expired]
        if self._expected_s * self._rows(tasks) < self._in_loop_s:
            self._answer(tasks, lambda run, items: run(items))
        else:
            # By another greenlet, for the leader's time can be up before the call ends.
            gevent.spawn(self._answer, tasks, self._thread.call)
            self._wait(leader, ends)

    def _wait_until_ready(self):
        self._is_full.clear()
        with gevent.Timeout(READ_LIMIT_S, False):
            gevent.idle()
        if self._timeout_s and len(self._batches) == 1 and self._rows(self._batches[0]) < self.max_batch_size:
            self._is_full.wait(self._timeout_s)

    def _pass_on(self):
        """Wake the first waiting task up to lead, if there is one."""
        while self._batches:
            live = [task for task in self._batches[0] if not task.is_expired]
            if live:
                live[0].leads = True
                live[0].wake.set()
                return
            self._batches.popleft()
        self._has_leader = False

    def _answer(self, tasks, call):
        """Run tasks by `call(run, items)`, tell their callers, and let the next batch be led."""
        began = time.perf_counter()
        try:
            outcomes = call(self._run, [task.item for task in tasks])
        except Exception as error:
            outcomes = [error] * len(tasks)
        self._expected_s = (time.perf_counter() - began) / self._rows(tasks)
        for task, outcome in zip(tasks, outcomes, strict=True):
            task.outcome = outcome
            if task.wake:
                task.wake.set()
        self._pass_on()
