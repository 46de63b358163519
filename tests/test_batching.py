import threading
import time

import pytest

from rnn_serving.batching import Batcher, ExpiredError, QueueFullError, Slots

LIMIT_S = 20


class Recorder:
    """A `run` that notes its batches, and waits for leave to go on."""

    def __init__(self, open_gate=True):
        self.batches, self.gate, self.entered = [], threading.Event(), threading.Semaphore(0)
        if open_gate:
            self.gate.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.entered.release()
        assert self.gate.wait(LIMIT_S)
        return [item * 10 for item in items]


def submit_all(batcher, items, **arguments):
    """Submit items from a thread each, one after the other is in the queue; return what each got."""
    results, threads = {}, []

    def call(item):
        try:
            results[item] = batcher.submit(item, **arguments)
        except Exception as error:
            results[item] = error

    for item in items:
        threads.append(threading.Thread(target=call, args=(item,), daemon=True))
        threads[-1].start()
    return results, threads


def join(threads):
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def wait_until(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_lone_request_runs_at_once_in_its_own_thread():
    threads = []
    batcher = Batcher(lambda items: threads.append(threading.current_thread()) or items, 8)
    assert batcher.submit("a") == "a"
    assert threads == [threading.current_thread()]


def test_what_comes_while_a_batch_runs_is_joined_into_the_next():
    run = Recorder(open_gate=False)
    batcher = Batcher(run, 8)
    results, threads = submit_all(batcher, [1])
    assert run.entered.acquire(timeout=LIMIT_S)
    more, others = submit_all(batcher, [2, 3, 4])
    wait_until(lambda: sum(len(batch.tasks) for batch in batcher._batches) == 3)
    run.gate.set()
    join(threads + others)
    assert run.batches[0] == [1]
    assert sorted(run.batches[1]) == [2, 3, 4]
    assert results | more == {1: 10, 2: 20, 3: 30, 4: 40}


def test_a_batch_waits_for_the_time_out_unless_it_is_full():
    run = Recorder()
    batcher = Batcher(run, 3, timeout_s=LIMIT_S)
    results, threads = submit_all(batcher, [1, 2, 3])
    join(threads)
    assert [sorted(batch) for batch in run.batches] == [[1, 2, 3]]
    assert results == {1: 10, 2: 20, 3: 30}


def test_requests_that_do_not_fit_go_into_batches_of_their_own():
    run = Recorder(open_gate=False)
    batcher = Batcher(run, 4)
    _, first = submit_all(batcher, [0], size=1)
    assert run.entered.acquire(timeout=LIMIT_S)
    _, others = submit_all(batcher, [1, 2, 3], size=3)
    wait_until(lambda: len(batcher._batches) == 3)
    run.gate.set()
    join(first + others)
    assert sorted(map(len, run.batches)) == [1, 1, 1, 1]


def test_a_full_queue_refuses_at_once():
    run = Recorder(open_gate=False)
    batcher = Batcher(run, 1, max_enqueued_batches=2)
    _, running = submit_all(batcher, [0])
    assert run.entered.acquire(timeout=LIMIT_S)
    _, waiting = submit_all(batcher, [1, 2])
    wait_until(lambda: len(batcher._batches) == 2)
    with pytest.raises(QueueFullError) as error:
        batcher.submit(3)
    assert error.value.batches == 2
    run.gate.set()
    join(running + waiting)


def test_a_request_whose_time_is_up_in_the_queue_is_not_run():
    run = Recorder(open_gate=False)
    batcher = Batcher(run, 8)
    _, running = submit_all(batcher, [0])
    assert run.entered.acquire(timeout=LIMIT_S)
    results, late = submit_all(batcher, [1], deadline=time.monotonic())
    wait_until(lambda: batcher._batches)
    run.gate.set()
    join(running + late)
    assert isinstance(results[1], ExpiredError)
    assert run.batches == [[0]]


def test_an_error_reaches_every_request_of_its_batch_and_no_other():
    def run(items):
        if "bad" in items:
            raise ValueError("no")
        return items

    batcher = Batcher(run, 2, timeout_s=LIMIT_S)
    results, threads = submit_all(batcher, ["bad", "with it"])
    join(threads)
    assert all(isinstance(result, ValueError) for result in results.values())
    results, threads = submit_all(batcher, ["good", "better"])
    join(threads)
    assert results == {"good": "good", "better": "better"}


def test_slots_bound_how_many_batches_run_at_a_time():
    running, most, lock = [], [], threading.Lock()

    def run(items):
        with lock:
            running.append(1)
            most.append(len(running))
        time.sleep(0.002)
        with lock:
            running.pop()
        return items

    slots = Slots(2)
    batchers = [Batcher(run, 1, max_enqueued_batches=100, slots=slots) for _ in range(4)]
    threads = [thread for batcher in batchers for thread in submit_all(batcher, range(10))[1]]
    join(threads)
    assert max(most) <= 2


def test_nothing_is_lost_or_swapped_under_load():
    batcher = Batcher(lambda items: [item * 10 for item in items], 7, max_enqueued_batches=1000, slots=Slots(2))
    results, threads = submit_all(batcher, range(300))
    join(threads)
    assert results == {item: item * 10 for item in range(300)}
