"""The frames and header blocks of HTTP/2 that a gRPC call needs: RFC 9113 and, for headers, RFC 7541 (HPACK)."""

import struct

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Bytes: what HTTP/2 begins with, the largest window there is, and the frames that every peer takes.
DEFAULT_WINDOW, LARGEST_WINDOW, FRAME_SIZE = 2**16 - 1, 2**31 - 1, 2**14
REFUSED_STREAM, CANCEL = 7, 8


def frame(kind, flags, stream, payload=b""):
    """Return the bytes of a frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def header_block(headers):
    """Return headers as HPACK literals that no table keeps; names and values have less than 127 bytes."""
    texts = [(name.encode(), value.encode()) for name, value in headers]
    return b"".join(b"\0%c%b%c%b" % (len(name), name, len(value), value) for name, value in texts)


def literal(block, name):
    """Return the value of a header that a header block has as plain text, as gRPC's servers write it, None without."""
    _, found, rest = block.partition(name)
    # Values of 127 bytes and more have more bytes of length, and those that are Huffman codes have its highest bit set.
    if not found or not rest or rest[0] & 0x80:
        return None
    length, start = rest[0], 1
    if length == 127:
        length, start = _long_length(rest)
    return rest[start : start + length].decode(errors="replace")


def _long_length(rest):
    """Return (the length, where it ends) of HPACK's integer of several bytes."""
    length, shift, position = 127, 0, 1
    while True:
        length += (rest[position] & 0x7F) << shift
        if not rest[position] & 0x80:
            return length, position + 1
        shift, position = shift + 7, position + 1
