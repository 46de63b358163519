"""Batch concurrent requests: queue, leader, expiry and hand-over, for threads, coroutines and greenlets. No TensorFlow.

A batcher has no thread of its own. The first request in the queue leads: it waits until its batch is full or due, runs
the batch for all its members, and hands over to the first request of the next batch. How a request waits and is woken
is a small class for each kind of caller: `ThreadCaller` and `CoroutineCaller` here, and one for greenlets in
`rnn_serving.http_worker.greenlets`.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque


class QueueFullError(Exception):
    """The queue has no room for another request: `batches` are waiting."""

    def __init__(self, batches):
        super().__init__(f"{batches} batches are waiting")
        self.batches = batches


class ExpiredError(Exception):
    """The deadline of a request passed before its batch ran."""


class QueuedRequest:
    """A request in the queue, and its outcome, a result or an exception, once it is done."""

    __slots__ = ("caller", "deadline", "is_done", "item", "leads", "outcome", "size")

    def __init__(self, caller, item, size, deadline):
        self.caller, self.item, self.size, self.deadline = caller, item, size, deadline
        self.leads, self.is_done, self.outcome = False, False, None

    def result(self):
        """Return the result. Raises: the exception, if the outcome is one."""
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class Caller:
    """What waits for the outcome of a request, by `wait` and `wake`; all of one `event_loop` are woken at once."""

    __slots__ = ()
    event_loop = None

    def hand_over(self, request):
        """Let the caller of a request lead."""
        self.wake()

    @staticmethod
    def finish(requests):
        """Tell the callers of several requests that these are done."""
        for request in requests:
            request.caller.wake()


class ThreadCaller(Caller):
    """A thread that waits by a bare lock, which costs a tenth of an Event."""

    __slots__ = ("_lock",)
    has_given_up = False

    def __init__(self):
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, limit_s=None):
        """Return when woken, at the latest after `limit_s` seconds."""
        self._lock.acquire(timeout=-1 if limit_s is None else limit_s)

    def wake(self):
        """End the present `wait`, or else the next one."""
        with contextlib.suppress(RuntimeError):  # woken twice
            self._lock.release()


class CoroutineCaller(ThreadCaller):
    """A coroutine that waits for a future; a thread of its event loop's executor leads for it."""

    __slots__ = ("_lead", "event_loop", "future")

    def __init__(self, lead):
        super().__init__()
        self._lead, self.event_loop = lead, asyncio.get_running_loop()
        self.future = self.event_loop.create_future()

    @property
    def has_given_up(self):
        """Whether no one waits for the answer any longer."""
        return self.future.cancelled()

    def lead_soon(self, request):
        """Lead in a thread, after the callbacks that are ready: their requests may join the batch."""
        self.event_loop.call_soon(self.event_loop.run_in_executor, None, self._lead, request)

    def hand_over(self, request):
        """Let the caller of a request lead; called by the thread that led before."""
        self.event_loop.call_soon_threadsafe(self.event_loop.run_in_executor, None, self._lead, request)

    @staticmethod
    def finish(requests):
        """Resolve the futures of several requests, which share an event loop, and wake that once."""
        requests[0].caller.event_loop.call_soon_threadsafe(_resolve, requests)


def _resolve(requests):
    for request in requests:
        future = request.caller.future
        if future.done():
            continue  # cancelled
        if isinstance(request.outcome, Exception):
            future.set_exception(request.outcome)
        else:
            future.set_result(request.outcome)


class Slots:
    """How many batches may run at a time; several batchers can share them."""

    def __init__(self, count):
        self._free, self._lock, self._waiting = count, threading.Lock(), []

    def take(self):
        """Take a slot if one is free; return whether one was."""
        with self._lock:
            is_free = self._free > 0
            self._free -= is_free
        return is_free

    def give_back(self):
        """Return a slot; `call_waiting` follows once the callers of the batch have their answers."""
        with self._lock:
            self._free += 1

    def when_free(self, action):
        """Call `action` once a slot is free: now, or when a batch of any batcher has ended."""
        with self._lock:
            if not self._free:
                self._waiting.append(action)
                return
        action()

    def call_waiting(self):
        """Call the actions that wait for a slot: all of them, since some may no longer need it."""
        with self._lock:
            actions, self._waiting = self._waiting, []
        for action in actions:
            action()


class _Batch:
    """Requests that will run together."""

    __slots__ = ("opened", "requests", "size")

    def __init__(self):
        self.requests, self.size, self.opened = [], 0, time.monotonic()


class Batcher:
    """Run `run(items) -> outcomes` on the items that concurrent callers submit.

    An outcome that is an exception is raised for its own caller only. A batch runs when it is full, or `timeout_s`
    after its first request, and a slot is free. Threads and coroutines may share a batcher.
    """

    def __init__(self, run, max_batch_size, timeout_s=0.0, max_enqueued_batches=10, slots=None):
        self._run, self._timeout_s, self._max_enqueued = run, timeout_s, max_enqueued_batches
        self.max_batch_size = max_batch_size
        self._slots = slots or Slots(1)
        self._lock = threading.Lock()
        self._batches, self._has_leader, self._waiting_leader = deque(), False, None

    def submit(self, item, size=1, deadline=None):
        """Return the result for one item of `size` rows, at most `max_batch_size`; the thread waits.

        `deadline` is a `time.monotonic()` timestamp.
        Raises: QueueFullError at once, ExpiredError, or what `run` raises.
        """
        request = QueuedRequest(ThreadCaller(), item, size, deadline)
        self._enqueue(request)
        while not (request.leads or request.is_done):
            request.caller.wait()
        if request.leads:
            self._lead(request)
        return request.result()

    async def submit_async(self, item, size=1, deadline=None):
        """Do the same as `submit` without blocking the event loop."""
        request = QueuedRequest(CoroutineCaller(self._lead), item, size, deadline)
        if self._enqueue(request):
            request.caller.lead_soon(request)
        return await request.caller.future

    def close(self):
        """Free what the batcher holds, which is nothing here."""

    def _enqueue(self, request):
        """Put a request into the last batch, or into a new one if it does not fit; return whether it has to lead."""
        with self._lock:
            if not self._batches or self._batches[-1].size + request.size > self.max_batch_size:
                if len(self._batches) >= self._max_enqueued:
                    raise QueueFullError(len(self._batches))
                self._batches.append(_Batch())
            batch = self._batches[-1]
            batch.requests.append(request)
            batch.size += request.size
            if self._waiting_leader and self._is_first_full():
                self._waiting_leader.caller.wake()
            if self._has_leader:
                return False
            self._has_leader = request.leads = True
            return True

    def _is_first_full(self):
        return len(self._batches) > 1 or self._batches[0].size >= self.max_batch_size

    def _lead(self, leader):
        """Run the first batch, which has the leader's own request, once it is ready."""
        self._wait_until_ready(leader)
        self._run_first(leader)

    def _wait_until_ready(self, leader):
        """Wait until the first batch is full or due."""
        while True:
            with self._lock:
                self._waiting_leader = leader
                remaining_s = self._batches[0].opened + self._timeout_s - time.monotonic()
                if remaining_s <= 0 or self._is_first_full():
                    return
            leader.caller.wait(remaining_s)

    def _run_first(self, leader):
        """Run the first batch and tell its callers; let the next batch be led as soon as a slot is free."""
        while not self._slots.take():  # until there is one, the batch continues to fill
            self._slots.when_free(leader.caller.wake)
            leader.caller.wait()
        with self._lock:
            requests, self._waiting_leader = self._batches.popleft().requests, None
        self._slots.when_free(self._pass_on)
        try:
            self._answer(requests)
        finally:
            self._slots.give_back()
        _finish(requests)
        self._slots.call_waiting()

    def _pass_on(self):
        """Let the first request that still waits lead, if there is one."""
        with self._lock:
            leader = self._next_leader()
            self._has_leader = leader is not None
        if leader:
            leader.caller.hand_over(leader)

    def _next_leader(self):
        while self._batches:
            for request in self._batches[0].requests:
                if not request.caller.has_given_up:
                    request.leads = True
                    return request
            self._batches.popleft()
        return None

    def _answer(self, requests):
        """Run the requests whose callers still wait and whose deadline has not passed; set the outcome of each."""
        now, live = time.monotonic(), []
        for request in requests:
            if request.deadline is not None and now > request.deadline:
                request.outcome = ExpiredError()
            elif not request.caller.has_given_up:
                live.append(request)
        try:
            outcomes = self._call_run(live) if live else []
            for request, outcome in zip(live, outcomes, strict=True):
                request.outcome = outcome
        except Exception as error:
            for request in live:
                request.outcome = error
        for request in requests:
            request.is_done = True

    def _call_run(self, requests):
        return self._run([request.item for request in requests])


def _finish(requests):
    """Wake the callers of a batch, each event loop once for all of its coroutines."""
    by_loop = {}
    for request in requests:
        by_loop.setdefault(request.caller.event_loop, []).append(request)
    for group in by_loop.values():
        group[0].caller.finish(group)
