import asyncio
import threading
import time

import pytest

from rnn_serving.batching import Batcher, ExpiredError, QueueFullError, Slots

LIMIT_S = 20


class Recorder:
    """A `run` that records its batches, and blocks while its gate is closed."""

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
    """Submit each item from a thread of its own; return {item: result or error}, which fills up, and the threads."""
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


def test_requests_that_arrive_while_a_batch_runs_share_the_next_one():
    run = Recorder(open_gate=False)
    batcher = Batcher(run, 8)
    results, threads = submit_all(batcher, [1])
    assert run.entered.acquire(timeout=LIMIT_S)
    more, others = submit_all(batcher, [2, 3, 4])
    wait_until(lambda: sum(len(batch.requests) for batch in batcher._batches) == 3)
    run.gate.set()
    join(threads + others)
    assert run.batches[0] == [1]
    assert sorted(run.batches[1]) == [2, 3, 4]
    assert results | more == {1: 10, 2: 20, 3: 30, 4: 40}


def test_a_batch_waits_for_the_timeout_unless_it_is_full():
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


def test_a_full_queue_rejects_at_once():
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


def test_a_request_that_expires_in_the_queue_is_not_run():
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


def test_slots_limit_how_many_batches_run_at_a_time():
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


def test_no_result_is_lost_or_swapped_under_load():
    batcher = Batcher(lambda items: [item * 10 for item in items], 7, max_enqueued_batches=1000, slots=Slots(2))
    results, threads = submit_all(batcher, range(300))
    join(threads)
    assert results == {item: item * 10 for item in range(300)}


def gathered(*coroutines):
    """Run coroutines in one loop; return the result or the error of each."""

    async def together():
        return await asyncio.gather(*coroutines, return_exceptions=True)

    return asyncio.run(together())


async def in_queue(batcher, *items, **arguments):
    """Submit items; return their tasks once the items are in the queue."""
    tasks = [asyncio.create_task(batcher.submit_async(item, **arguments)) for item in items]
    await asyncio.sleep(0)
    return tasks


async def entered(run):
    """Wait until another batch runs, without blocking the event loop."""
    assert await asyncio.to_thread(run.entered.acquire, timeout=LIMIT_S)


def test_a_lone_coroutine_gets_its_result_without_blocking_its_event_loop():
    run = Recorder(open_gate=False)

    async def open_the_gate():
        await entered(run)
        run.gate.set()

    assert gathered(Batcher(run, 8).submit_async(1), open_the_gate()) == [10, None]


def test_threads_and_coroutines_share_a_batch():
    run = Recorder()
    batcher = Batcher(run, 5, timeout_s=LIMIT_S)
    results, threads = submit_all(batcher, [1, 2])
    assert gathered(*map(batcher.submit_async, [3, 4, 5])) == [30, 40, 50]
    join(threads)
    assert [sorted(batch) for batch in run.batches] == [[1, 2, 3, 4, 5]]
    assert results == {1: 10, 2: 20}


@pytest.mark.parametrize("waits", ["a thread", "a coroutine"])
def test_after_a_coroutines_batch_the_next_caller_in_the_queue_leads(waits):
    run = Recorder(open_gate=False)
    batcher = Batcher(run, 8)

    async def ask():
        [first] = await in_queue(batcher, 1)
        await entered(run)
        if waits == "a thread":
            results, threads = submit_all(batcher, [2])
            await asyncio.to_thread(wait_until, lambda: batcher._batches)
        else:
            [second] = await in_queue(batcher, 2)
        run.gate.set()
        if waits == "a thread":
            await asyncio.to_thread(join, threads)
            return await first, results[2]
        return await first, await second

    assert asyncio.run(ask()) == (10, 20)
    assert run.batches == [[1], [2]]


def test_a_coroutine_gets_an_error_if_the_queue_is_full_or_its_deadline_passes():
    run = Recorder(open_gate=False)
    batcher = Batcher(run, 1, max_enqueued_batches=2)

    async def ask():
        tasks = await in_queue(batcher, 0)
        await entered(run)
        tasks += await in_queue(batcher, 1, deadline=time.monotonic())
        tasks += await in_queue(batcher, 2)
        with pytest.raises(QueueFullError):
            await batcher.submit_async(3)
        run.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, late, second = asyncio.run(ask())
    assert (first, second, type(late)) == (0, 20, ExpiredError)
    assert run.batches == [[0], [2]]


@pytest.mark.parametrize("cancelled", [1, 2])
def test_a_coroutine_cancelled_in_the_queue_is_not_run_and_the_others_get_their_results(cancelled):
    run = Recorder(open_gate=False)
    batcher = Batcher(run, 8)

    async def ask():
        tasks = await in_queue(batcher, 0)
        await entered(run)
        tasks += await in_queue(batcher, 1, 2, 3)
        tasks.pop(cancelled).cancel()
        await asyncio.sleep(0)
        run.gate.set()
        return await asyncio.gather(*tasks)

    others = [item for item in range(4) if item != cancelled]
    assert asyncio.run(ask()) == [item * 10 for item in others]
    assert run.batches == [[0], others[1:]]


@pytest.mark.parametrize("cancelled", [0, 1])
def test_a_coroutine_cancelled_while_its_batch_runs_does_not_affect_the_others(cancelled):
    run = Recorder(open_gate=False)
    batcher = Batcher(run, 3, timeout_s=LIMIT_S)

    async def ask():
        tasks = await in_queue(batcher, 0, 1, 2)
        await entered(run)
        tasks.pop(cancelled).cancel()
        run.gate.set()
        return await asyncio.gather(*tasks), await asyncio.gather(*await in_queue(batcher, 3, 4, 5))

    assert asyncio.run(ask()) == ([item * 10 for item in range(3) if item != cancelled], [30, 40, 50])


def test_an_error_reaches_every_coroutine_and_thread_of_its_batch():
    def run(items):
        raise ValueError("no")

    batcher = Batcher(run, 3, timeout_s=LIMIT_S)
    results, threads = submit_all(batcher, [1])
    errors = gathered(*map(batcher.submit_async, [2, 3]))
    join(threads)
    assert [str(error) for error in (*errors, *results.values())] == ["no"] * 3


def test_a_slow_batch_does_not_delay_others_while_a_slot_is_free():
    slots, slow, short = Slots(2), Recorder(open_gate=False), Recorder(open_gate=False)
    # The first batch of `mixed` blocks; when it began, the other slot was taken.
    mixed = Batcher(lambda items: slow(items) if items == [1] else items, 1, slots=slots)
    other = Batcher(short, 1, slots=slots)
    _, others = submit_all(other, [0])
    assert short.entered.acquire(timeout=LIMIT_S)
    _, stuck = submit_all(mixed, [1])
    assert slow.entered.acquire(timeout=LIMIT_S)
    results, waiting = submit_all(mixed, [2, 3])
    wait_until(lambda: len(mixed._batches) == 2)
    short.gate.set()
    join(others + waiting)
    assert results == {2: 2, 3: 3}
    assert stuck[0].is_alive()
    slow.gate.set()
    join(stuck)


def test_no_result_is_lost_or_swapped_between_threads_and_coroutines_under_load():
    batcher = Batcher(lambda items: [item * 10 for item in items], 7, max_enqueued_batches=1000, slots=Slots(2))
    results, threads = submit_all(batcher, range(300))
    assert gathered(*map(batcher.submit_async, range(300, 900))) == [item * 10 for item in range(300, 900)]
    join(threads)
    assert results == {item: item * 10 for item in range(300)}
