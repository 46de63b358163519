"""Calls in threads of the operating system, for greenlets."""

import queue
import threading
from collections import deque

import gevent
from gevent.hub import Waiter


class NativeThreads:
    """At most `count` threads, started when they are needed, for the greenlets of one thread.

    gevent's own pool takes an event and a semaphore for each call; this one has a third more calls a second.
    """

    def __init__(self, count=1):
        self._count, self._started, self._in_progress, self._is_closing = count, 0, 0, False
        self._calls, self._done, self._loop, self._watcher = queue.SimpleQueue(), deque(), None, None

    def call(self, function, *arguments):
        """Return the result of `function(*arguments)`; other greenlets run until then. Raises: what it raises."""
        if self._watcher is None:
            # Not earlier: a watcher belongs to the event loop of the thread that creates it, and a model is created in
            # another thread than it is used in.
            self._loop = gevent.get_hub().loop
            self._watcher = self._loop.async_()
            self._watcher.start(self._deliver)
        self._in_progress += 1
        if self._started < min(self._in_progress, self._count):
            self._started += 1
            threading.Thread(target=self._run, name="call", daemon=True).start()
        waiter = Waiter()
        self._calls.put((function, arguments, waiter))
        value, error = waiter.get()
        if error:
            raise error
        return value

    def close(self):
        """End the threads once the calls in progress are done; any thread may call this."""
        if self._loop is not None:
            self._loop.run_callback_threadsafe(self._close)

    def _close(self):
        self._is_closing = True
        for _ in range(self._started):
            self._calls.put(None)
        self._deliver()

    def _run(self):
        """Run calls until None arrives instead of one."""
        while call := self._calls.get():
            function, arguments, waiter = call
            try:
                outcome = function(*arguments), None
            except BaseException as error:
                outcome = None, error
            self._done.append((waiter, outcome))
            self._watcher.send()
            del call, function, arguments, waiter, outcome  # nothing is kept in memory while the thread waits

    def _deliver(self):
        """In the event loop: wake the greenlets whose calls are done."""
        while self._done:
            waiter, outcome = self._done.popleft()
            self._in_progress -= 1
            waiter.switch(outcome)
        if self._is_closing and not self._in_progress:
            self._watcher.close()
