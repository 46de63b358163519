"""base64 as TensorFlow Serving reads it (absl's Base64Unescape)."""

import base64
import re

_SPACE, _PADDING = re.compile(r"[ \t\n\v\f\r]"), re.compile(r"[=.]*\Z")


def decode_base64(text):
    """Return the bytes of base64: white space is skipped, "." is padding, and padding may be missing.

    Raises: ValueError saying what is wrong; the URL-safe alphabet is not accepted.
    """
    text = _SPACE.sub("", text)
    digits = _PADDING.sub("", text)
    odd = re.search(r"[^A-Za-z0-9+/]", digits)
    if odd:
        raise ValueError(f"{odd[0]!r} at position {odd.start()}; expected A-Z, a-z, 0-9, + and /")
    padding = len(text) - len(digits)
    if padding and padding != -len(digits) % 4:
        raise ValueError(f"{padding} characters of padding; expected {-len(digits) % 4}, or none")
    if len(digits) % 4 == 1:
        raise ValueError(f"{len(digits)} characters, 1 more than a multiple of 4; expected 0, 2 or 3 more")
    return base64.b64decode(digits + "=" * (-len(digits) % 4))
