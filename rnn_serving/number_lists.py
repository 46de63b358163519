"""Read nested lists of numbers from JSON into an array, without a Python object for each number.

simdjson parses numbers into one buffer, whatever their nesting. The nesting is checked on the text: without the
characters of numbers, regular lists leave a pattern of brackets and commas that their shape determines.
"""

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


def read_number_lists(body, key, max_rank=32):
    """Return the lists of numbers under the only key of a JSON object as an array, float64, of their shape.

    Returns None for all that is not plainly that, as `split_number_lists` does.
    """
    found = split_number_lists(body, max_rank)
    if found and re.fullmatch(_HEAD % key.encode(), found[0]) and found[2].strip(_SPACE) == b"}":
        return found[1]
    return None


def split_number_lists(body, max_rank=32):
    """Return what precedes the lists of numbers in a JSON text, the lists as an array, float64, and what follows them.

    Returns None for all that is not plainly that: lists that are ragged, empty or nested deeper than `max_rank`, other
    values, a second list elsewhere, numbers beyond float64 or 64 bits. Only a complete parser can tell what is wrong.
    """
    start, end = body.find(b"["), body.rfind(b"]") + 1
    lists = body[start:end]
    shape = _regular_shape(lists.translate(None, _NUMBERS), max_rank)
    if not shape:
        return None
    try:
        numbers = np.frombuffer(_parser().parse(lists).as_buffer(of_type="d"))
    except (RuntimeError, TypeError, ValueError):
        return None
    return (body[:start], numbers.reshape(shape), body[end:]) if numbers.size == math.prod(shape) else None


def _parser():
    if not hasattr(_local, "parser"):
        _local.parser = simdjson.Parser()
    return _local.parser


def _regular_shape(pattern, max_rank):
    """Return the shape of regular lists with this pattern of brackets and commas, () if it is another one."""
    rank = len(pattern) - len(pattern.lstrip(b"["))
    shape, item = (), b""
    for depth in range(1, min(rank, max_rank) + 1):
        # The first list that contains `depth` levels of lists; where it ends, as many brackets are closed.
        size = pattern.find(b"]" * depth) + depth - (rank - depth)
        count = (size - 1) // (len(item) + 1)
        item, shape = b"[" + b",".join([item] * count) + b"]", (count, *shape)
    return shape if item == pattern else ()
