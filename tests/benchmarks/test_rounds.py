from benchmarks.rounds import in_turns, ratios


def test_sides_take_turns_in_an_order_that_is_reversed_every_other_round():
    order = []
    values = in_turns(3, {name: lambda of=name: order.append(of) or len(order) for name in ("a", "b")})
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert values == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert ratios([2, 9], [1, 3]) == [2, 3]
