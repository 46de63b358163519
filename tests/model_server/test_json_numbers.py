"""Numbers take a fast path through REST: the same arrays and texts as by the exact one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rnn_serving.model_server import json_predict_inputs, json_text
from rnn_serving.number_lists import read_number_lists


def signature(*dtypes):
    return SimpleNamespace(inputs={f"x{at}": SimpleNamespace(dtype=dtype) for at, dtype in enumerate(dtypes)})


FLOAT = signature("float32")
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**64 - 1),
)


@given(arrays.arrays(object, arrays.array_shapes(max_dims=4, max_side=3), elements=numbers))
def test_rows_of_numbers_become_the_same_array(rows):
    body = json.dumps({"instances": rows.tolist()}).encode()
    layout, fast = json_predict_inputs.from_numbers(read_number_lists(body, "instances"), FLOAT)
    exact_layout, exact = json_predict_inputs.parse(json_text.parse(body), FLOAT, "")
    assert layout == exact_layout
    assert fast["x0"].tobytes() == exact["x0"].tobytes()
    assert (fast["x0"].shape, fast["x0"].dtype) == (exact["x0"].shape, exact["x0"].dtype)


@pytest.mark.parametrize("dtypes", [(), ("float32", "float32"), ("int32",), ("float64",), ("string",)])
def test_other_signatures_take_the_exact_path(dtypes):
    assert not json_predict_inputs.takes_numbers(signature(*dtypes))
    assert json_predict_inputs.takes_numbers(FLOAT)


@pytest.mark.parametrize(("dtype", "exact_arguments"), [(np.float32, (np.float32, 9)), (np.float64, ())])
@given(st.data())
def test_numbers_are_written_alike_one_by_one_and_together(dtype, exact_arguments, data):
    width = np.dtype(dtype).itemsize * 8
    array = data.draw(arrays.arrays(dtype, st.integers(0, 9), elements=st.floats(width=width)))
    with np.errstate(all="ignore"):
        rounded = array.round(data.draw(st.integers(0, 6)))
    for values in (array, rounded):
        exact = [json_text.write_decimal(value, *exact_arguments) for value in values]
        assert json_text.write_decimals(values) == exact
