"""Join what concurrent callers, threads or coroutines, ask into one call. No TensorFlow."""

import asyncio
import threading
import time
from collections import deque


class QueueFullError(Exception):
    """There is no room for another request: `batches` are waiting already."""

    def __init__(self, batches):
        super().__init__(f"{batches} batches are waiting")
        self.batches = batches


class ExpiredError(Exception):
    """A request's time was up before its batch ran."""


class Slots:
    """How many batches may run at a time; several batchers can share them."""

    def __init__(self, count):
        self._free, self._lock, self._waiting = threading.Semaphore(count), threading.Lock(), []

    def __enter__(self):
        self._free.acquire()

    def __exit__(self, *_):
        self._free.release()

    def when_free(self, action):
        """Call `action` once one more batch could run: now, or when the next one is done, whoever's it is."""
        with self._lock:
            self._waiting.append(action)
        if self._free.acquire(blocking=False):
            self._free.release()
            self.call_waiting()

    def call_waiting(self):
        """Call what waits for a free slot; to be called when a batch is done and its callers have their answers."""
        # All of it: an action may have no use for the slot, and the others must not miss it then.
        with self._lock:
            actions, self._waiting = self._waiting, []
        for action in actions:
            action()


class _Task:
    """What one caller asked, and its answer; `future` is that of a coroutine, None if a thread waits."""

    __slots__ = ("deadline", "error", "future", "item", "leads", "result", "size", "wake")

    def __init__(self, item, size, deadline, future=None):
        self.item, self.size, self.deadline, self.future = item, size, deadline, future
        self.result = self.error = None
        # A bare lock, held until there is something to wake up for: a tenth of what an Event costs.
        self.leads, self.wake = False, threading.Lock()
        self.wake.acquire()

    def is_cancelled(self):
        """Return whether nobody waits for the answer any more."""
        return self.future is not None and self.future.cancelled()

    def resolve(self):
        """Give a coroutine its answer, unless it has been cancelled meanwhile; to be called in its loop."""
        if self.future.done():
            return
        if self.error:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result[0])


class _Batch:
    """Tasks that will run together."""

    __slots__ = ("opened", "size", "tasks")

    def __init__(self):
        self.tasks, self.size, self.opened = [], 0, time.monotonic()


class Batcher:
    """Run `run(items) -> results` on what callers of `submit` and `submit_async` bring at about the same time.

    No thread of its own: one of the waiting callers runs the batch for all, so that a thread's lone request is never
    handed to another one; a coroutine's batch runs in its loop's executor. A batch runs when it is full, or `timeout_s`
    after its first request, and a slot is free.
    """

    def __init__(self, run, max_batch_size, timeout_s=0.0, max_enqueued_batches=10, slots=None):
        self._run, self._timeout_s, self._max_enqueued = run, timeout_s, max_enqueued_batches
        self.max_batch_size = max_batch_size
        self._slots = slots or Slots(1)
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._batches, self._has_leader = deque(), False

    def submit(self, item, size=1, deadline=None):
        """Return the result for one item of `size` rows, at most `max_batch_size`.

        `deadline` is a time of `time.monotonic()`. Raises: QueueFullError at once, ExpiredError, or what `run` raises.
        """
        task = _Task(item, size, deadline)
        self._enter(task)
        if not task.leads:
            task.wake.acquire()
        if task.leads:
            self._lead(task)
        if task.error:
            raise task.error
        return task.result[0]

    async def submit_async(self, item, size=1, deadline=None):
        """Do as `submit` does without holding up the event loop."""
        loop = asyncio.get_running_loop()
        task = _Task(item, size, deadline, loop.create_future())
        self._enter(task)
        if task.leads:
            # After what is in the loop already, which may join the batch.
            loop.call_soon(loop.run_in_executor, None, self._lead, task)
        return await task.future

    def _enter(self, task):
        """Put a task into the queue; it leads if nobody does."""
        with self._lock:
            self._enqueue(task)
            if not self._has_leader:
                self._has_leader = task.leads = True

    def _enqueue(self, task):
        """Put a task into the last batch, or into a new one if it does not fit."""
        if not self._batches or self._batches[-1].size + task.size > self.max_batch_size:
            if len(self._batches) >= self._max_enqueued:
                raise QueueFullError(len(self._batches))
            self._batches.append(_Batch())
            self._filled.notify()
        batch = self._batches[-1]
        batch.tasks.append(task)
        batch.size += task.size
        if batch.size >= self.max_batch_size:
            self._filled.notify()

    def _lead(self, leader):
        """Take the first batch, which has the leader's own task, once it is ready, and run it."""
        with self._lock:
            self._wait_until_ready()
        # The slot first: while there is none, the batch goes on filling.
        with self._slots:
            with self._lock:
                batch = self._batches.popleft()
            # With no slot for it, the next batch goes on filling until there is one.
            self._slots.when_free(self._pass_on)
            self._answer(batch)
        _wake([task for task in batch.tasks if task.future or task is not leader])
        self._slots.call_waiting()

    def _pass_on(self):
        """Let the first of the waiting tasks lead, if there are any."""
        with self._lock:
            self._has_leader = bool(self._batches)
            if not self._has_leader:
                return
            task = self._batches[0].tasks[0]
        task.leads = True
        if task.future:
            loop = task.future.get_loop()
            loop.call_soon_threadsafe(loop.run_in_executor, None, self._lead, task)
        else:
            task.wake.release()

    def _wait_until_ready(self):
        while True:
            batch = self._batches[0]
            if len(self._batches) > 1 or batch.size >= self.max_batch_size:
                return
            remaining = batch.opened + self._timeout_s - time.monotonic()
            if remaining <= 0:
                return
            self._filled.wait(remaining)

    def _answer(self, batch):
        """Run the tasks whose callers still wait and whose time is not up, and note each one's result or error."""
        now = time.monotonic()
        live = []
        for task in batch.tasks:
            if task.deadline is not None and now > task.deadline:
                task.error = ExpiredError()
            elif not task.is_cancelled():
                live.append(task)
        try:
            results = self._run([task.item for task in live]) if live else []
            for task, result in zip(live, results, strict=True):
                task.result = (result,)
        except Exception as error:
            for task in live:
                task.error = error


def _wake(tasks):
    """Tell each waiting thread that its answer is there, and each event loop once for all of its coroutines."""
    loops = {}
    for task in tasks:
        if task.future:
            loops.setdefault(task.future.get_loop(), []).append(task)
        else:
            task.wake.release()
    for loop, waiting in loops.items():
        loop.call_soon_threadsafe(_resolve, waiting)


def _resolve(tasks):
    for task in tasks:
        task.resolve()
