"""Calls in threads of the operating system, for greenlets."""

import queue
import threading

from rnn_serving.http_server.hand_over import HandOver


class NativeThreads:
    """At most `count` threads, started when they are needed, for the greenlets of one thread."""

    def __init__(self, count=1):
        self._count, self._started = count, 0
        self._calls, self._results = queue.SimpleQueue(), HandOver()

    def call(self, function, *arguments):
        """Return the result of `function(*arguments)`; other greenlets run until then. Raises: what it raises."""
        waiter = self._results.waiter()
        if self._started < min(self._results.waiting, self._count):
            self._started += 1
            threading.Thread(target=self._run, name="call", daemon=True).start()
        self._calls.put((function, arguments, waiter))
        value, error = waiter.get()
        if error:
            raise error
        return value

    def close(self):
        """End the threads once the calls in progress are done; any thread may call this, and then no call follows."""
        for _ in range(self._started):
            self._calls.put(None)
        self._results.close()

    def _run(self):
        """Run calls until None arrives instead of one."""
        while call := self._calls.get():
            function, arguments, waiter = call
            try:
                outcome = function(*arguments), None
            except BaseException as error:
                outcome = None, error
            self._results.give(waiter, outcome)
            del call, function, arguments, waiter, outcome  # nothing is kept in memory while the thread waits
