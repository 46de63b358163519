"""The fast reading of numbers agrees with the complete parser, or leaves the body to it."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_serving.endpoint.tensor_from_json import InvalidTensor, tensor_from_json
from rnn_serving.number_lists import read_number_lists

FLOAT32 = np.dtype("float32")
# Item shapes: scalars, vectors, matrices, and those whose nested and flat forms look alike.
ITEM_SHAPES = [(), (1,), (3,), (2, 3), (3, 2), (1, 1), (2, 1), (1, 4), (2, 2, 2)]

numbers = st.one_of(
    st.floats(width=64, allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70), st.integers(-9, 9)
)


def read(body, item_shape, dtype=FLOAT32):
    return read_number_lists(body, "data", (None, *item_shape), dtype)


def read_completely(body, item_shape, dtype="float32"):
    """Return what the complete parser makes of a body, None if it refuses it."""
    try:
        return tensor_from_json(orjson.loads(body)["data"], "data", (None, *item_shape), dtype)
    except (InvalidTensor, orjson.JSONDecodeError, KeyError, TypeError):
        return None


def assert_same(body, item_shape, dtype):
    """The two agree on a body, or the fast one leaves it alone."""
    fast, complete = read(body, item_shape, np.dtype(dtype)), read_completely(body, item_shape, dtype)
    if fast is not None:
        assert complete is not None, body
        assert fast.shape == complete.shape
        assert fast.dtype == complete.dtype
        assert fast.tobytes() == complete.tobytes()


@pytest.mark.parametrize("item_shape", ITEM_SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_lists_of_numbers_are_read(item_shape, rows):
    data = np.arange(rows * int(np.prod(item_shape)), dtype=np.float32).reshape(rows, *item_shape) - 1.5
    for value in (data, data.reshape(rows, -1)) if item_shape else (data,):
        body = orjson.dumps({"data": value}, option=orjson.OPT_SERIALIZE_NUMPY)
        assert np.array_equal(read(body, item_shape), data), body


@pytest.mark.parametrize("indent", [None, 1, "\t"])
def test_space_anywhere_and_one_item_without_a_list_are_read(indent):
    item = [[1, 2.5, -3e2], [4, 5, 6]]
    body = json.dumps({"data": item}, indent=indent).encode() + b"\r\n"
    assert np.array_equal(read(body, (2, 3)), [item])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"data":[]}',
        b'{"data":[[]]}',
        b'{"data":[[1,2,3],[1,2]]}',  # ragged, though six numbers in all would fit
        b'{"data":[[1,2],[1,2,3,4]]}',
        b'{"data":[[1,2,3,4],[1,2]]}',
        b'{"data":[[1,2,true]]}',
        b'{"data":[[1,2,null]]}',
        b'{"data":[[1,2,"3"]]}',
        b'{"data":[[1,2,{}]]}',
        b'{"data":[[1,2,[3]]]}',
        b'{"data":[[1,2,NaN]]}',
        b'{"data":[[1,2,Infinity]]}',
        b'{"data":[[1,2,1e39]]}',  # infinite as float32
        b'{"data":[[1,2,1e400]]}',
        b'{"data":[[1,2,01]]}',
        b'{"data":[[1,2,+1]]}',
        b'{"data":[[1,2,.5]]}',
        b'{"data":[[1,2,1.]]}',
        b'{"data":[[1,2,e]]}',
        b'{"data":[[1,2,1 1]]}',
        b'{"data":[[1,,2]]}',
        b'{"data":[[1,2,]]}',
        b'{"data":[[1,2,3]]',
        b'{"data":[[1,2,3]]}}',
        b'{"data":[[1,2,3]],}',
        b'{"data":[[1,2,3]],"data":[[4,5,6]]}',
        b'{"other":0,"data":[[1,2,3]]}',
        b'{"data":[[1,2,3]],"other":[]}',
        b'{"date":[[1,2,3]]}',
        b'{"da ta":[[1,2,3]]}',
        b'{"DATA":[[1,2,3]]}',
        b'{"\\u0064ata":[[1,2,3]]}',
        b'\xef\xbb\xbf{"data":[[1,2,3]]}',
        b'{"data":[[1,2,3\xff]]}',
        b'{"data":[[1,2,3\x0b]]}',
        b'{"data":[[1,2,3\x00]]}',
    ],
)
def test_everything_else_is_left_to_the_complete_parser(body):
    assert read(body, (3,)) is None


@pytest.mark.parametrize("shape", [None, (), (2, 3), (None, None), (None, 3, None)])
def test_shapes_that_are_not_rows_of_one_size_are_left_to_it(shape):
    assert read_number_lists(b'{"data":[[1,2,3],[4,5,6]]}', "data", shape, FLOAT32) is None


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "O"])
def test_other_types_are_left_to_it(dtype):
    assert read(b'{"data":[[1,2,3]]}', (3,), np.dtype(dtype)) is None


@given(st.data(), st.sampled_from(ITEM_SHAPES), st.sampled_from(["float16", "float32", "float64"]))
def test_both_read_the_same_numbers(data, item_shape, dtype):
    rows = data.draw(st.integers(1, 3))
    size = rows * int(np.prod(item_shape))
    flat = np.array([*data.draw(st.lists(numbers, min_size=size, max_size=size)), None], object)[:-1]
    value = data.draw(st.sampled_from([flat.reshape(rows, *item_shape), flat.reshape(rows, -1), flat])).tolist()
    assert_same(json.dumps({"data": value}).encode(), item_shape, dtype)


@given(
    st.recursive(st.one_of(numbers, st.booleans(), st.none(), st.text(max_size=2)), lambda inner: st.lists(inner)),
    st.sampled_from(ITEM_SHAPES),
)
def test_both_agree_on_any_nesting(value, item_shape):
    assert_same(json.dumps({"data": value}).encode(), item_shape, "float32")


@given(st.data())
def test_both_agree_on_a_damaged_body(data):
    body = bytearray(b'{"data": [[1.5, -2e3, 3], [4, 5, 6]]}')
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"[", b"]", b",", b"1", b"e", b".", b"-", b" ", b'"', b"{", b"}", b"t", b"\x00"])
        )
    assert_same(bytes(body), (3,), "float32")
