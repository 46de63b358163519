"""JSON as RapidJSON reads and writes it, in TensorFlow Serving's settings: grammar, error messages and layout.

Strings are decoded with `surrogateescape`, so that bytes other than UTF-8 come back unchanged.
"""

import codecs
import json
import math
import re

import numpy as np

from rnn_serving.model_server import rapidjson_parser
from rnn_serving.model_server.errors import invalid_argument
from rnn_serving.model_server.rapidjson_parser import ParseError, members, parse_float, parse_int, skip_space, to_object

ENCODING = ("utf-8", "surrogateescape")
_DECODER = json.JSONDecoder(object_pairs_hook=to_object, parse_float=parse_float, parse_int=parse_int)


def parse(body):
    """Return the JSON object in the body of a request, as a dict.

    NaN and infinities are accepted, text after the object is ignored, and of a repeated key the first one counts.
    Raises: ServingError INVALID_ARGUMENT `JSON Parse error: ...`, or `... Is not object`.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    text = body.decode(*ENCODING).removeprefix("\ufeff")
    try:
        value = _parse_fast(text)
    except (ValueError, RecursionError):
        # Python's parser is fast, and reads the same from a valid document; this one has RapidJSON's error messages.
        value = _parse_exactly(text)
    if not isinstance(value, dict):
        raise invalid_argument(f"JSON Value: {quote(value)} Is not object")
    return value


def _parse_fast(text):
    if "\\ud" in text or "\\uD" in text:
        raise ValueError("only the exact parser checks surrogates")
    return _DECODER.raw_decode(text, skip_space(text))[0]


def _parse_exactly(text):
    try:
        return rapidjson_parser.parse(text)
    except ParseError as error:
        offset = len(text[: error.offset].encode(*ENCODING))
        raise invalid_argument(f"JSON Parse error: {error.reason} at offset: {offset}") from error


# The C++ server quotes this much of an object or a list.
MAX_QUOTED_BYTES = 256


def quote(value):
    """Return a value as the C++ server quotes it in errors: objects over several lines, lists on one, both cut."""
    if not isinstance(value, (dict, list)):
        return _write_value(value)
    pieces, size = [], 0
    for piece in _pieces(value, level=0):
        # A piece may be megabytes long, and only its beginning is needed.
        pieces.append(piece[:MAX_QUOTED_BYTES].encode(*ENCODING))
        size += len(pieces[-1])
        if size >= MAX_QUOTED_BYTES:
            break
    # Incremental, so that a character that the cut splits is left out.
    return codecs.getincrementaldecoder(ENCODING[0])(ENCODING[1]).decode(b"".join(pieces)[:MAX_QUOTED_BYTES])


def _pieces(value, level):
    """Yield the text of a value piece by piece."""
    if isinstance(value, dict):
        indent, end = "\n" + "    " * (level + 1), "\n" + "    " * level
        for index, (name, inner) in enumerate(members(value)):
            yield f"{',' if index else '{'}{indent}{write_string(name[:MAX_QUOTED_BYTES])}: "
            yield from _pieces(inner, level + 1)
        yield end + "}" if value else "{}"
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield ", " if index else "["
            yield from _pieces(inner, level + 1)
        yield "]" if value else "[]"
    else:
        yield _write_value(value[:MAX_QUOTED_BYTES] if isinstance(value, str) else value)


def _write_value(value):
    if isinstance(value, str):
        return write_string(value)
    if isinstance(value, float):
        return write_decimal(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


_SPECIAL = re.compile(r'["\\\x00-\x1f]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write_string(text):
    """Return a string in quotes, with only the escapes that JSON requires."""
    return '"' + _SPECIAL.sub(lambda match: _SHORT.get(match[0], f"\\u{ord(match[0]):04X}"), text) + '"'


def write_decimal(value, to_type=float, digits=17):
    """Return a number with six digits if they are exact for `to_type`, else with `digits`; always with `.` or `e`."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = format(value, ".6g")
    if to_type(text) != value:
        text = format(value, f".{digits}g")
    return text if "." in text or "e" in text else text + ".0"


def write_decimals(array):
    """Return `write_decimal` of each number in a flat array, float32 or float64, in a few passes over all of them."""
    to_type, digits = (np.float32, 9) if array.dtype == np.float32 else (float, 17)
    values = array.tolist()
    if not np.isfinite(array).all():
        return [write_decimal(value, to_type, digits) for value in values]
    texts = [format(value, ".6g") for value in values]
    with np.errstate(over="ignore"):  # six digits of the largest number may be more than that
        is_exact = (np.array([*map(float, texts)], float).astype(array.dtype) == array).tolist()
    texts = [text if exact else f"{value:.{digits}g}" for text, exact, value in zip(texts, is_exact, values)]
    return [text if "." in text or "e" in text else text + ".0" for text in texts]
