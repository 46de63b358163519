"""Send requests to a server as fast as it answers, or at a given rate, from a process of its own.

No TensorFlow: the process sends and keeps bytes only; whoever asked for the load checks them afterwards.
"""

import contextlib
import multiprocessing

from benchmarks.load_process import Job, run_jobs
from benchmarks.protocols import TIMEOUT_S

# Seconds that the process may take to start.
START_LIMIT_S = 60.0


class LoadGenerator:
    """The process, in a `with`; it sends to one target (see `load_connections`) at a time."""

    def __enter__(self):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=run_jobs, args=(theirs,), daemon=True)
        self._process.start()
        self._receive(START_LIMIT_S)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def run(
        self,
        target,
        concurrency,
        duration_s,
        rate=None,
        warm_up_s=0.0,
        timeout_s=TIMEOUT_S,
        first=0,
        arrivals="poisson",
    ):
        """Send requests for `duration_s` seconds, after `warm_up_s` that do not count; return the `RawLoad`.

        Both use the same connections, which are open when it counts.

        Closed loop: `concurrency` callers, each of which sends again as soon as it has its answer. With a `rate`, open
        loop: that many requests per second arrive at random times (Poisson), or as `arrivals`, one of `ARRIVALS`, says,
        and latency counts from when each was due. An answer that takes longer than `timeout_s` is an error. Requests go
        out in order, beginning at index `first`.
        """
        self._pipe.send(Job(target, concurrency, duration_s, rate, warm_up_s, timeout_s, first, arrivals))
        limit_s = 2 * max(timeout_s, TIMEOUT_S)
        self._receive(warm_up_s + limit_s)
        return self._receive(duration_s + limit_s)

    @contextlib.contextmanager
    def asking(self, target, concurrency):
        """Send requests while the body runs; the value is a list, with the `RawLoad` at its end."""
        self._pipe.send(Job(target, concurrency))
        self._receive(TIMEOUT_S)
        loads = []
        try:
            yield loads
        finally:
            self._pipe.send("stop")
            loads.append(self._receive(2 * TIMEOUT_S))

    def _receive(self, limit_s):
        if not self._pipe.poll(limit_s):
            raise TimeoutError(f"the load generator is silent for {limit_s} s")
        return self._pipe.recv()
