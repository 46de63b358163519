"""The process of the load generator: it sends the requests of one `Job` after the other, and keeps the answers."""

import asyncio
import contextlib
import itertools
import random
import selectors
import time
from dataclasses import dataclass, field

from benchmarks.invalid_answer import InvalidAnswer
from benchmarks.protocols import TIMEOUT_S

# Requests in flight at a given rate; those beyond wait, and their latency counts from when they were due.
MAX_OPEN = 512
# Seconds after an error, so that a server that is down is not asked a million times.
ERROR_PAUSE_S = 0.01
# Seconds between looks for answers that take too long. A timer for each request would take longer than sending it.
LOOK_S = 0.05
# Arrival patterns: each maps (rate, n) to the seconds between request n-1 and request n. Bursts: all requests of a
# second are due at its beginning.
ARRIVALS = {
    "poisson": lambda rate, n: random.expovariate(rate),
    "even": lambda rate, n: 1 / rate,
    "bursts": lambda rate, n: 1.0 if n and n % rate == 0 else 0.0,
}


@dataclass
class RawLoad:
    """What a run of requests measured.

    `answered` has (index of the request, seconds, bytes of the answer) for each one; `cpu_s` is what the process used.
    """

    answered: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    elapsed_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def throughput_rps(self):
        """Answers per second."""
        return len(self.answered) / self.elapsed_s

    @property
    def busy(self):
        """The share of a core that the process was busy; near 1, it was the bottleneck."""
        return self.cpu_s / self.elapsed_s

    def latencies_s(self):
        """Return the seconds of each answer."""
        return [seconds for _, seconds, _ in self.answered]


@dataclass(frozen=True)
class Job:
    """A load on a target (see `load_connections`); without `duration_s`, until it is told to stop."""

    target: object
    concurrency: int | None
    duration_s: float | None = None
    rate: float | None = None
    warm_up_s: float = 0.0
    timeout_s: float = TIMEOUT_S
    first: int = 0
    arrivals: str = "poisson"


def run_jobs(pipe):
    """Run, in the process, the loads that come through the pipe."""
    pipe.send("ready")
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            job = pipe.recv()
            with asyncio.Runner(loop_factory=_exact_loop if job.rate else None) as runner:
                runner.run(_run(pipe, job))


def _exact_loop():
    """Return an event loop that wakes up on time: epoll, the usual one, would send up to a millisecond late."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _run(pipe, job):
    connections = job.target.connect()
    if job.warm_up_s:
        await _send(job, connections, 0, asyncio.sleep(job.warm_up_s))
    pipe.send("started")
    until = asyncio.to_thread(pipe.recv) if job.duration_s is None else asyncio.sleep(job.duration_s)
    load = await _send(job, connections, job.first, until)
    await connections.close()
    pipe.send(load)


async def _send(job, connections, first, until):
    """Send requests until an awaitable is done; return the `RawLoad` once all have their answers."""
    run = _GeneratorRun(job, connections, first)
    began, cpu_began = time.perf_counter(), time.process_time()
    asking = asyncio.create_task(run.open_loop() if job.rate else run.closed_loop())
    watching = asyncio.create_task(run.cancel_overdue())
    await until
    run.is_stopped = True
    await asking
    watching.cancel()
    run.load.elapsed_s, run.load.cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return run.load


async def _wake_up(due):
    """Return once a request is due; the value is when it counts as arrived.

    That the process wakes up a fraction of a millisecond late is not the server's fault. A request that is overdue
    without any sleep counts from when it was due.
    """
    wait_s = due - time.perf_counter()
    if wait_s <= 0:
        return due
    await asyncio.sleep(wait_s)
    return time.perf_counter()


class _GeneratorRun:
    """One run of requests over some connections, in a closed or an open loop, until `is_stopped` is set."""

    def __init__(self, job, connections, first):
        self.job, self.connections, self.load = job, connections, RawLoad()
        self.is_stopped, self.next_index = False, first
        # When each task sent its request, and those that are cancelled because it is too long ago.
        self.in_flight, self.overdue = {}, set()

    async def closed_loop(self):
        await asyncio.gather(*(self._caller_loop() for _ in range(self.job.concurrency)))

    async def _caller_loop(self):
        while not self.is_stopped:
            await self._ask_one(time.perf_counter())

    async def open_loop(self):
        due, in_flight, limit = time.perf_counter(), set(), asyncio.Semaphore(MAX_OPEN)
        until_next = ARRIVALS[self.job.arrivals]
        for number in itertools.count():
            due += until_next(self.job.rate, number)
            arrived = await _wake_up(due)
            if self.is_stopped:
                break
            await limit.acquire()
            task = asyncio.create_task(self._ask_one(arrived))
            in_flight.add(task)
            task.add_done_callback(lambda done: (in_flight.discard(done), limit.release()))
        await asyncio.gather(*in_flight)

    async def _ask_one(self, began):
        index, task, pause_s = self.next_index, asyncio.current_task(), 0.0
        self.next_index = (index + 1) % len(self.connections.requests)
        self.in_flight[task] = time.perf_counter()
        try:
            answer = await self.connections.ask(index)
            self.load.answered.append((index, time.perf_counter() - began, answer))
        except asyncio.CancelledError:
            if task not in self.overdue:
                raise
            task.uncancel()
            self.overdue.discard(task)
            self.load.errors.append(f"no answer within {self.job.timeout_s:g} s")
        except (OSError, InvalidAnswer) as error:
            self.load.errors.append(str(error) or type(error).__name__)
            pause_s = ERROR_PAUSE_S
        finally:
            del self.in_flight[task]
        if pause_s:
            await asyncio.sleep(pause_s)

    async def cancel_overdue(self):
        """Cancel, until this is cancelled itself, the requests whose answers take too long."""
        while True:
            await asyncio.sleep(LOOK_S)
            limit = time.perf_counter() - self.job.timeout_s
            for task in [task for task, began in self.in_flight.items() if began < limit]:
                self.overdue.add(task)
                task.cancel()
