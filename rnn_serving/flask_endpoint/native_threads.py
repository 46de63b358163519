"""Run what blocks in threads of the operating system while greenlets go on."""

from gevent.threadpool import ThreadPool


class NativeThreads:
    """At most `count` threads."""

    def __init__(self, count=1):
        self._pool = ThreadPool(count)

    def call(self, function, *arguments):
        """Return what `function(*arguments)` returns; other greenlets run meanwhile. Raises: what it raises."""
        value, error = self._pool.apply(_outcome, (function, arguments))
        if error:
            raise error
        return value

    def close(self):
        """End the threads."""
        self._pool.kill()


def _outcome(function, arguments):
    # Of an exception that leaves its thread, gevent prints a traceback, whoever catches it afterwards.
    try:
        return function(*arguments), None
    except Exception as error:
        return None, error
