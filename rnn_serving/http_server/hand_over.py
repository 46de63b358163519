"""Hand results over from other threads to the greenlets that wait for them."""

from collections import deque

import gevent
from gevent.hub import Waiter


class HandOver:
    """The greenlets of one thread that wait for results of other threads; `waiting` says how many.

    gevent's own pool and events take an event and a semaphore for each result; this takes one event for all that are
    there when the loop looks.
    """

    def __init__(self):
        self.waiting = 0
        self._given, self._loop, self._watcher, self._is_closing = deque(), None, None, False

    def waiter(self):
        """Return a new waiter, whose `get()` returns what `give` gives it; only for the thread of the greenlets."""
        if self._is_closing:
            raise RuntimeError("nothing can wait after close()")
        if self._watcher is None:
            # Not earlier: a watcher belongs to the event loop of the thread that creates it, and a model is created in
            # another thread than it is used in.
            self._loop = gevent.get_hub().loop
            self._watcher = self._loop.async_()
            self._watcher.start(self._deliver)
        self.waiting += 1
        return Waiter()

    def give(self, waiter, result):
        """Wake a waiter; any thread may call this, once for each waiter."""
        self._given.append((waiter, result))
        self._watcher.send()

    def close(self):
        """Free what this takes of the loop, once nothing waits; any thread may call this."""
        if self._loop is not None:
            self._loop.run_callback_threadsafe(self._close)

    def _close(self):
        self._is_closing = True
        self._deliver()

    def _deliver(self):
        for _ in range(len(self._given)):
            waiter, result = self._given.popleft()
            self.waiting -= 1
            waiter.switch(result)
        if self._given:
            self._watcher.send()
        if self._is_closing and not self.waiting:
            self._watcher.close()
