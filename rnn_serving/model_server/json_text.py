"""JSON as RapidJSON reads and writes it, in TensorFlow Serving's settings: its grammar, its error words, its layout.

Strings are Python's with `surrogateescape`, so that bytes which are no UTF-8 come back as they were.
"""

import json
import math
import re

from rnn_serving.model_server.errors import invalid_argument

ENCODING = ("utf-8", "surrogateescape")
_UINT64_MAX, _INT64_MIN = 2**64 - 1, -(2**63)
_SMALLEST_NORMAL = 2.2250738585072014e-308
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")
_HEX4 = re.compile(r"[0-9A-Fa-f]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
# Nested lists take a Python frame each; deeper ones are an error, not a crash.
_MAX_DEPTH = 200


class _ParseError(Exception):
    def __init__(self, reason, offset):
        super().__init__(reason)
        self.reason, self.offset = reason, offset


def parse(body):
    """Return the object that a request's bytes hold: dict, list, str, int, float, bool, None.

    NaN and infinities are accepted, text after the object is ignored, and of a repeated key the first one counts.
    Raises: ServingError INVALID_ARGUMENT `JSON Parse error: ...`, or if it is no object.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    text = body.decode(*ENCODING).removeprefix("\ufeff")
    try:
        value = _quick(text)
    except (ValueError, RecursionError, _ParseError):
        # Python's own parser is fast and takes the same documents; this one knows RapidJSON's words for the others.
        value = _exact(text)
    if not isinstance(value, dict):
        raise invalid_argument(f"JSON Value: {write(value)} Is not object")
    return value


def _first_wins(pairs):
    return dict(reversed(pairs)) if len({key for key, _ in pairs}) < len(pairs) else dict(pairs)


def _to_float(text):
    """Return a double, with what is too small for a normal one as 0, as the C++ server's threads compute."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("too big")
    return value if abs(value) >= _SMALLEST_NORMAL else math.copysign(0.0, value)


def _to_int(text):
    """Return an int of 64 bits, a double where it needs more."""
    value = int(text) if len(text) < 22 else None
    return value if value is not None and _INT64_MIN <= value <= _UINT64_MAX else _to_float(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_first_wins, parse_float=_to_float, parse_int=_to_int)


def _quick(text):
    if "\\ud" in text or "\\uD" in text:
        raise ValueError("surrogates are for the exact parser")
    return _DECODER.raw_decode(text, _SPACE.match(text).end())[0]


def _exact(text):
    try:
        parser = _Parser(text)
        parser.skip_space()
        if parser.at == len(text):
            raise _ParseError("The document is empty.", parser.at)
        return parser.value(0)
    except _ParseError as error:
        offset = len(text[: error.offset].encode(*ENCODING))
        raise invalid_argument(f"JSON Parse error: {error.reason} at offset: {offset}") from error


class _Parser:
    """RapidJSON's grammar (reader.h), with where it stops and what it says."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def peek(self):
        return self.text[self.at] if self.at < len(self.text) else "\0"

    def skip_space(self):
        self.at = _SPACE.match(self.text, self.at).end()

    def take(self, expected):
        """Step over a character if it is there, and tell whether it was."""
        found = self.peek() == expected
        self.at += found
        return found

    def fail(self, reason, offset=None):
        raise _ParseError(reason, self.at if offset is None else offset)

    def value(self, depth):
        if depth > _MAX_DEPTH:
            self.fail("Terminate parsing due to Handler error.")
        start = self.peek()
        if start == "{":
            return self.object(depth)
        if start == "[":
            return self.array(depth)
        if start == '"':
            return self.string()
        for word, value in (("null", None), ("true", True), ("false", False)):
            if start == word[0]:
                return self.word(word, value)
        return self.number()

    def word(self, word, value):
        for character in word:
            if not self.take(character):
                self.fail("Invalid value.")
        return value

    def object(self, depth):
        pairs = []
        self.take("{")
        self.skip_space()
        if self.take("}"):
            return {}
        while True:
            if self.peek() != '"':
                self.fail("Missing a name for object member.")
            name = self.string()
            self.skip_space()
            if not self.take(":"):
                self.fail("Missing a colon after a name of object member.")
            self.skip_space()
            pairs.append((name, self.value(depth + 1)))
            self.skip_space()
            if self.take("}"):
                return _first_wins(pairs)
            if not self.take(","):
                self.fail("Missing a comma or '}' after an object member.")
            self.skip_space()

    def array(self, depth):
        values = []
        self.take("[")
        self.skip_space()
        if self.take("]"):
            return values
        while True:
            values.append(self.value(depth + 1))
            self.skip_space()
            if self.take("]"):
                return values
            if not self.take(","):
                self.fail("Missing a comma or ']' after an array element.")
            self.skip_space()

    def string(self):
        self.take('"')
        parts = []
        while True:
            character = self.peek()
            if character == "\\":
                parts.append(self.escape())
            elif self.take('"'):
                return "".join(parts)
            elif character == "\0":
                self.fail("Missing a closing quotation mark in string.")
            elif character < " ":
                self.fail("Invalid encoding in string.")
            else:
                parts.append(character)
                self.at += 1

    def escape(self):
        start = self.at
        self.at += 1
        kind = self.peek()
        if kind in _ESCAPES:
            self.at += 1
            return _ESCAPES[kind]
        if not self.take("u"):
            self.fail("Invalid escape character in string.", start)
        code = self.hex4(start)
        if 0xD800 <= code <= 0xDFFF:
            if code > 0xDBFF or not (self.take("\\") and self.take("u")):
                self.fail("The surrogate pair in string is invalid.", start)
            low = self.hex4(start)
            if not 0xDC00 <= low <= 0xDFFF:
                self.fail("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        return chr(code)

    def hex4(self, start):
        match = _HEX4.match(self.text, self.at)
        if not match:
            self.fail("Incorrect hex digit after \\u escape in string.", start)
        self.at = match.end()
        return int(match[0], 16)

    def number(self):
        start = self.at
        match = _NUMBER.match(self.text, start)
        if not match:
            return self.named_number()
        self.at = match.end()
        is_double = False
        if self.take("."):
            is_double = True
            self.digits("Miss fraction part in number.")
        if self.take("e") or self.take("E"):
            is_double = True
            _ = self.take("+") or self.take("-")
            self.digits("Miss exponent in number.")
        try:
            return (_to_float if is_double else _to_int)(self.text[start : self.at])
        except ValueError:
            self.fail("Number too big to be stored in double.", start)

    def digits(self, missing):
        match = re.compile("[0-9]+").match(self.text, self.at)
        if not match:
            self.fail(missing)
        self.at = match.end()

    def named_number(self):
        sign = -1.0 if self.take("-") else 1.0
        if self.take("N"):
            return self.word("aN", sign * math.nan)
        if not self.take("I"):
            self.fail("Invalid value.")
        self.word("nf", None)
        if self.peek() == "i":
            self.word("inity", None)
        return sign * math.inf


def write(value, level=0):
    """Return a value as the server quotes it in errors: objects over several lines, lists on one."""
    if isinstance(value, dict):
        if not value:
            return "{}"
        indent = "    " * (level + 1)
        members = (f"{indent}{write_string(key)}: {write(inner, level + 1)}" for key, inner in value.items())
        return "{\n" + ",\n".join(members) + "\n" + "    " * level + "}"
    if isinstance(value, list):
        return "[" + ", ".join(write(inner, level + 1) for inner in value) + "]"
    if isinstance(value, str):
        return write_string(value)
    if isinstance(value, float):
        return write_decimal(value)
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


_SPECIAL = re.compile(r'["\\\x00-\x1f]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write_string(text):
    """Return a string in quotes; only what must be escaped is."""
    return '"' + _SPECIAL.sub(lambda match: _SHORT.get(match[0], f"\\u{ord(match[0]):04X}"), text) + '"'


def write_decimal(value, to_type=float, digits=17):
    """Return a number with six digits if they are the whole number, else with `digits`, and always as a decimal."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    text = format(value, ".6g")
    if to_type(text) != value:
        text = format(value, f".{digits}g")
    return text if "." in text or "e" in text else text + ".0"
