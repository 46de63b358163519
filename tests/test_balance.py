import os

from rnn_serving.flask_endpoint.balance import Balance


def with_workers(*connections):
    """Return a balance of workers with so many connections each; None for one that is not ready."""
    balance = Balance(len(connections))
    for count in connections:
        slot = balance.reserve()
        if count is not None:
            balance.publish(slot, count)
    return balance


def turns(balance, workers):
    return [balance.is_fair(slot) for slot in range(workers)]


def test_the_turn_is_of_those_with_the_fewest_connections():
    assert turns(with_workers(2, 1, 1), 3) == [False, True, True]


def test_a_worker_that_is_not_ready_has_a_turn_only_while_none_is():
    assert turns(with_workers(None, None), 2) == [True, True]
    assert turns(with_workers(None, 1000), 2) == [False, True]


def test_a_dead_worker_no_longer_counts():
    balance = with_workers(0, 5)
    assert turns(balance, 2) == [True, False]
    balance.give_back(0)
    assert balance.is_fair(1)


def test_a_successor_starts_without_a_model_in_a_slot_of_its_own():
    balance = with_workers(3, 3)
    successor = balance.reserve()
    assert successor not in (0, 1)
    assert turns(balance, 3) == [True, True, False]
    balance.give_back(0)
    assert balance.reserve() == 0
    assert not balance.is_fair(0)


def test_all_workers_can_be_replaced_while_the_old_ones_still_end():
    balance = with_workers(1, 1)
    assert len({balance.reserve(), balance.reserve()}) == 2


def test_whether_any_is_ready_is_known():
    balance = with_workers(None, None)
    assert not balance.any_ready()
    balance.publish(1, 0)
    assert balance.any_ready()


def test_what_one_process_publishes_another_one_reads():
    balance = with_workers(0, 0)
    child = os.fork()
    if not child:
        balance.publish(0, 7)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert turns(balance, 2) == [False, True]
