import threading
import time

import gevent
import pytest
from endpoint_processes import proc_directory
from gevent.event import Event

from rnn_serving.batching import ExpiredError, QueueFullError
from rnn_serving.http_server.native_threads import NativeThreads
from rnn_serving.http_worker.greenlets import GreenletBatcher

pytestmark = pytest.mark.usefixtures("loop_on_time")

LIMIT_S = 10


class Calls:
    """A `run` that records its batches and their threads, and blocks while its gate is closed."""

    def __init__(self, seconds=0.0):
        self.batches, self.threads, self.gate, self._seconds = [], [], threading.Event(), seconds
        self.gate.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.threads.append(threading.current_thread())
        assert self.gate.wait(LIMIT_S)
        time.sleep(self._seconds)
        return [item if isinstance(item, Exception) else item * 10 for item in items]


def submit(batcher, item, size=1, limit_s=LIMIT_S):
    """Submit one item with a deadline."""
    return batcher.submit(item, size, time.monotonic() + limit_s)


def submitted(batcher, *items, size=1, limit_s=LIMIT_S):
    """Submit each item from a greenlet of its own; return the outcomes, errors included."""
    greenlets = [gevent.spawn(_outcome, batcher, item, size, limit_s) for item in items]
    gevent.joinall(greenlets, LIMIT_S, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


def _outcome(batcher, *arguments):
    try:
        return submit(batcher, *arguments)
    except Exception as error:
        return error


@pytest.fixture
def calls():
    return Calls()


def test_concurrent_requests_share_one_call_and_each_gets_its_own_result(calls):
    assert submitted(GreenletBatcher(calls, 8), 1, 2, 3) == [10, 20, 30]
    assert calls.batches == [[1, 2, 3]]


def test_a_batch_has_at_most_max_batch_size_rows(calls):
    assert submitted(GreenletBatcher(calls, 4), 1, 2, 3, size=2) == [10, 20, 30]
    assert calls.batches == [[1, 2], [3]]


def test_an_error_is_raised_only_for_its_own_caller(calls):
    wrong = ValueError("wrong")
    assert submitted(GreenletBatcher(calls, 8), 1, wrong) == [10, wrong]


def test_an_exception_of_the_call_is_raised_for_all_its_callers_and_the_next_batch_runs():
    def fail_once(items):
        if fail:
            raise fail.pop()
        return items

    fail = [RuntimeError("broken")]
    batcher = GreenletBatcher(fail_once, 8)
    assert [str(error) for error in submitted(batcher, 1, 2)] == ["broken", "broken"]
    assert submitted(batcher, 3) == [3]


def test_a_full_queue_rejects_at_once_and_accepts_again_when_there_is_room(calls):
    batcher = GreenletBatcher(calls, 1, max_enqueued_batches=2)
    calls.gate.clear()
    running = gevent.spawn(submit, batcher, 1, 1)
    wait_until(lambda: calls.batches)
    waiting = [gevent.spawn(submit, batcher, item, 1) for item in (2, 3)]
    gevent.idle()
    began = time.monotonic()
    with pytest.raises(QueueFullError):
        submit(batcher, 4)
    assert time.monotonic() - began < 1
    calls.gate.set()
    gevent.joinall([running, *waiting], LIMIT_S, raise_error=True)
    assert [running.value, *(greenlet.value for greenlet in waiting)] == [10, 20, 30]
    assert submitted(batcher, 5) == [50]


def wait_until(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        gevent.sleep(0.001)


def test_a_request_that_expires_in_the_queue_gets_an_error_and_is_not_run(calls):
    batcher = GreenletBatcher(calls, 1)
    calls.gate.clear()
    running = gevent.spawn(submit, batcher, 1, 1)
    wait_until(lambda: calls.batches)
    assert isinstance(_outcome(batcher, 2, 1, 0.01), ExpiredError)
    calls.gate.set()
    assert running.get(timeout=LIMIT_S) == 10
    assert submitted(batcher, 3) == [30]
    assert calls.batches == [[1], [3]]


def test_the_callers_of_a_slow_call_get_an_error_at_their_deadline(calls):
    batcher = GreenletBatcher(calls, 2)
    calls.gate.clear()
    began = time.monotonic()
    errors = submitted(batcher, 1, 2, limit_s=0.05)
    assert time.monotonic() - began < 2
    assert [type(error) for error in errors] == [ExpiredError, ExpiredError]
    calls.gate.set()
    assert submitted(batcher, 3) == [30]


def test_with_a_timeout_a_batch_waits_until_it_is_full(calls):
    batcher = GreenletBatcher(calls, 2, timeout_s=LIMIT_S)
    first = gevent.spawn(submit, batcher, 1, 1)
    gevent.sleep(0.02)
    assert not calls.batches
    assert submitted(batcher, 2) == [20]
    assert first.get(timeout=LIMIT_S) == 10
    assert calls.batches == [[1, 2]]


def test_a_batch_stops_waiting_when_the_next_request_does_not_fit(calls):
    batcher = GreenletBatcher(calls, 4, timeout_s=LIMIT_S / 2)
    began = time.monotonic()
    first = gevent.spawn(submit, batcher, 1, 3)
    gevent.sleep(0.02)
    second = gevent.spawn(submit, batcher, 2, 3)
    assert first.get(timeout=LIMIT_S) == 10
    assert time.monotonic() - began < 1
    second.kill()


def test_calls_run_in_the_event_loops_thread_until_one_is_slow():
    calls = Calls()
    batcher = GreenletBatcher(calls, 8, in_loop_s=0.2)  # generous, for busy machines
    for _ in range(3):
        submitted(batcher, 1)
    calls._seconds = 0.3
    submitted(batcher, 1)
    submitted(batcher, 1)
    here = threading.current_thread()
    # The cost of the first call is unknown.
    assert [thread is here for thread in calls.threads] == [False, True, True, True, False]


def test_calls_of_unpredictable_cost_always_run_in_another_thread(calls):
    batcher = GreenletBatcher(calls, 8, in_loop_s=0)
    for _ in range(3):
        submitted(batcher, 1)
    assert threading.current_thread() not in calls.threads


def test_a_batcher_created_in_another_thread_does_not_block_the_event_loop(calls):
    batcher = NativeThreads().call(GreenletBatcher, calls, 1)
    calls.gate.clear()
    answer = gevent.spawn(submit, batcher, 1, 1)
    wait_until(lambda: calls.batches)
    calls.gate.set()
    assert answer.get(timeout=LIMIT_S) == 10
    assert threading.current_thread() not in calls.threads


def test_an_event_loop_that_is_never_idle_does_not_delay_a_batch(calls):
    stop = Event()

    def keep_busy():
        while not stop.is_set():
            gevent.sleep(0)

    busy = gevent.spawn(keep_busy)
    try:
        assert submitted(GreenletBatcher(calls, 8), 1) == [10]
    finally:
        stop.set()
        busy.join()


def test_batches_still_run_when_calls_take_about_as_long_as_the_deadline():
    batcher = GreenletBatcher(Calls(seconds=0.002), 2, max_enqueued_batches=50)
    for _ in range(20):
        submitted(batcher, *range(20), limit_s=0.01)
    assert submitted(batcher, 7) == [70]


def test_closing_a_batcher_from_any_thread_ends_its_own_thread(calls):
    batcher = GreenletBatcher(calls, 8, in_loop_s=0)
    submitted(batcher, 1)
    assert calls.threads[0].native_id in native_thread_ids()
    closing = threading.Thread(target=batcher.close)
    closing.start()
    closing.join()
    wait_until(lambda: calls.threads[0].native_id not in native_thread_ids())


def native_thread_ids():
    """Return the native ids of this process's threads."""
    return {int(task.name) for task in (proc_directory("self") / "task").iterdir()}
