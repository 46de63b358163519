"""From TensorProto to NumPy and back, as TensorFlow's C++ decodes and TensorFlow Serving encodes."""

import math

import numpy as np

from rnn_serving.model_server.errors import invalid_argument
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.framework import tensor_pb2, types_pb2

# Field of TensorProto, and the type of its elements, where that differs from the tensor's: {dtype: (field, element)}.
_FIELDS = {
    types_pb2.DT_FLOAT: "float_val",
    types_pb2.DT_DOUBLE: "double_val",
    types_pb2.DT_INT8: "int_val",
    types_pb2.DT_INT16: "int_val",
    types_pb2.DT_INT32: "int_val",
    types_pb2.DT_UINT8: "int_val",
    types_pb2.DT_UINT16: "int_val",
    types_pb2.DT_INT64: "int64_val",
    types_pb2.DT_UINT32: "uint32_val",
    types_pb2.DT_UINT64: "uint64_val",
    types_pb2.DT_BOOL: "bool_val",
    types_pb2.DT_STRING: "string_val",
    types_pb2.DT_HALF: "half_val",
    types_pb2.DT_BFLOAT16: "half_val",
    types_pb2.DT_COMPLEX64: "scomplex_val",
    types_pb2.DT_COMPLEX128: "dcomplex_val",
}
# A shape can ask for any amount of memory with one value, which is repeated.
MAX_TENSOR_BYTES = 2**31 - 1
# Of these, as many values as the shape asks for are the tensor; for the rest C++ has rules of its own.
_PLAIN = {types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE, types_pb2.DT_INT32, types_pb2.DT_INT64, types_pb2.DT_BOOL}
_NUMPY_TYPES = {dtype: tf.as_dtype(dtype).as_numpy_dtype for dtype in _FIELDS}

# The wire type of a packed field, by field number: what precedes its length (protobuf's encoding, wire type 2).
_PACKED_TAGS = {types_pb2.DT_FLOAT: bytes([5 << 3 | 2]), types_pb2.DT_DOUBLE: bytes([6 << 3 | 2])}


def decode(alias, tensor):
    """Return the array that a TensorProto stands for; `alias` is the input's name in the request.

    Raises: ServingError `tensor parsing error` where C++ refuses it.
    """
    try:
        check_size(tensor)
        array = _decode_plain(tensor)
        if array is not None:
            return array
        # Values are repeated, cut or wrapped around exactly as C++ does, because it is C++ that does it.
        return tf.io.parse_tensor(tensor.SerializeToString(), tf.as_dtype(tensor.dtype)).numpy()
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise invalid_argument(f"tensor parsing error: {alias}") from error


def check_size(tensor):
    """Raise ValueError for a tensor that NumPy or this machine cannot hold, however few its values are on the wire."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if len(shape) > max_rank(tensor.dtype == types_pb2.DT_STRING):
        raise ValueError(f"rank {len(shape)}")
    itemsize = np.dtype(_NUMPY_TYPES.get(tensor.dtype, np.uint8)).itemsize
    if shape and min(shape) >= 0 and math.prod(shape) * itemsize > MAX_TENSOR_BYTES:
        raise ValueError(f"{math.prod(shape)} elements")


def max_rank(is_string):
    """Return how many dimensions an array may have: NumPy's limit, and for strings that of TensorFlow's conversion."""
    return 32 if is_string else 64


def _decode_plain(tensor):
    """Return the array if every element is there exactly once, as all ordinary clients send it, else None."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or tensor.dtype not in _NUMPY_TYPES or (shape and min(shape) < 0):
        return None
    numpy_type, size = _NUMPY_TYPES[tensor.dtype], math.prod(shape)
    if tensor.dtype == types_pb2.DT_STRING:
        if tensor.tensor_content or len(tensor.string_val) != size:
            return None
        return np.array([*tensor.string_val, None], object)[:-1].reshape(shape)
    if tensor.tensor_content:
        if len(tensor.tensor_content) != size * np.dtype(numpy_type).itemsize:
            return None
        return np.frombuffer(tensor.tensor_content, numpy_type).reshape(shape)
    if tensor.dtype in _PLAIN and len(values := getattr(tensor, _FIELDS[tensor.dtype])) == size:
        return np.array(values, numpy_type).reshape(shape)
    return None


def encode(array):
    """Return an array as a TensorProto with every element in the typed field, never in `tensor_content`.

    Clients read `.float_val` of TensorFlow Serving's answers (Tensor::AsProtoField).
    """
    dtype = tf.as_dtype(array.dtype).as_datatype_enum
    tensor = tensor_pb2.TensorProto(dtype=dtype)
    _set_shape(tensor, array.shape)
    if dtype in _PACKED_TAGS:
        # The field's bytes on the wire are the array's: merged at once instead of number by number.
        content = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        tensor.MergeFromString(_PACKED_TAGS[dtype] + _varint(len(content)) + content)
    else:
        getattr(tensor, _FIELDS[dtype]).extend(_elements(array, dtype))
    return tensor


def encode_as_content(array):
    """Return an array as a TensorProto whose elements are in `tensor_content`, as the flag of that name asks."""
    array = np.asarray(array)
    tensor = tensor_pb2.TensorProto(dtype=tf.as_dtype(array.dtype).as_datatype_enum)
    _set_shape(tensor, array.shape)
    if array.dtype.kind != "O":
        tensor.tensor_content = array.tobytes()
        return tensor
    # C++ writes strings as all lengths, then all bytes.
    values = [value if isinstance(value, bytes) else str(value).encode() for value in np.ravel(array)]
    tensor.tensor_content = b"".join([*(_varint(len(value)) for value in values), *values])
    return tensor


def _set_shape(tensor, shape):
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)


def dtype_name(array):
    """Return the name of an array's type as protobuf has it, `DT_FLOAT`."""
    return types_pb2.DataType.Name(tf.as_dtype(array.dtype).as_datatype_enum)


def _elements(array, dtype):
    """Return the elements as the typed field holds them."""
    flat = np.ravel(array)
    if dtype == types_pb2.DT_STRING:
        return [value if isinstance(value, bytes) else str(value).encode() for value in flat]
    if dtype in (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16):
        return flat.view(np.uint16).tolist()
    if dtype in (types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128):
        return flat.view(flat.real.dtype).tolist()
    return flat.tolist()


def _varint(number):
    """Encode a length as protobuf does: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
