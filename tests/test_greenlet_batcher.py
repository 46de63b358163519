import os
import threading
import time

import gevent
import pytest
from gevent.event import Event

from rnn_serving.batching import ExpiredError, QueueFullError
from rnn_serving.flask_endpoint.greenlet_batcher import GreenletBatcher
from rnn_serving.flask_endpoint.native_threads import NativeThreads

pytestmark = pytest.mark.usefixtures("loop_on_time")

LIMIT_S = 10


class Calls:
    """What a batcher runs: every call, the thread it ran in, and a gate that holds calls in a thread up."""

    def __init__(self, seconds=0.0):
        self.batches, self.threads, self.gate, self._seconds = [], [], threading.Event(), seconds
        self.gate.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.threads.append(threading.current_thread())
        assert self.gate.wait(LIMIT_S)
        time.sleep(self._seconds)
        return [item if isinstance(item, Exception) else item * 10 for item in items]


def submitted(batcher, *items, size=1, limit_s=LIMIT_S):
    """Submit items, a greenlet each, and return what each got, errors included."""
    greenlets = [gevent.spawn(_outcome, batcher, item, size, limit_s) for item in items]
    gevent.joinall(greenlets, LIMIT_S, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


def _outcome(batcher, *arguments):
    try:
        return batcher.submit(*arguments)
    except Exception as error:
        return error


@pytest.fixture
def calls():
    return Calls()


def test_what_comes_at_once_is_asked_in_one_call_and_each_gets_its_own(calls):
    assert submitted(GreenletBatcher(calls, 8), 1, 2, 3) == [10, 20, 30]
    assert calls.batches == [[1, 2, 3]]


def test_a_batch_has_at_most_so_many_rows(calls):
    assert submitted(GreenletBatcher(calls, 4), 1, 2, 3, size=2) == [10, 20, 30]
    assert calls.batches == [[1, 2], [3]]


def test_an_error_is_raised_for_its_own_caller_only(calls):
    wrong = ValueError("wrong")
    assert submitted(GreenletBatcher(calls, 8), 1, wrong) == [10, wrong]


def test_what_the_call_raises_is_raised_for_all_and_the_next_batch_runs():
    def fail_once(items):
        if fail:
            raise fail.pop()
        return items

    fail = [RuntimeError("broken")]
    batcher = GreenletBatcher(fail_once, 8)
    assert [str(error) for error in submitted(batcher, 1, 2)] == ["broken", "broken"]
    assert submitted(batcher, 3) == [3]


def test_a_full_queue_refuses_at_once_and_goes_on_when_there_is_room(calls):
    batcher = GreenletBatcher(calls, 1, max_enqueued_batches=2)
    calls.gate.clear()
    running = gevent.spawn(batcher.submit, 1, 1, LIMIT_S)
    wait_until(lambda: calls.batches)
    waiting = [gevent.spawn(batcher.submit, item, 1, LIMIT_S) for item in (2, 3)]
    gevent.idle()
    began = time.monotonic()
    with pytest.raises(QueueFullError):
        batcher.submit(4, 1, LIMIT_S)
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


def test_a_caller_whose_time_is_up_is_told_so_and_is_no_longer_asked_for(calls):
    batcher = GreenletBatcher(calls, 1)
    calls.gate.clear()
    running = gevent.spawn(batcher.submit, 1, 1, LIMIT_S)
    wait_until(lambda: calls.batches)
    assert isinstance(_outcome(batcher, 2, 1, 0.01), ExpiredError)
    calls.gate.set()
    assert running.get(timeout=LIMIT_S) == 10
    assert submitted(batcher, 3) == [30]
    assert calls.batches == [[1], [3]]


def test_the_callers_of_a_call_that_takes_too_long_are_told_so_when_their_time_is_up(calls):
    batcher = GreenletBatcher(calls, 2)
    calls.gate.clear()
    began = time.monotonic()
    errors = submitted(batcher, 1, 2, limit_s=0.05)
    assert time.monotonic() - began < 2
    assert [type(error) for error in errors] == [ExpiredError, ExpiredError]
    calls.gate.set()
    assert submitted(batcher, 3) == [30]


def test_with_a_time_out_a_batch_waits_for_more_until_it_is_full(calls):
    batcher = GreenletBatcher(calls, 2, timeout_s=LIMIT_S)
    first = gevent.spawn(batcher.submit, 1, 1, LIMIT_S)
    gevent.sleep(0.02)
    assert not calls.batches
    assert submitted(batcher, 2) == [20]
    assert first.get(timeout=LIMIT_S) == 10
    assert calls.batches == [[1, 2]]


def test_a_batch_that_the_next_request_does_not_fit_into_waits_no_longer(calls):
    batcher = GreenletBatcher(calls, 4, timeout_s=LIMIT_S / 2)
    began = time.monotonic()
    first = gevent.spawn(batcher.submit, 1, 3, LIMIT_S)
    gevent.sleep(0.02)
    second = gevent.spawn(batcher.submit, 2, 3, LIMIT_S)
    assert first.get(timeout=LIMIT_S) == 10
    assert time.monotonic() - began < 1
    second.kill()


def test_calls_stay_in_the_loops_thread_until_one_takes_long():
    calls = Calls()
    batcher = GreenletBatcher(calls, 8)
    for _ in range(3):
        submitted(batcher, 1)
    calls._seconds = 0.02
    submitted(batcher, 1)
    submitted(batcher, 1)
    here = threading.current_thread()
    # Of the first call nobody knows how long it takes.
    assert [thread is here for thread in calls.threads] == [False, True, True, True, False]


def test_calls_that_need_not_resemble_each_other_always_have_a_thread(calls):
    batcher = GreenletBatcher(calls, 8, in_loop_s=0)
    for _ in range(3):
        submitted(batcher, 1)
    assert threading.current_thread() not in calls.threads


def test_a_batcher_made_in_another_thread_does_not_hold_up_the_loop(calls):
    batcher = NativeThreads().call(GreenletBatcher, calls, 1)
    calls.gate.clear()
    answer = gevent.spawn(batcher.submit, 1, 1, LIMIT_S)
    wait_until(lambda: calls.batches)
    calls.gate.set()
    assert answer.get(timeout=LIMIT_S) == 10
    assert threading.current_thread() not in calls.threads


def test_a_loop_that_is_never_idle_holds_up_no_batch(calls):
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


def test_batches_go_on_when_calls_take_about_as_long_as_callers_wait():
    batcher = GreenletBatcher(Calls(seconds=0.002), 2, max_enqueued_batches=50)
    for _ in range(20):
        submitted(batcher, *range(20), limit_s=0.01)
    assert submitted(batcher, 7) == [70]


def test_its_thread_ends_with_it_whoever_closes_it(calls):
    batcher = GreenletBatcher(calls, 8, in_loop_s=0)
    submitted(batcher, 1)
    assert calls.threads[0].native_id in threads()
    closing = threading.Thread(target=batcher.close)
    closing.start()
    closing.join()
    wait_until(lambda: calls.threads[0].native_id not in threads())


def threads():
    """Return the native ids of this process's threads."""
    return {int(number) for number in os.listdir("/proc/self/task")}
