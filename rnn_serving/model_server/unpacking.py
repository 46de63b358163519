"""Limit the memory of requests that are small on the wire and large in memory, one or many at a time."""

import asyncio
import contextlib
import threading
import zlib
from collections import deque

import grpc

from rnn_serving.model_server.errors import ServingError

# What one gzip body may unpack to, as in the C++ server (ZLib::kMaxUncompressedBytes).
MAX_UNPACKED_BYTES = 100 * 2**20
_GZIP, _POLL_S = 16 + zlib.MAX_WBITS, 0.01


def unpacked_size(body):
    """Return the size that a gzip body claims to unpack to: its last four bytes."""
    return int.from_bytes(body[-4:], "little")


def unpack(body):
    """Return what a gzip body unpacks to, b"" if it is not valid or unpacks to more than MAX_UNPACKED_BYTES.

    Like the C++ server: one member, whose size is the one it claims.
    """
    size = unpacked_size(body)
    if size > MAX_UNPACKED_BYTES:
        return b""
    stream = zlib.decompressobj(_GZIP)
    try:
        content = stream.decompress(body, size + 1)  # a limit of 0 would be none
    except zlib.error:
        return b""
    return content if len(content) == size and stream.eof and not stream.unused_data else b""


class Budget:
    """Memory in bytes that requests reserve while they are answered; those that find none left wait for their turn.

    Amounts up to `ignored` are not counted. One larger than the budget takes all of it.
    """

    def __init__(self, size, ignored):
        self._size, self._ignored, self._free = size, ignored, size
        self._waiting, self._changed = deque(), threading.Condition()

    @contextlib.contextmanager
    def reserve(self, amount, timeout_s=None):
        """Reserve memory during a `with`, after waiting for it.

        Raises: ServingError DEADLINE_EXCEEDED if there is none within `timeout_s`.
        """
        with self._queued(amount) as place:
            with self._changed:
                if not self._changed.wait_for(lambda: self._take(place), timeout_s):
                    raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
            yield

    @contextlib.asynccontextmanager
    async def reserve_async(self, amount):
        """Do the same without blocking the event loop.

        Raises: ServingError RESOURCE_EXHAUSTED if four times the budget is waiting: an event loop takes any number.
        """
        with self._queued(amount) as place:
            if sum(other.amount for other in self._waiting) > 4 * self._size:
                raise ServingError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"Large requests of more than {4 * self._size} bytes are waiting; expected fewer at a time",
                )
            while not self._take(place):
                await asyncio.sleep(_POLL_S)
            yield

    @contextlib.contextmanager
    def _queued(self, amount):
        """Stand in the queue during a `with`; give back what was taken."""
        place = _Place(min(amount, self._size) if amount > self._ignored else 0)
        if place.amount:
            with self._changed:
                self._waiting.append(place)
        try:
            yield place
        finally:
            if place.amount:
                with self._changed:
                    if place.has_taken:
                        self._free += place.amount
                    else:
                        self._waiting.remove(place)
                    self._changed.notify_all()

    def _take(self, place):
        """Take memory if there is enough and it is the first one's turn; return whether it was taken."""
        with self._changed:
            if not place.amount or place.has_taken:
                return True
            if self._waiting[0] is not place or self._free < place.amount:
                return False
            self._waiting.popleft()
            self._free -= place.amount
            place.has_taken = True
            self._changed.notify_all()
            return True


class _Place:
    """A request's place in the queue."""

    def __init__(self, amount):
        self.amount, self.has_taken = amount, False
