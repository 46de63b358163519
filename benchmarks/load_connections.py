"""What the load generator sends requests over: HTTP/1.1 connections, or one of gRPC. Bytes in, bytes out."""

import asyncio
import functools
from dataclasses import dataclass
from urllib.parse import urlsplit

from benchmarks.grpc_connection import GRPCConnection
from benchmarks.invalid_answer import InvalidAnswer
from benchmarks.protocols import PREDICT
from rnn_serving.tls import TLS


@dataclass(frozen=True)
class HTTPTarget:
    """POST bodies, bytes of JSON each, to a URL over connections that stay open if the server lets them.

    `tls` is the `TLS` of an https:// URL.
    """

    url: str
    bodies: list
    tls: TLS | None = None

    def connect(self):
        """Return the connections; they open as requests need them."""
        parts = urlsplit(self.url)
        head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            "Content-Length: "
        ).encode()
        requests = [head + str(len(body)).encode() + b"\r\n\r\n" + body for body in self.bodies]
        return _HTTPConnections(parts.hostname, parts.port, self.tls and self.tls.context(), requests)


@dataclass(frozen=True)
class GRPCTarget:
    """Call a unary method with serialized requests over one connection, by TLS if there is a `tls`."""

    address: str
    requests: list
    method: str = PREDICT
    tls: TLS | None = None

    def connect(self):
        """Return the connection; it opens with the first request."""
        return _OneGRPCConnection(self.address, self.method, self.requests, self.tls and _http2_context(self.tls))


def _http2_context(tls):
    """Return the ssl.SSLContext of a connection that speaks HTTP/2 only."""
    context = tls.context()
    context.set_alpn_protocols(["h2"])
    return context


class _OneGRPCConnection:
    """A connection that is opened again if it ended."""

    def __init__(self, address, method, requests, context):
        self.requests, self._address, self._method, self._context = requests, address, method, context
        self._connection, self._opening = None, asyncio.Lock()

    async def ask(self, index):
        connection = self._connection
        if connection is None or connection.is_over:
            connection = await self._open()
        return await connection.ask(self.requests[index])

    async def _open(self):
        async with self._opening:
            if self._connection is None or self._connection.is_over:
                parts = urlsplit(f"//{self._address}")
                scheme = "https" if self._context else "http"
                make = functools.partial(GRPCConnection, self._address, self._method, scheme)
                target = (parts.hostname, parts.port)
                loop = asyncio.get_running_loop()
                _, self._connection = await loop.create_connection(make, *target, ssl=self._context)
        return self._connection

    async def close(self):
        if self._connection:
            self._connection.close()


class _HTTPConnections:
    """As many connections as there are requests in flight; an idle one is used again."""

    def __init__(self, host, port, context, requests):
        self.requests, self._address, self._context, self._idle = requests, (host, port), context, []

    async def ask(self, index):
        connection = self._idle.pop() if self._idle else await self._open()
        try:
            status, body = await connection.ask(self.requests[index])
        except BaseException:
            connection.close()
            raise
        if connection.is_kept:
            self._idle.append(connection)
        else:
            connection.close()
        if status != 200:
            raise InvalidAnswer(f"{status}: {body[:200].decode(errors='replace')}")
        return body

    async def _open(self):
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_HTTPConnection, *self._address, ssl=self._context)
        return connection

    async def close(self):
        for connection in self._idle:
            connection.close()


class _HTTPConnection(asyncio.Protocol):
    """Just enough HTTP/1.1 for the answers of the servers that are measured: a body ends by its length or by EOF."""

    def connection_made(self, transport):
        self._transport, self._received, self._answer, self.is_kept = transport, b"", None, True

    def ask(self, request):
        self._received, self._answer = b"", asyncio.get_running_loop().create_future()
        self._head = None
        self._transport.write(request)
        return self._answer

    def close(self):
        self._transport.close()

    def data_received(self, data):
        self._received += data
        if self._head is None:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._read_head(self._received[:end].lower())
            self._received = self._received[end + 4 :]
        if self._length is not None and len(self._received) >= self._length:
            self._finish()

    def _read_head(self, head):
        self._head = head
        length = head.partition(b"\r\ncontent-length:")[2]
        self._length = int(length.partition(b"\r\n")[0]) if length else None
        self.is_kept = b"http/1.1" in head[:8] and b"\r\nconnection: close" not in head

    def connection_lost(self, error):
        self.is_kept = False
        if self._answer is None or self._answer.done():
            return
        if self._head is not None and self._length is None:
            self._finish()
        else:
            self._answer.set_exception(error or ConnectionResetError("the connection ended without an answer"))

    def _finish(self):
        if not self._answer.done():
            self._answer.set_result((int(self._head.split(b" ", 2)[1]), self._received))
