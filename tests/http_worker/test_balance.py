import os

from rnn_serving.http_worker.balance import Balance


def with_workers(*connections):
    """Return a Balance of workers with these numbers of connections; None is a worker that is not ready."""
    balance = Balance(len(connections))
    for count in connections:
        slot = balance.reserve()
        if count is not None:
            balance.publish(slot, count)
    return balance


def may_accept(balance, workers):
    """Return for each worker whether it may accept another connection."""
    return [balance.is_fair(slot) for slot in range(workers)]


def test_only_workers_with_the_fewest_connections_may_accept():
    assert may_accept(with_workers(2, 1, 1), 3) == [False, True, True]


def test_a_worker_that_is_not_ready_may_accept_only_if_none_is_ready():
    assert may_accept(with_workers(None, None), 2) == [True, True]
    assert may_accept(with_workers(None, 1000), 2) == [False, True]


def test_a_dead_worker_no_longer_counts():
    balance = with_workers(0, 5)
    assert may_accept(balance, 2) == [True, False]
    balance.give_back(0)
    assert balance.is_fair(1)


def test_a_new_worker_gets_a_free_slot_and_is_not_ready():
    balance = with_workers(3, 3)
    new = balance.reserve()
    assert new not in (0, 1)
    assert may_accept(balance, 3) == [True, True, False]
    balance.give_back(0)
    assert balance.reserve() == 0
    assert not balance.is_fair(0)


def test_a_reload_has_slots_for_new_workers_beside_the_old_ones():
    balance = with_workers(1, 1)
    assert len({balance.reserve(), balance.reserve()}) == 2


def test_any_ready_is_true_once_a_worker_is_ready():
    balance = with_workers(None, None)
    assert not balance.any_ready()
    balance.publish(1, 0)
    assert balance.any_ready()


def test_processes_share_the_counts():
    balance = with_workers(0, 0)
    child = os.fork()
    if not child:
        balance.publish(0, 7)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert may_accept(balance, 2) == [False, True]
