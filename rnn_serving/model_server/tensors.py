"""Decode TensorProtos as TensorFlow's C++ does, and encode arrays as TensorFlow Serving does."""

import math

import numpy as np

from rnn_serving.array_batches import object_array
from rnn_serving.model_server.errors import invalid_argument
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.framework import tensor_pb2, types_pb2

# The field of a TensorProto that holds the elements of each dtype.
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
# One value is repeated to fill the shape, so a small message can ask for any amount of memory.
MAX_TENSOR_BYTES, MAX_REPEATED_BYTES = 2**31 - 1, 256 * 2**20
# A string takes a pointer in NumPy and this much in TensorFlow, however short it is.
_STRING_BYTES = 32
# For these dtypes, one value per element is the tensor itself; the others have conversion rules in C++.
_PLAIN = {types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE, types_pb2.DT_INT32, types_pb2.DT_INT64, types_pb2.DT_BOOL}
_NUMPY_TYPES = {dtype: tf.as_dtype(dtype).as_numpy_dtype for dtype in _FIELDS}

# The tag that precedes a packed field's length on the wire: field number and wire type 2.
_PACKED_TAGS = {types_pb2.DT_FLOAT: bytes([5 << 3 | 2]), types_pb2.DT_DOUBLE: bytes([6 << 3 | 2])}


def decode(alias, tensor):
    """Return the array in a TensorProto; `alias` is the input's name in the request.

    Raises: ServingError `tensor parsing error` if the C++ server would reject it.
    """
    try:
        check_size(tensor)
        array = _decode_plain(tensor)
        if array is not None:
            return array
        if claimed_bytes(tensor) > MAX_REPEATED_BYTES:
            raise ValueError(f"{claimed_bytes(tensor)} bytes")
        # TensorFlow's own C++ repeats, drops and wraps around values, so these match the C++ server.
        return tf.io.parse_tensor(tensor.SerializeToString(), tf.as_dtype(tensor.dtype)).numpy()
    except (tf.errors.OpError, TypeError, ValueError) as error:
        raise invalid_argument(f"tensor parsing error: {alias}") from error


def check_size(tensor):
    """Raise ValueError for a tensor whose shape is too large for NumPy or for memory, however small its message is."""
    rank = len(tensor.tensor_shape.dim)
    if rank > max_rank(tensor.dtype == types_pb2.DT_STRING):
        raise ValueError(f"rank {rank}")
    if claimed_bytes(tensor) > MAX_TENSOR_BYTES:
        raise ValueError(f"{claimed_bytes(tensor)} bytes")


def claimed_bytes(tensor):
    """Return the size that a TensorProto has in memory by its shape and dtype, 0 if it is a scalar or not valid."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if not shape or min(shape) < 0:
        return 0
    is_string = tensor.dtype == types_pb2.DT_STRING
    itemsize = _STRING_BYTES if is_string else np.dtype(_NUMPY_TYPES.get(tensor.dtype, np.uint8)).itemsize
    return math.prod(shape) * itemsize


def max_rank(is_string):
    """Return the highest rank of an array: NumPy's limit, or for strings that of TensorFlow's conversion."""
    return 32 if is_string else 64


def _decode_plain(tensor):
    """Return the array if the message has one value per element, as ordinary clients send it, else None."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or tensor.dtype not in _NUMPY_TYPES or (shape and min(shape) < 0):
        return None
    numpy_type, size = _NUMPY_TYPES[tensor.dtype], math.prod(shape)
    if tensor.dtype == types_pb2.DT_STRING:
        if tensor.tensor_content or len(tensor.string_val) != size:
            return None
        return object_array(tensor.string_val).reshape(shape)
    if tensor.tensor_content:
        if len(tensor.tensor_content) != size * np.dtype(numpy_type).itemsize:
            return None
        return np.frombuffer(tensor.tensor_content, numpy_type).reshape(shape)
    if tensor.dtype in _PLAIN and len(values := getattr(tensor, _FIELDS[tensor.dtype])) == size:
        return np.array(values, numpy_type).reshape(shape)
    return None


def encode(array):
    """Return an array as a TensorProto with its elements in the typed field, never in `tensor_content`.

    TensorFlow Serving answers this way (Tensor::AsProtoField), and clients read `.float_val`.
    """
    dtype = tf_dtype(array).as_datatype_enum
    if dtype not in _FIELDS:  # float8 and int4, which have no typed field or a new one
        return encode_as_content(array)
    tensor = tensor_pb2.TensorProto(dtype=dtype)
    _set_shape(tensor, array.shape)
    if dtype in _PACKED_TAGS:
        # On the wire a packed field is the array's bytes, so one merge replaces a loop over the elements.
        content = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        tensor.MergeFromString(_PACKED_TAGS[dtype] + _varint(len(content)) + content)
    else:
        getattr(tensor, _FIELDS[dtype]).extend(_elements(array, dtype))
    return tensor


def encode_as_content(array):
    """Return an array as a TensorProto with its elements in `tensor_content`."""
    array = np.asarray(array)
    tensor = tensor_pb2.TensorProto(dtype=tf_dtype(array).as_datatype_enum)
    _set_shape(tensor, array.shape)
    if array.dtype.kind != "O":
        tensor.tensor_content = array.tobytes()
        return tensor
    # C++ writes all lengths of strings, then all their bytes.
    values = [value if isinstance(value, bytes) else str(value).encode() for value in np.ravel(array)]
    tensor.tensor_content = b"".join([*(_varint(len(value)) for value in values), *values])
    return tensor


def _set_shape(tensor, shape):
    tensor.tensor_shape.SetInParent()
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)


def tf_dtype(array):
    """Return the TensorFlow dtype of an output.

    Raises: ServingError INVALID_ARGUMENT for a handle of a resource, which is no value.
    """
    try:
        return tf.as_dtype(array.dtype)
    except TypeError as error:
        raise invalid_argument(f"Outputs of type {array.dtype} have no values to answer with") from error


def dtype_name(array):
    """Return the protobuf name of an array's dtype, such as `DT_FLOAT`."""
    return types_pb2.DataType.Name(tf_dtype(array).as_datatype_enum)


def _elements(array, dtype):
    """Return the elements of an array as the typed field holds them."""
    flat = np.ravel(array)
    if dtype == types_pb2.DT_STRING:
        return [value if isinstance(value, bytes) else str(value).encode() for value in flat]
    if dtype in (types_pb2.DT_HALF, types_pb2.DT_BFLOAT16):
        return flat.view(np.uint16).tolist()
    if dtype in (types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128):
        return flat.view(flat.real.dtype).tolist()
    return flat.tolist()


def _varint(number):
    """Return a length as a protobuf varint: seven bits per byte, the lowest first."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
