"""From nested JSON lists to a tensor, every element checked before a model sees it, and back."""

import base64
import binascii
import functools
import struct
from itertools import chain

import numpy as np

_JSON_NAMES = {bool: "a boolean", str: "a string", type(None): "null", dict: "an object", list: "a list"}
# What an element of a tensor may be in JSON, by the kind of the tensor's NumPy type; objects stand for strings.
_ELEMENTS = {
    "f": ({int, float}, "numbers"),
    "i": ({int}, "whole numbers"),
    "u": ({int}, "whole numbers"),
    "b": ({bool}, "booleans"),
    "O": ({str, dict}, "strings"),
}
_MAX_RANK = 32


class InvalidTensor(ValueError):
    """A JSON value that is no tensor of the expected shape; the message names the field."""


@functools.cache
def numpy_type(dtype):
    """Return the NumPy type of a tensor's dtype by name ("float32", "string"), None for one that JSON cannot hold."""
    if dtype == "string":
        return np.dtype(object)
    try:
        found = np.dtype(dtype)
    except TypeError:
        return None
    return found if found.kind in _ELEMENTS else None


def tensor_from_json(value, field, shape, dtype="float32"):
    """Return the array that a JSON value stands for, of a signature's `shape` (None where any size goes) and `dtype`.

    Where the first size is open, one item may stand for a list of one, and an item of fixed sizes may be flat.
    Raises: InvalidTensor unless all elements are of the right kind and range, in lists of the right lengths.
    """
    kind = numpy_type(dtype)
    flat, found = _flatten(value, field, _MAX_RANK if shape is None else len(shape), kind)
    target = _target_shape(found, shape, field)
    return _elements(flat, field, kind).reshape(target)


def _flatten(value, field, max_rank, kind):
    """Return the elements in nested lists of equal lengths as a flat list, and the shape."""
    allowed, expected = _ELEMENTS[kind.kind]
    if not isinstance(value, list):
        if type(value) in allowed and (max_rank <= 1 or max_rank == _MAX_RANK):
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
        names = " and ".join(sorted(_json_name(kind) for kind in others))
        raise InvalidTensor(f"{field!r} holds {names} at depth {len(shape)}; expected {expected}")
    return flat, shape


def _json_name(value):
    kind = value if isinstance(value, type) else type(value)
    return _JSON_NAMES.get(kind, "a number")


def _target_shape(found, shape, field):
    """Return the shape to give to the elements.

    Raises: InvalidTensor if what was found does not fit.
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
    """Return the shapes that are accepted, in words."""
    if shape is None:
        return "lists that are not empty"
    if shape[:1] != (None,):
        return _times(shape)
    item = shape[1:]
    if not item:
        return "one element or a list of such"
    flat = f"{int(np.prod(item))} numbers, " if None not in item and len(item) > 1 else ""
    return f"{flat}{_times(item)}, or a list of such"


def _times(shape):
    return "x".join("N" if size is None else str(size) for size in shape) or "one element"


def _elements(flat, field, kind):
    """Return a flat list as an array of a NumPy type."""
    if kind.kind == "O":
        # The extra element keeps NumPy from looking into the strings.
        return np.array([*(_bytes(element, field) for element in flat), None], object)[:-1]
    try:
        if kind.kind != "f":
            return np.array(flat, kind)
        # A third of the time that np.array takes; the letters of NumPy's types are those of struct.
        array = np.frombuffer(struct.pack(f"{len(flat)}{kind.char}", *flat), kind)
    except OverflowError as error:
        raise _out_of_range(field, kind) from error
    if not np.isfinite(array).all():
        raise _out_of_range(field, kind)
    return array


def _out_of_range(field, kind):
    if kind.kind != "f":
        limits = np.iinfo(kind)
        return InvalidTensor(f"{field!r} has a number that is no {kind.name}; expected {limits.min} to {limits.max}")
    largest = f"{float(np.finfo(kind).max):.2g}".replace("e+", "e")
    return InvalidTensor(
        f"{field!r} has a number that is not finite as {kind.name}; expected at most {largest} in size"
    )


def _bytes(element, field):
    """Return a string's bytes; those that are no text come as {"b64": ...}, as TensorFlow Serving has them."""
    if isinstance(element, str):
        return element.encode()
    try:
        if list(element) == ["b64"]:
            return base64.b64decode(element["b64"], validate=True)
    except (TypeError, ValueError, binascii.Error):
        pass
    raise InvalidTensor(f"{field!r} holds an object; expected strings, or {{'b64': base64}} for bytes that are no text")


def json_from_tensor(array):
    """Return an array as what orjson can write: strings as text, or {"b64": ...} where they are none."""
    if array.dtype.kind in "OS":
        return _texts(array.tolist())
    # orjson takes no arrays without dimensions.
    return np.ascontiguousarray(array) if array.ndim and array.dtype in _WRITTEN else array.tolist()


# The types that orjson writes itself.
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
