import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.tensors import decode, encode
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto

DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"]


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0))))
def test_encode_uses_the_typed_field_and_decode_restores_the_array(array):
    tensor = encode(array)
    assert not tensor.tensor_content
    np.testing.assert_array_equal(decode("x", tensor), array)
    np.testing.assert_array_equal(tf.make_ndarray(tensor), array)


@given(st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_side=0))))
def test_decode_restores_what_tensorflow_encodes(array):
    np.testing.assert_array_equal(decode("x", tf.make_tensor_proto(array)), array)


def test_strings_stay_bytes():
    array = np.array([[b"a", b"\xff"], [b"", b"long"]], object)
    for tensor in (encode(array), tf.make_tensor_proto(array)):
        np.testing.assert_array_equal(decode("x", tensor), array)
    assert encode(np.array(["é"], object)).string_val == ["é".encode()]


def test_a_float_answer_can_be_read_from_float_val():
    assert list(encode(np.float32([[1, 2], [3, 4]])).float_val) == [1, 2, 3, 4]


def proto(dtype, shape, **fields):
    dims = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in shape])
    return tensor_pb2.TensorProto(dtype=dtype, tensor_shape=dims, **fields)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (proto(types_pb2.DT_FLOAT, [4], float_val=[1, 2]), [1, 2, 2, 2]),
        (proto(types_pb2.DT_FLOAT, [2]), [0, 0]),
        (proto(types_pb2.DT_FLOAT, [2], float_val=[1, 2, 3]), [1, 2]),
        (tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[7, 8]), 7),
        (proto(types_pb2.DT_INT8, [1], int_val=[300]), [44]),
        (proto(types_pb2.DT_STRING, [2]), [b"", b""]),
        (proto(types_pb2.DT_FLOAT, [2], int_val=[1, 2]), [0, 0]),
    ],
)
def test_unusual_tensors_decode_as_in_cpp(tensor, expected):
    np.testing.assert_array_equal(decode("x", tensor), np.array(expected, tf.as_dtype(tensor.dtype).as_numpy_dtype))


@pytest.mark.parametrize(
    "tensor",
    [
        proto(types_pb2.DT_FLOAT, [2], tensor_content=b"123"),
        proto(types_pb2.DT_FLOAT, [-1], float_val=[1]),
        proto(types_pb2.DT_INVALID, [1], float_val=[1]),
        proto(999, [1], float_val=[1]),
        proto(types_pb2.DT_FLOAT, [2**40, 2**40]),
    ],
)
def test_a_tensor_that_cpp_rejects_is_a_parsing_error_with_the_alias(tensor):
    with pytest.raises(ServingError) as error:
        decode("x", tensor)
    assert str(error.value) == "INVALID_ARGUMENT: tensor parsing error: x"


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float8_e4m3fn", "int4", "uint4"])
def test_a_dtype_without_a_typed_field_is_encoded_as_content(dtype):
    array = np.ones((2,), tf.as_dtype(dtype).as_numpy_dtype)
    tensor = encode(array)
    assert tensor.dtype == tf.as_dtype(dtype).as_datatype_enum
    np.testing.assert_array_equal(tf.make_ndarray(tensor), array)


def test_an_output_without_a_value_is_an_error():
    with pytest.raises(ServingError, match="INVALID_ARGUMENT: Outputs of type .*resource.* have no values"):
        encode(np.zeros((), np.dtype([("resource", "u1", (1,))])))
