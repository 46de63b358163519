"""The fast reading of numbers agrees with the complete parser, or leaves the body to it."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_serving.endpoint.tensor_from_json import InvalidTensor, tensor_from_json
from rnn_serving.number_lists import read_number_lists

# The shapes of items: scalars, vectors, matrices, and those whose nested and flat forms look alike.
ITEM_SHAPES = [(), (1,), (3,), (2, 3), (3, 2), (1, 1), (2, 1), (1, 4), (2, 2, 2)]

numbers = st.one_of(
    st.floats(width=64, allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70), st.integers(-9, 9)
)


def outcome(value, item_shape, dtype):
    """Return what becomes of a parsed value: bytes and shape of a tensor, or the text of an error."""
    try:
        tensor = tensor_from_json(value, "data", (None, *item_shape), dtype)
    except InvalidTensor as error:
        return str(error)
    return tensor.tobytes(), tensor.shape, tensor.dtype


def assert_same(body, item_shape, dtype):
    """Both ways have the same outcome, or the fast one leaves the body to the complete parser."""
    fast = read_number_lists(body, "data", 1 + len(item_shape))
    if fast is not None:
        assert outcome(fast, item_shape, dtype) == outcome(orjson.loads(body)["data"], item_shape, dtype), body


@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (2, 1), (1, 3), (2, 3), (1, 1, 1), (2, 3, 4), (2, 1, 2, 3)])
def test_lists_of_numbers_have_their_shape(shape):
    data = np.arange(np.prod(shape), dtype=float).reshape(shape) - 1.5
    assert np.array_equal(read_number_lists(json.dumps({"data": data.tolist()}).encode(), "data"), data)


@pytest.mark.parametrize("indent", [None, 1, "\t"])
def test_space_may_be_anywhere(indent):
    data = [[1, 2.5, -3e2], [4, 5, 6]]
    body = json.dumps({"data": data}, indent=indent).encode() + b"\r\n"
    assert np.array_equal(read_number_lists(body, "data"), data)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"data":[]}',
        b'{"data":[[]]}',
        b'{"data":[[1,2],[1,2,3,4]]}',  # ragged, though the number of numbers fits
        b'{"data":[[1,2,3],[1,2]]}',
        b'{"data":[[1],2]}',
        b'{"data":[1,[2]]}',
        b'{"data":[[[1]],[2]]}',
        b'{"data":[[1,2,3,4],[1,2]]}',
        b'{"data":[[1,2,true]]}',
        b'{"data":[[1,2,null]]}',
        b'{"data":[[1,2,"3"]]}',
        b'{"data":[[1,2,{}]]}',
        b'{"data":[[1,2,[3]]]}',
        b'{"data":[[1,2,NaN]]}',
        b'{"data":[[1,2,Infinity]]}',
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
    assert read_number_lists(body, "data") is None


def test_lists_that_are_nested_too_deeply_are_left_to_it():
    body = b'{"data":[[[1]]]}'
    assert read_number_lists(body, "data", 3).shape == (1, 1, 1)
    assert read_number_lists(body, "data", 2) is None


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
