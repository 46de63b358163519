"""Run what blocks in threads of the operating system while greenlets go on."""

import gevent
from gevent.threadpool import ThreadPool


class NativeThreads:
    """At most `count` threads, started by the first `call`; all calls come from one thread's greenlets."""

    def __init__(self, count=1):
        self._count, self._pool = count, None

    def call(self, function, *arguments):
        """Return what `function(*arguments)` returns; other greenlets run meanwhile. Raises: what it raises."""
        if self._pool is None:
            # Not before: a pool belongs to the event loop of the thread that makes it, and a model is made in another
            # one than it is used in. For a call from any other thread a pool would block instead.
            self._pool = ThreadPool(self._count)
        value, error = self._pool.apply(_outcome, (function, arguments))
        if error:
            raise error
        return value

    def close(self):
        """End the threads as soon as they are idle; any thread may say so."""
        if self._pool is not None:
            self._pool.hub.loop.run_callback_threadsafe(gevent.spawn, self._pool.kill)


def _outcome(function, arguments):
    # Of an exception that leaves its thread, gevent prints a traceback, whoever catches it afterwards.
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error
