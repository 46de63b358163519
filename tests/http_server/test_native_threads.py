import threading
import time

import gevent
import pytest

from rnn_serving.http_server.native_threads import NativeThreads

pytestmark = pytest.mark.usefixtures("loop_on_time")

LIMIT_S = 10


@pytest.fixture
def threads():
    threads = NativeThreads(2)
    yield threads
    threads.close()


def outcomes(threads, function, *items):
    greenlets = [gevent.spawn(threads.call, function, item) for item in items]
    gevent.joinall(greenlets, LIMIT_S, raise_error=True)
    return [greenlet.value for greenlet in greenlets]


def test_each_call_gets_its_own_result(threads):
    assert outcomes(threads, lambda item: item * 2, *range(100)) == [item * 2 for item in range(100)]


def test_an_exception_of_a_call_is_raised_and_the_threads_go_on(threads):
    with pytest.raises(ZeroDivisionError):
        threads.call(lambda: 1 / 0)
    with pytest.raises(SystemExit):
        threads.call(lambda: exit(1))
    assert outcomes(threads, lambda item: item, 1, 2, 3) == [1, 2, 3]


def test_no_more_threads_than_allowed_run_and_no_more_than_needed(threads):
    def current(_):
        time.sleep(0.01)
        return threading.get_ident()

    assert len({threads.call(current, None) for _ in range(5)}) == 1
    assert len(set(outcomes(threads, current, *range(10)))) == 2


def test_the_loop_runs_while_a_call_blocks(threads):
    gate = threading.Event()
    blocked = gevent.spawn(threads.call, gate.wait, LIMIT_S)
    gevent.sleep(0.01)
    gate.set()
    assert blocked.get(timeout=LIMIT_S) is True


def test_a_greenlet_that_gives_up_does_not_disturb_the_next_call(threads):
    gate = threading.Event()
    with gevent.Timeout(0.01, False):
        threads.call(gate.wait, LIMIT_S)
    gate.set()
    assert outcomes(threads, lambda item: item, 1, 2) == [1, 2]


def test_closing_waits_for_the_calls_in_progress():
    threads, gate = NativeThreads(), threading.Event()
    blocked = gevent.spawn(threads.call, gate.wait, LIMIT_S)
    gevent.sleep(0.01)
    threads.close()
    gate.set()
    assert blocked.get(timeout=LIMIT_S) is True


def test_what_was_never_used_can_be_closed():
    NativeThreads().close()
