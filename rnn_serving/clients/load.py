"""Send the images of a data set to a server from several threads; grade and time the answers. No TensorFlow."""

import threading
import time
from dataclasses import dataclass, field

import numpy as np

from rnn_serving.dataset import NUM_CLASSES

# Before a request is repeated; the wait doubles from one to the next.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 1.0


class RequestError(Exception):
    """A request without a valid answer; the message says what came instead.

    `may_be_repeated` says whether the server, or the one behind it, has gone or refuses for now: to repeat may help.
    """

    def __init__(self, message, may_be_repeated=False):
        super().__init__(message)
        self.may_be_repeated = may_be_repeated


@dataclass
class GradedLoad:
    """What a run of requests measured: seconds of each answered request, correct images, and errors."""

    elapsed_s: float = 0.0
    latencies_s: list = field(default_factory=list)
    correct: int = 0
    errors: list = field(default_factory=list)


def run_load(connect, split, batch_size=1, concurrency=1, retries=0):
    """Send every image of `split` once, `concurrency` requests at a time, and return the `GradedLoad`.

    `connect()` returns a context manager that yields `ask(images) -> scores`, float32 (n, 28, 28) to an array (n, 10),
    which raises RequestError. Each thread has its own, and sends one request before the clock starts. A request that
    may be repeated is repeated up to `retries` times; its latency includes all of them.
    """
    run = _LoadRun(connect, split, batch_size, retries)
    # Daemon threads, so that Ctrl-C does not wait for answers.
    threads = [threading.Thread(target=run.caller_loop, daemon=True) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for _ in threads:
        run.warm.acquire()
    started = time.perf_counter()
    run.go.set()
    for thread in threads:
        thread.join()
    if run.failure:
        raise run.failure
    run.load.elapsed_s = time.perf_counter() - started
    return run.load


class _LoadRun:
    """What the threads of one `run_load` share."""

    def __init__(self, connect, split, batch_size, retries):
        self.connect, self.split, self.batch_size, self.retries = connect, split, batch_size, retries
        self.starts = iter(range(0, len(split), batch_size))
        self.load, self.failure, self.lock = GradedLoad(), None, threading.Lock()
        self.warm, self.go = threading.Semaphore(0), threading.Event()

    def caller_loop(self):
        """Warm up, wait for the start, then send one batch after the other until none is left."""
        try:
            with self.connect() as ask:
                _checked_scores(ask, self.split.images[: self.batch_size], self.retries)
                self.warm.release()
                self.go.wait()
                while (start := self.next_start()) is not None:
                    self.send_batch(ask, start)
        except Exception as error:  # a defect, not an answer: run_load raises it again
            self.failure = error
            self.warm.release()

    def next_start(self):
        """Return where the next batch starts, or None."""
        with self.lock:
            return next(self.starts, None)

    def send_batch(self, ask, start):
        """Send one batch; record the time and the grade of the answer."""
        images = self.split.images[start : start + self.batch_size]
        began = time.perf_counter()
        scores, error = _checked_scores(ask, images, self.retries)
        latency = time.perf_counter() - began
        with self.lock:
            if error:
                self.load.errors.append(f"image {start}: {error}")
            else:
                self.load.latencies_s.append(latency)
                labels = self.split.labels[start : start + len(images)]
                self.load.correct += int((scores.argmax(axis=1) == labels).sum())


def _checked_scores(ask, images, retries):
    """Return (scores, None) or (None, what went wrong)."""
    try:
        scores = np.asarray(_ask_with_retries(ask, images, retries))
    except RequestError as error:
        return None, str(error)
    if scores.shape != (len(images), NUM_CLASSES) or not np.isfinite(scores).all():
        expected = f"{len(images)} rows of {NUM_CLASSES} finite numbers"
        return None, f"answer has shape {scores.shape} or numbers that are not finite; expected {expected}"
    return scores, None


def _ask_with_retries(ask, images, retries):
    """Return what `ask(images)` does; while it fails in a way that may be repeated, wait and ask up to `retries` times.

    Raises: RequestError.
    """
    wait_s = FIRST_WAIT_S
    for _ in range(retries):
        try:
            return ask(images)
        except RequestError as error:
            if not error.may_be_repeated:
                raise
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
    return ask(images)
