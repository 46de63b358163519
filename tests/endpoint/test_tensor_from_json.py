import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_serving.endpoint.tensor_from_json import InvalidTensor, tensor_from_json

IMAGE = np.arange(784.0).reshape(28, 28)


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (IMAGE, 1),
        (IMAGE.reshape(784), 1),
        (IMAGE.reshape(1, 784), 1),
        (np.stack([IMAGE] * 3), 3),
        (np.stack([IMAGE.reshape(784)] * 28), 28),
        (np.stack([IMAGE] * 28), 28),
    ],
)
def test_one_image_or_many_nested_or_flat_become_the_same_tensor(value, count):
    tensor = tensor_from_json(value.tolist(), "data", (None, 28, 28))
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, np.stack([IMAGE] * count))


def with_element(element):
    return [0.5] * 783 + [element]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "'data' is null; expected a list of numbers"),
        (3, "'data' is a number; expected a list"),
        ("abc", "'data' is a string; expected a list"),
        ({}, "'data' is an object; expected a list"),
        ([], "'data' has shape (0,); expected 784 numbers, 28x28, or a list of them"),
        ([[]], "'data' has shape (1, 0)"),
        ([0.5] * 783, "'data' has shape (783,)"),
        ([[0.5] * 28] * 27, "'data' has shape (27, 28)"),
        ([[0.5] * 28] * 27 + [[0.5] * 27], "lists of different lengths at depth 1; expected 28 each"),
        ([[0.5] * 784, 0.5], "lists of different lengths at depth 1"),
        ([[[[0.5]] * 28] * 28], "holds a list at depth 3; expected numbers"),
        (with_element(True), "holds a boolean at depth 1; expected numbers"),
        (with_element("1"), "holds a string at depth 1; expected numbers"),
        (with_element(None), "holds null at depth 1; expected numbers"),
        (with_element({}), "holds an object at depth 1; expected numbers"),
        (with_element([1]), "holds a list at depth 1; expected numbers"),
        (with_element(1e39), "not finite as float32"),
        (with_element(-(10**39)), "not finite as float32"),
    ],
)
def test_other_values_are_an_error_that_names_them(value, message):
    with pytest.raises(InvalidTensor) as error:
        tensor_from_json(value, "data", (None, 28, 28))
    assert message in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=30,
)


@given(json_values)
def test_any_json_value_becomes_a_finite_tensor_or_raises_invalid_tensor(value):
    try:
        tensor = tensor_from_json(orjson.loads(orjson.dumps(value)), "data", (None, 2, 2))
    except InvalidTensor:
        return
    assert tensor.shape[1:] == (2, 2)
    assert np.isfinite(tensor).all()
