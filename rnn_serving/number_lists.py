"""Read nested lists of numbers from JSON into an array, without a Python object for each number.

simdjson parses numbers into one buffer, whatever their nesting. The nesting is checked on the text: without the
characters of numbers, regular lists leave a pattern of brackets and commas that the shape determines.
"""

import functools
import math
import re
import threading

import numpy as np
import simdjson

_SPACE = b" \t\r\n"
# The characters of numbers; letters of anything else are never these alone.
_NUMBERS = b"0123456789+-.eE" + _SPACE
_HEAD = rb'[ \t\r\n]*\{[ \t\r\n]*"%b"[ \t\r\n]*:[ \t\r\n]*'
# One parser for each thread, which keeps its memory from call to call.
_local = threading.local()


def read_number_lists(body, key, shape, dtype):
    """Return the numbers under the only key of a JSON object as an array of a float dtype.

    `shape` is a signature's, (None, *item_shape): the lists hold one item or N, each nested like an item or flat.
    Returns None for all that is not plainly that: other shapes and dtypes, ragged lists, other values, more keys,
    numbers that are too large, or text that is not JSON: only a complete parser can tell what is wrong.
    """
    if not shape or shape[0] is not None or None in shape[1:] or dtype.kind != "f":
        return None
    start, end = body.find(b"["), body.rfind(b"]") + 1
    if not re.fullmatch(_HEAD % key.encode(), body[:start]) or body[end:].strip(_SPACE) != b"}":
        return None
    lists, item_shape = body[start:end], tuple(shape[1:])
    count = _count_items(lists.translate(None, _NUMBERS), item_shape)
    if not count:
        return None
    try:
        numbers = np.frombuffer(_parser().parse(lists).as_buffer(of_type="d"))
    except (RuntimeError, TypeError, ValueError):
        return None
    if numbers.size != count * math.prod(item_shape):
        return None
    with np.errstate(over="ignore"):
        array = numbers.astype(dtype)
    return array.reshape(count, *item_shape) if np.isfinite(array).all() else None


def _parser():
    if not hasattr(_local, "parser"):
        _local.parser = simdjson.Parser()
    return _local.parser


def _count_items(pattern, item_shape):
    """Return how many items have this pattern of brackets and commas, 0 if it is another one."""
    for item in _item_patterns(item_shape):
        if item and pattern == item:
            return 1
        count = (len(pattern) - 1) // (len(item) + 1)
        if count and pattern == b"[" + b",".join([item] * count) + b"]":
            return count
    return 0


@functools.lru_cache(maxsize=64)
def _item_patterns(item_shape):
    """Return the patterns of a nested item and of a flat one."""
    nested = b""
    for size in reversed(item_shape):
        nested = b"[" + b",".join([nested] * size) + b"]"
    flat = b"[" + b"," * (math.prod(item_shape) - 1) + b"]"
    return (nested, flat) if item_shape else (nested,)
