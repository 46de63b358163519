"""From nested JSON lists to a tensor, every number checked before a model sees it."""

from itertools import chain

import numpy as np

_JSON_NAMES = {bool: "a boolean", str: "a string", type(None): "null", dict: "an object", list: "a list"}


class InvalidTensor(ValueError):
    """A JSON value that is no tensor of the expected shape; the message names the field."""


def tensor_from_json(value, field, item_shape):
    """Return float32 (N, *item_shape) from one item or a list of N, each nested as `item_shape` or flat.

    Raises: InvalidTensor unless all are JSON numbers, finite as float32, in lists of the right lengths.
    """
    flat, shape = _flatten(value, field, len(item_shape) + 1)
    size = int(np.prod(item_shape))
    one_item = shape in (tuple(item_shape), (size,))
    many_items = shape[1:] in (tuple(item_shape), (size,))
    if not (one_item or many_items) or 0 in shape:
        expected = f"{size} numbers, {'x'.join(map(str, item_shape))}, or a list of such"
        raise InvalidTensor(f"{field!r} has shape {shape}; expected {expected}")
    with np.errstate(over="ignore"):
        tensor = np.array(flat, np.float32)
    if not np.isfinite(tensor).all():
        raise InvalidTensor(f"{field!r} has a number that is not finite as float32; expected at most 3.4e38 in size")
    return tensor.reshape(-1, *item_shape)


def _flatten(value, field, max_rank):
    """Return the numbers in nested lists of equal lengths as a flat list, and the shape."""
    if not isinstance(value, list):
        raise InvalidTensor(f"{field!r} is {_json_name(value)}; expected a list of numbers")
    flat, shape = value, (len(value),)
    while flat and isinstance(flat[0], list) and len(shape) < max_rank:
        length = len(flat[0])
        if not all(isinstance(row, list) and len(row) == length for row in flat):
            raise InvalidTensor(
                f"{field!r} has lists of different lengths at depth {len(shape)}; expected {length} each"
            )
        flat, shape = list(chain.from_iterable(flat)), (*shape, length)
    others = set(map(type, flat)) - {int, float}
    if others:
        names = " and ".join(sorted(_json_name(kind) for kind in others))
        raise InvalidTensor(f"{field!r} holds {names} at depth {len(shape)}; expected numbers")
    return flat, shape


def _json_name(value):
    kind = value if isinstance(value, type) else type(value)
    return _JSON_NAMES.get(kind, "a number")
