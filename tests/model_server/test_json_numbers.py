"""Numbers take a fast path through REST: the same arrays and texts as by the exact one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rnn_serving.model_server import json_predict_inputs, json_text


def signature(*dtypes):
    return SimpleNamespace(inputs={f"x{at}": SimpleNamespace(dtype=dtype) for at, dtype in enumerate(dtypes)})


FLOAT = signature("float32")
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-(2**63), 2**64 - 1),
)


REQUESTS = [
    lambda rows: {"instances": rows},
    lambda rows: {"inputs": rows},
    lambda rows: {"inputs": {"x0": rows}},
    lambda rows: {"signature_name": "serving_default", "inputs": {"x0": rows}},
    lambda rows: {"instances": rows, "signature_name": ""},
]


@pytest.mark.parametrize("request_of", REQUESTS)
@given(rows=arrays.arrays(object, arrays.array_shapes(max_dims=4, max_side=3), elements=numbers))
def test_plain_numbers_become_the_same_array(request_of, rows):
    body = json.dumps(request_of(rows.tolist())).encode()
    document, found = json_predict_inputs.parse_numbers(body)
    layout = json_predict_inputs.layout_of_numbers(document, FLOAT)
    fast = json_predict_inputs.from_numbers(found, FLOAT)["x0"]
    exact_layout, exact = json_predict_inputs.parse(json_text.parse(body), FLOAT, "")
    assert layout == exact_layout
    assert fast.tobytes() == exact["x0"].tobytes()
    assert (fast.shape, fast.dtype) == (exact["x0"].shape, exact["x0"].dtype)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": "[1]"}',
        b'{"instances": [[1], [2, 3]]}',
        b'{"instances": [1], "inputs": [2]}',
        b'{"instances": [1], "signature_name": 2}',
        b'{"instances": [1]',
        b'{"instances": [1 2]}',
        b'{"instances": [{"x0": [1]}]}',
        b'{"instances": [NaN]}',
        b'{"instances": [1], "x": "\\u0000numbers"}',
        b"[1]",
        b"",
    ],
)
def test_other_requests_take_the_exact_path(body):
    assert json_predict_inputs.parse_numbers(body) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": {"x1": [1]}}',
        b'{"inputs": {"x0": [1], "x1": 2}}',
        b'{"x": [1]}',
        b'{"instances": [1], "inputs": 2}',
        b'{"instances": {"x0": [1]}}',
        b'{"inputs": "\\u0000numbers!", "x": [1]}',
    ],
)
def test_numbers_elsewhere_take_it_too(body):
    document, _ = json_predict_inputs.parse_numbers(body)
    assert json_predict_inputs.layout_of_numbers(document, FLOAT) is None


@pytest.mark.parametrize("dtypes", [(), ("float32", "float32"), ("int32",), ("float64",), ("string",)])
def test_other_signatures_take_it_too(dtypes):
    document, _ = json_predict_inputs.parse_numbers(b'{"instances": [1]}')
    assert json_predict_inputs.layout_of_numbers(document, FLOAT) == "instances"
    assert json_predict_inputs.layout_of_numbers(document, signature(*dtypes)) is None


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
