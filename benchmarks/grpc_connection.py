"""Unary gRPC calls over one HTTP/2 connection, with as little work for each as the load generator's HTTP/1.1 takes.

Python's gRPC client takes longer for a call than some servers do, and would be measured in their place. This sends the
same frames: RFC 9113 and https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, without compression.
"""

import asyncio
import math
import struct
from collections import deque

import grpc

from benchmarks import http2_frames as http2
from benchmarks.invalid_answer import InvalidAnswer
from benchmarks.protocols import TIMEOUT_S

# Seconds until a call that the server refused for its limit is sent again.
RETRY_S = 0.001
STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def call_headers(authority, method, scheme="http"):
    """Return the header block of a call."""
    return http2.header_block(
        [
            *((":method", "POST"), (":scheme", scheme), (":path", method), (":authority", authority)),
            *(("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", f"{TIMEOUT_S:.0f}S")),
        ]
    )


class _Call:
    """A call in progress: what is still to be sent, and what has come."""

    __slots__ = ("answer", "message", "received", "to_send", "window")

    def __init__(self, message, window, answer):
        self.message, self.window, self.answer = message, window, answer
        self.to_send, self.received = b"", b""


class GRPCConnection(asyncio.Protocol):
    """One HTTP/2 connection; calls go out together up to the server's limit, and those beyond wait."""

    def __init__(self, authority, method, scheme="http"):
        self._headers, self._buffer, self._next_stream = call_headers(authority, method, scheme), b"", 1
        self._calls, self._waiting, self._sending = {}, deque(), deque()
        self._window = self._stream_window = http2.DEFAULT_WINDOW
        # No call goes out before the server has said how many it takes; more would make it close streams.
        self._limit = 0
        self._consumed, self._error = 0, None

    def connection_made(self, transport):
        # The server's headers must be readable one by one, hence no table; and it must never wait for a window.
        settings = {http2.HEADER_TABLE_SIZE: 0, http2.ENABLE_PUSH: 0, http2.INITIAL_WINDOW_SIZE: http2.LARGEST_WINDOW}
        payload = b"".join(struct.pack(">HI", *each) for each in settings.items())
        self._transport = transport
        transport.write(http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0, payload))
        self._widen(http2.LARGEST_WINDOW - http2.DEFAULT_WINDOW)

    def connection_lost(self, error):
        self._fail_all(error or ConnectionResetError("the connection ended without an answer"))

    @property
    def is_over(self):
        """Whether it has ended, so that another one is needed."""
        return self._error is not None

    def close(self):
        """Close the connection."""
        self._transport.close()

    async def ask(self, message):
        """Return the answer, bytes, to a serialized request. Raises: InvalidAnswer or OSError without one."""
        if self._error:
            raise self._error
        answer = asyncio.get_running_loop().create_future()
        if len(self._calls) < self._limit:
            self._begin(message, answer)
        else:
            self._waiting.append((message, answer))
        try:
            return await answer
        except asyncio.CancelledError:
            self._cancel(answer)
            raise

    def _begin(self, message, answer):
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._calls[stream] = call = _Call(message, self._stream_window, answer)
        head = http2.frame(http2.HEADERS, http2.END_HEADERS, stream, self._headers)
        body = b"\0" + struct.pack(">I", len(message)) + message
        if not self._sending and len(body) <= min(http2.FRAME_SIZE, self._window, self._stream_window):
            self._window -= len(body)
            self._transport.write(head + http2.frame(http2.DATA, http2.END_STREAM, stream, body))
            return
        self._transport.write(head)
        call.to_send = memoryview(body)
        self._sending.append((stream, call))
        self._send_more()

    def _sendable(self):
        """Yield the http2.DATA frames that the windows allow, and take them off what is to be sent."""
        for _ in range(len(self._sending)):
            stream, call = self._sending.popleft()
            while call.to_send and min(self._window, call.window) > 0:
                chunk = call.to_send[: min(http2.FRAME_SIZE, self._window, call.window)]
                call.to_send = call.to_send[len(chunk) :]
                self._window -= len(chunk)
                call.window -= len(chunk)
                yield http2.frame(http2.DATA, 0 if call.to_send else http2.END_STREAM, stream, chunk.tobytes())
            if call.to_send and stream in self._calls:
                self._sending.append((stream, call))

    def _cancel(self, answer):
        """Forget a call that no one waits for any more."""
        self._waiting = deque(each for each in self._waiting if each[1] is not answer)
        for stream, call in list(self._calls.items()):
            if call.answer is answer:
                self._transport.write(http2.frame(http2.RST_STREAM, 0, stream, struct.pack(">I", http2.CANCEL)))
                self._end(stream)

    def _end(self, stream):
        """Return a call that is over, None if it is not known, and begin the next one that waits."""
        call = self._calls.pop(stream, None)
        if call and call.to_send:
            self._sending = deque(each for each in self._sending if each[0] != stream)
        self._begin_waiting()
        return call

    def _begin_waiting(self):
        while self._waiting and len(self._calls) < self._limit:
            self._begin(*self._waiting.popleft())

    def data_received(self, data):
        self._buffer += data
        position, end = 0, len(self._buffer)
        while end - position >= 9:
            length_and_kind, flags, stream = struct.unpack_from(">IBI", self._buffer, position)
            length, kind = length_and_kind >> 8, length_and_kind & 0xFF
            if end - position < 9 + length:
                break
            self._take(kind, flags, stream, self._buffer[position + 9 : position + 9 + length])
            position += 9 + length
        self._buffer = self._buffer[position:]

    def _take(self, kind, flags, stream, payload):
        if kind == http2.DATA:
            self._take_data(flags, stream, payload)
        elif kind == http2.HEADERS and flags & http2.END_STREAM:
            self._answer(stream, payload)
        elif kind == http2.WINDOW_UPDATE:
            self._take_window(stream, int.from_bytes(payload, "big"))
        elif kind == http2.SETTINGS and not flags & http2.ACK:
            self._take_settings(payload)
        elif kind == http2.PING and not flags & http2.ACK:
            self._transport.write(http2.frame(http2.PING, http2.ACK, 0, payload))
        elif kind == http2.RST_STREAM:
            self._take_reset(stream, int.from_bytes(payload, "big"))
        elif kind == http2.GOAWAY:
            self._fail_all(ConnectionResetError("the server closed the connection"))

    def _take_data(self, flags, stream, payload):
        self._widen_if_needed(len(payload))
        if flags & http2.PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if stream in self._calls:
            self._calls[stream].received += payload

    def _widen_if_needed(self, length):
        self._consumed += length
        if self._consumed > http2.LARGEST_WINDOW // 2:
            self._widen(self._consumed)
            self._consumed = 0

    def _widen(self, count):
        self._transport.write(http2.frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", count)))

    def _take_window(self, stream, count):
        if stream == 0:
            self._window += count
        elif stream in self._calls:
            self._calls[stream].window += count
        self._send_more()

    def _take_settings(self, payload):
        settings = dict(struct.iter_unpack(">HI", payload))
        self._limit = settings.get(http2.MAX_CONCURRENT_STREAMS, self._limit or math.inf)
        window = settings.get(http2.INITIAL_WINDOW_SIZE, self._stream_window)
        for call in self._calls.values():
            call.window += window - self._stream_window
        self._stream_window = window
        self._transport.write(http2.frame(http2.SETTINGS, http2.ACK, 0))
        self._send_more()
        self._begin_waiting()

    def _take_reset(self, stream, code):
        """Fail a call, or send it again if the server did not begin with it."""
        call = self._end(stream)
        if call is None or call.answer.done():
            return
        if code == http2.REFUSED_STREAM:
            self._waiting.append((call.message, call.answer))
            asyncio.get_running_loop().call_later(RETRY_S, self._begin_waiting)
        else:
            call.answer.set_exception(InvalidAnswer(f"the server reset the stream, error {code}"))

    def _send_more(self):
        if written := b"".join(self._sendable()):
            self._transport.write(written)

    def _answer(self, stream, trailers):
        """Give a call what came before its trailers."""
        call = self._end(stream)
        if call is None or call.answer.done():
            return
        status, message = http2.literal(trailers, b"grpc-status"), call.received
        if status not in (None, "0"):
            name = STATUS_NAMES.get(int(status), status)
            call.answer.set_exception(InvalidAnswer(f"{name}: {http2.literal(trailers, b'grpc-message') or ''}"))
        elif len(message) < 5 or message[0] or len(message) != 5 + int.from_bytes(message[1:5], "big"):
            call.answer.set_exception(InvalidAnswer(f"{len(message)} bytes that are not one gRPC message"))
        else:
            call.answer.set_result(message[5:])

    def _fail_all(self, error):
        self._error = error
        answers = [call.answer for call in self._calls.values()] + [answer for _, answer in self._waiting]
        self._calls.clear(), self._waiting.clear(), self._sending.clear()
        for answer in answers:
            if not answer.done():
                answer.set_exception(error)
