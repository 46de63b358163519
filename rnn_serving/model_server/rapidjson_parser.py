"""RapidJSON's grammar (reader.h), in TensorFlow Serving's settings: what it accepts, and its error messages."""

import math
import re

_UINT64_MAX, _INT64_MIN = 2**64 - 1, -(2**63)
_SMALLEST_NORMAL = 2.2250738585072014e-308
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)")
_HEX4 = re.compile(r"[0-9A-Fa-f]{4}")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
# Each level of nesting takes Python stack frames; deeper input is an error instead of a RecursionError.
_MAX_DEPTH = 200


class ParseError(Exception):
    """A text that RapidJSON rejects: its reason, and the offset in characters."""

    def __init__(self, reason, offset):
        super().__init__(reason)
        self.reason, self.offset = reason, offset


def parse(text):
    """Return the value at the start of a text; anything after it is ignored.

    Raises: ParseError.
    """
    parser = _Parser(text)
    parser.skip_space()
    if parser.at == len(text):
        raise ParseError("The document is empty.", parser.at)
    return parser.value(0)


def skip_space(text, at=0):
    """Return the offset of the first character from `at` on that is not a space."""
    return _SPACE.match(text, at).end()


class RepeatedMembers(dict):
    """An object with a repeated name, of which the first one counts; `pairs` are all (name, value)."""

    def __init__(self, pairs):
        super().__init__(reversed(pairs))
        self.pairs = pairs


def to_object(pairs):
    """Return the object of (name, value) pairs, a dict."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else RepeatedMembers(pairs)


def members(value):
    """Return the (name, value) pairs of an object as the request has them, in order and with repeated names."""
    return value.pairs if isinstance(value, RepeatedMembers) else value.items()


def parse_float(text):
    """Return a double; subnormal numbers become 0, as in the threads of the C++ server.

    Raises: ValueError if it is too large.
    """
    value = float(text)
    if math.isinf(value):
        raise ValueError("too big")
    return value if abs(value) >= _SMALLEST_NORMAL else math.copysign(0.0, value)


def parse_int(text):
    """Return an int if 64 bits hold it, else a double.

    Raises: ValueError if that is too large as well.
    """
    value = int(text) if len(text) < 22 else None
    return value if value is not None and _INT64_MIN <= value <= _UINT64_MAX else parse_float(text)


class _Parser:
    """A recursive-descent parser that stops where RapidJSON stops, with its error message."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def peek(self):
        return self.text[self.at] if self.at < len(self.text) else "\0"

    def skip_space(self):
        self.at = skip_space(self.text, self.at)

    def take(self, expected):
        """Step over the next character if it is the expected one; return whether it was."""
        found = self.peek() == expected
        self.at += found
        return found

    def fail(self, reason, offset=None):
        raise ParseError(reason, self.at if offset is None else offset)

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
                return to_object(pairs)
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
                self.fail("Invalid escape character in string.")
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
        if 0xD800 <= code <= 0xDBFF:
            if not (self.take("\\") and self.take("u")):
                self.fail("The surrogate pair in string is invalid.", start)
            low = self.hex4(start)
            if not 0xDC00 <= low <= 0xDFFF:
                self.fail("The surrogate pair in string is invalid.", start)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        # RapidJSON encodes a low surrogate that stands alone, to bytes that are not valid UTF-8.
        return chr(code).encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")

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
            return (parse_float if is_double else parse_int)(self.text[start : self.at])
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
