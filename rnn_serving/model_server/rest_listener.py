"""waitress with what it lacks: refuse ambiguous bodies, and wait quietly when there are no file descriptors left."""

import errno
import logging
import re
import resource
import time

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 10_000
# File descriptors that connections leave to the rest of the server: gRPC, polls for versions, models being loaded.
SPARE_DESCRIPTORS = 128
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# Seconds until the next attempt to accept, and between two lines in the log.
PAUSE_S, LOG_INTERVAL_S = 0.5, 10
_TRANSFER_ENCODING = re.compile(rb"^transfer-encoding:([^\r\n]*)", re.IGNORECASE | re.MULTILINE)


class _Parser(HTTPRequestParser):
    def parse_header(self, header_plus):
        """Parse the head of a request.

        Raises: ParsingError if another server could see another end of the body (RFC 9112, 6.1 and 6.3).
        """
        super().parse_header(header_plus)
        codings = [value.strip().lower() for value in _TRANSFER_ENCODING.findall(header_plus)]
        if codings and "CONTENT_LENGTH" in self.headers:
            raise ParsingError("Content-Length and Transfer-Encoding in one request; expected one of them")
        if codings and (codings != [b"chunked"] or not self.chunked):
            raise ParsingError("Transfer-Encoding is not valid; expected `chunked` once, in a request of version 1.1")


class _Channel(HTTPChannel):
    parser_class = _Parser


class Listener(TcpWSGIServer):
    """Accepts connections on a listening socket, and leaves new ones waiting while there are too many."""

    channel_class = _Channel

    def __init__(self, application, sock, threads, **settings):
        """Prepare to answer with a WSGI application in a number of threads; `settings` are waitress's adjustments."""
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(threads)
        # Its own limit of connections logs two lines for each connection that comes and goes there.
        adjustments = Adjustments(sockets=[sock], connection_limit=2 * MAX_CONNECTIONS, **settings)
        self._limit, self._resume_at, self._next_line_at = max_connections(), 0.0, 0.0
        sockinfo = (sock.family, sock.type, sock.proto, sock.getsockname())
        super().__init__(
            application, {}, True, sock, dispatcher=dispatcher, adj=adjustments, sockinfo=sockinfo, bind_socket=False
        )

    def readable(self):
        """Return whether to accept a connection."""
        if not super().readable() or time.monotonic() < self._resume_at:
            return False
        if len(self.active_channels) < self._limit:
            return True
        self._log(f"the limit of {self._limit} connections is reached (ulimit -n)")
        return False

    def accept(self):
        """Accept a connection; without resources for it, return None and leave it waiting for a moment."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            self._resume_at = time.monotonic() + PAUSE_S
            self._log(error.strerror)
            return None

    def _log(self, reason):
        if time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + LOG_INTERVAL_S
            count = len(self.active_channels)
            log.warning("REST: %s; %d connections are open, new ones wait until some are closed", reason, count)


def max_connections():
    """Return how many connections the limit of open files leaves room for."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(limit - SPARE_DESCRIPTORS, limit // 2))
