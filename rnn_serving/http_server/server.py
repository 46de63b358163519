"""Serve the connections of a listening socket: accept them, keep them within the limit of files, finish them."""

import contextlib
import errno
import logging
import resource
import socket
import time

import gevent
import gevent.socket
from gevent.pool import Pool
from gevent.server import StreamServer

from rnn_serving.http_server.connection import HTTPConnection

log = logging.getLogger(__name__)

# Connections that a process keeps open, and files that it needs besides: models, metrics, gRPC.
MAX_CONNECTIONS, OTHER_FILES = 4000, 200
# Seconds in which a client that is still sending may read its answer before its connection is closed.
READ_S = 2.0
# Seconds until the next attempt to accept when the system has no resources, and between two lines about that.
PAUSE_S, LOG_INTERVAL_S = 0.5, 10.0
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class HTTPServer(StreamServer):
    """Serves each connection of a listening socket with a greenlet; nothing is monkey patched.

    `may_keep()` returns whether a client may send another request over its connection; `log_answer` is the `log` of
    `HTTPConnection`. Create it in the thread that is to serve.
    """

    def __init__(self, listener, app, may_keep=lambda: True, log_answer=lambda *answer: None):
        self._limit = connections_allowed()
        super().__init__(_gevents(listener), self._serve, spawn=Pool(self._limit))
        self._for_connections = app, may_keep, log_answer, lambda: len(self._connections) == 1
        self._connections, self._is_finishing, self._next_line_at = {}, False, 0.0

    @property
    def connection_count(self):
        """How many connections are open."""
        return len(self._connections)

    def do_read(self):
        """Accept a connection; without resources for it, return None and leave it waiting for a moment."""
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            self._log_limit(error.strerror)
            self.pause_accepting(PAUSE_S)
            return None

    def pause_accepting(self, seconds):
        """Leave new connections waiting."""
        self.stop_accepting()
        gevent.spawn_later(seconds, self._start_accepting_if_started)

    def count_changed(self):
        """Do what has to be done when a connection was opened or closed."""
        if self.connection_count == self._limit:
            self._log_limit(f"the limit of {self._limit} connections is reached (ulimit -n)")

    def shut_down_waiting(self, how, waiting_s=0.0):
        """Shut down (`how`: socket.SHUT_...) connections whose clients have kept the server waiting for so long."""
        now = time.monotonic()
        for connection, client in self._connections.items():
            if connection.waiting_since is not None and now - connection.waiting_since >= waiting_s:
                # Not by gevent's own shutdown, which would raise in the greenlet that waits.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(client._sock, how)

    def finish(self, grace_s, linger_s, beat=lambda: None):
        """Accept what the system has accepted, stop listening, and finish the requests in flight within `grace_s`.

        An idle connection may bring one more within `linger_s`. `beat()` is called ten times a second.
        """
        # Closing the listener would reset them.
        while not self.pool.full() and (accepted := HTTPServer.do_read(self)):
            self.do_handle(*accepted)
        self.close()
        self._is_finishing = True
        deadline, lingering_until = (time.monotonic() + seconds for seconds in (grace_s, linger_s))
        while len(self.pool) and time.monotonic() < deadline:
            beat()
            if time.monotonic() > lingering_until:
                self.shut_down_waiting(socket.SHUT_RD)
            self.pool.join(0.1)

    def _serve(self, client, address):
        """Serve one connection until it ends."""
        connection = HTTPConnection(client, address, self.address, *self._for_connections)
        self._connections[connection] = client
        self.count_changed()
        try:
            connection.serve()
        except OSError:
            return  # the client has gone
        finally:
            del self._connections[connection]
            self.count_changed()
        if not self._is_finishing or connection.has_unread:
            _read_the_rest(client)

    def _log_limit(self, reason):
        """Log now and then that new connections have to wait."""
        if time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + LOG_INTERVAL_S
            log.warning(
                "HTTP: %s; %d connections are open, new ones wait until some are closed", reason, self.connection_count
            )


def connections_allowed():
    """Return how many connections a process may keep, after raising its limit of open files as far as possible."""
    wanted, limits = MAX_CONNECTIONS + OTHER_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (wanted if limit == resource.RLIM_INFINITY else limit for limit in limits)
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    return min(MAX_CONNECTIONS, max(soft // 2, soft - OTHER_FILES))


def _gevents(listener):
    """Return a listening socket as gevent's."""
    return gevent.socket.socket(listener.family, socket.SOCK_STREAM, fileno=listener.detach())


def _read_the_rest(client):
    """Let a client that is still sending read its answer: closing a connection with unread data would lose it."""
    with contextlib.suppress(OSError), gevent.Timeout(READ_S, False):
        client.shutdown(socket.SHUT_WR)
        while client.recv(2**16):
            pass
