"""From nested JSON lists to a tensor, every element checked before a model sees it, and back."""

import base64
import functools
import struct
from itertools import chain

import numpy as np

from rnn_serving.array_batches import object_array
from rnn_serving.lenient_base64 import decode_base64

_JSON_NAMES = {bool: "a boolean", str: "a string", type(None): "null", dict: "an object", list: "a list"}
# The JSON types of a tensor's elements, by the kind of its NumPy type; objects stand for strings.
_ELEMENTS = {
    "f": ({int, float}, "numbers"),
    "i": ({int}, "whole numbers"),
    "u": ({int}, "whole numbers"),
    "b": ({bool}, "booleans"),
    "O": ({str, dict}, "strings"),
}
MAX_RANK = 32


class InvalidTensor(ValueError):
    """A JSON value that is not a tensor of the expected shape; the message names the field."""


@functools.cache
def numpy_type(dtype):
    """Return the NumPy type of a dtype by name ("float32", "string"), None if JSON cannot hold it."""
    if dtype == "string":
        return np.dtype(object)
    try:
        found = np.dtype(dtype)
    except TypeError:
        return None
    return found if found.kind in _ELEMENTS else None


def tensor_from_json(value, field, shape, dtype="float32"):
    """Return a JSON value as an array of a signature's `shape`, with None where any size is accepted, and `dtype`.

    If the first dimension is unknown, a single item is accepted as a batch of one; an item of known shape may be a flat
    list. For a float `dtype`, lists may have been read into an array already, of no higher rank than `shape`.
    Raises: InvalidTensor unless all elements are of the right kind and range, in lists of the right lengths.
    """
    kind = numpy_type(dtype)
    if isinstance(value, np.ndarray):
        flat, found = value.reshape(-1), value.shape
    else:
        flat, found = _flatten(value, field, MAX_RANK if shape is None else len(shape), kind)
    target = _target_shape(found, shape, field)
    return _elements(flat, field, kind).reshape(target)


def _flatten(value, field, max_rank, kind):
    """Return the elements in nested lists of equal lengths as a flat list, and the shape."""
    allowed, expected = _ELEMENTS[kind.kind]
    if not isinstance(value, list):
        if type(value) in allowed and (max_rank <= 1 or max_rank == MAX_RANK):
            return [value], ()
        raise InvalidTensor(f"{field!r} is {_json_name(value)}; expected a list of {expected}")
    flat, shape = value, (len(value),)
    while flat and isinstance(flat[0], list) and len(shape) < max_rank:
        length = len(flat[0])
        if {*map(type, flat)} != {list} or {*map(len, flat)} != {length}:
            raise InvalidTensor(
                f"{field!r} has lists of different lengths at depth {len(shape)}; expected {length} each"
            )
        flat, shape = list(chain.from_iterable(flat)), (*shape, length)
    types = [*map(type, flat)]
    if types.count(float) == len(flat) and float in allowed:
        return flat, shape
    others = set(types) - allowed
    if others:
        names = " and ".join(sorted(map(_json_name, others)))
        raise InvalidTensor(f"{field!r} holds {names} at depth {len(shape)}; expected {expected}")
    return flat, shape


def _json_name(value):
    kind = value if isinstance(value, type) else type(value)
    return _JSON_NAMES.get(kind, "a number")


def _target_shape(found, shape, field):
    """Return the shape of the tensor.

    Raises: InvalidTensor if the shape that was found does not fit.
    """
    if 0 not in found:
        if shape is None or _fits(found, shape):
            return found
        if shape[:1] == (None,):
            item = shape[1:]
            if _fits(found, item):
                return (1, *found)
            if None not in item and found[-1:] == (int(np.prod(item)),) and len(found) <= 2:
                return (-1, *item)
    raise InvalidTensor(f"{field!r} has shape {found}; expected {_expected(shape)}")


def _fits(found, shape):
    return len(found) == len(shape) and all(size in (None, length) for size, length in zip(shape, found))


def _expected(shape):
    """Describe the shapes that are accepted."""
    if shape is None:
        return "lists that are not empty"
    if shape[:1] != (None,):
        return _shape_text(shape)
    item = shape[1:]
    if not item:
        return "one element or a list of them"
    flat = f"{int(np.prod(item))} numbers, " if None not in item and len(item) > 1 else ""
    return f"{flat}{_shape_text(item)}, or a list of them"


def _shape_text(shape):
    return "x".join("N" if size is None else str(size) for size in shape) or "one element"


def _elements(flat, field, kind):
    """Return a flat list as an array of a NumPy type."""
    if kind.kind == "O":
        return object_array(_bytes(element, field) for element in flat)
    try:
        if kind.kind != "f":
            return np.array(flat, kind)
        if isinstance(flat, np.ndarray):
            with np.errstate(over="ignore"):
                array = flat.astype(kind)
        else:
            # A third of the time that np.array takes; the letters of NumPy's types are those of struct.
            array = np.frombuffer(struct.pack(f"{len(flat)}{kind.char}", *flat), kind)
    except (OverflowError, struct.error) as error:  # the latter for an integer that is too large
        raise _out_of_range(field, kind) from error
    if not np.isfinite(array).all():
        raise _out_of_range(field, kind)
    return array


def _out_of_range(field, kind):
    if kind.kind != "f":
        limits = np.iinfo(kind)
        return InvalidTensor(f"{field!r} has a number outside {kind.name}; expected {limits.min} to {limits.max}")
    largest = f"{float(np.finfo(kind).max):.2g}".replace("e+", "e")
    return InvalidTensor(
        f"{field!r} has a number that is not finite as {kind.name}; expected at most {largest} in size"
    )


def _bytes(element, field):
    """Return a string's bytes; bytes that are not UTF-8 arrive as {"b64": ...}, as in TensorFlow Serving."""
    if isinstance(element, str):
        return element.encode()
    if list(element) != ["b64"] or not isinstance(element["b64"], str):
        raise InvalidTensor(f"{field!r} holds an object; expected strings, or {{'b64': base64}} for non-text bytes")
    try:
        return decode_base64(element["b64"])
    except ValueError as error:
        raise InvalidTensor(f"{field!r} holds {{'b64': ...}} that is not base64 ({error})") from error


def json_from_tensor(array):
    """Return an array in a form that orjson writes: strings as text, or as {"b64": ...} if they are not UTF-8."""
    if array.dtype.kind in "OS":
        return _texts(array.tolist())
    # orjson does not write arrays without dimensions.
    return np.ascontiguousarray(array) if array.ndim and array.dtype in _WRITTEN else array.tolist()


# The types that orjson writes.
_WRITTEN = {np.dtype(name) for name in ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "bool")} | {
    np.dtype(name) for name in ("uint64", "uint32", "uint16", "uint8")
}


def _texts(value):
    if isinstance(value, list):
        return [_texts(element) for element in value]
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}
