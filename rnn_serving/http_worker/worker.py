"""A gunicorn worker that serves each connection with a greenlet; all of them share one thread."""

import contextlib
import gc
import socket
import sys
import time

import gevent
import gevent.socket
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.arbiter import Arbiter
from gunicorn.workers.ggevent import GeventWorker

from rnn_serving.command_line import UserError
from rnn_serving.endpoint.live_model import REFRESH_S
from rnn_serving.http_worker.connection import HTTPConnection
from rnn_serving.http_worker.greenlets import NativeThreads

# Seconds between two checks whether it is this worker's turn to accept, and after which it may take over a turn that
# another worker missed.
TURN_INTERVAL_S, TURN_LIMIT_S = 0.001, 0.05
# Seconds in which a kept-alive connection may still bring a request once the worker has been told to stop.
LINGER_S = 2.0


class GreenletWorker(GeventWorker):
    """gunicorn's gevent worker without monkey patching, so that TensorFlow and gRPC keep real threads.

    A request waits for its batch without a thread: none has to be woken, none contends for the interpreter lock.
    `app.model` is loaded in the background; until then the other workers accept the connections.
    """

    _stopping = None

    def patch(self):
        """Make the listening sockets gevent's."""
        self.sockets = [
            gevent.socket.socket(listener.FAMILY, socket.SOCK_STREAM, fileno=listener.sock.detach())
            for listener in self.sockets
        ]

    def run(self):
        """Serve until told to stop, then finish the requests in flight."""
        self._connections, self._address = {}, self.sockets[0].getsockname()
        self._is_ready, self._stopping, self._failure = False, Event(), None
        server = _BalancedServer(self.sockets[0], self._serve, Pool(self.worker_connections), self)
        server.start()
        model = gevent.spawn(self._keep_model)
        while self.alive:
            self.notify()
            self._shut_down_waiting(socket.SHUT_RDWR, self.cfg.keepalive)
            self._stopping.wait(1.0)
        server.accept_backlog()
        server.close()
        model.kill()
        if self._failure:
            self._give_up()
        self._finish(server.pool)

    def handle_exit(self, sig, frame):
        """Begin to stop; if the application is still being imported, the worker ends as soon as `run` is called."""
        self.alive = False
        if self._stopping is not None:
            self._stopping.set()

    def _keep_model(self):
        """Load the model, then refresh it forever."""
        model, thread = self.app.model, NativeThreads()
        try:
            thread.call(model.load)
        except Exception as error:
            self._failure = error
            self.handle_exit(None, None)
            return
        # What is loaded stays: the collector would visit TensorFlow's million objects and hold up requests for 0.1 s.
        gc.collect()
        gc.freeze()
        self._is_ready = True
        self._publish()
        self.app.model_is_loaded()
        while True:
            gevent.sleep(REFRESH_S)
            thread.call(model.refresh)

    def _give_up(self):
        """End without a model: all workers if none has one, else only this one, to be replaced."""
        if isinstance(self._failure, UserError):
            print(f"{self.app.name}: error: {self._failure}", file=sys.stderr, flush=True)
        else:
            self.log.error("The model does not load", exc_info=self._failure)
        sys.exit(1 if self.balance.any_ready() else Arbiter.APP_LOAD_ERROR)

    def may_accept(self):
        """Return whether it is this worker's turn to accept a connection."""
        return self.balance.is_fair(self.slot)

    def may_take_over(self):
        """Return whether this worker may take over a turn that another one missed."""
        return self._is_ready

    def _publish(self):
        if self._is_ready:
            self.balance.publish(self.slot, len(self._connections))

    def _serve(self, client, address):
        """Serve one connection until it ends."""
        connection = HTTPConnection(client, address, self._address, self.wsgi, self._may_keep, self.log.answered)
        self._connections[connection] = client
        self._publish()
        try:
            connection.serve()
        except OSError:
            return  # the client has gone
        finally:
            del self._connections[connection]
            self._publish()
        if self.alive or connection.has_unread:
            _read_the_rest(client)

    def _may_keep(self):
        """Return whether a client may send another request; without a model, it has to connect to another worker."""
        return self.alive and self._is_ready

    def _finish(self, pool):
        """Wait for the requests in flight; an idle connection may bring one more for a short time."""
        deadline, lingering_until = (time.monotonic() + seconds for seconds in (self.cfg.graceful_timeout, LINGER_S))
        while len(pool) and time.monotonic() < deadline:
            self.notify()
            if time.monotonic() > lingering_until:
                self._shut_down_waiting(socket.SHUT_RD)
            pool.join(0.1)

    def _shut_down_waiting(self, how, waiting_s=0.0):
        """Shut down (`how`: socket.SHUT_...) connections whose clients have kept the worker waiting for so long."""
        now = time.monotonic()
        for connection, client in self._connections.items():
            if connection.waiting_since is not None and now - connection.waiting_since >= waiting_s:
                # Not by gevent's own shutdown, which would raise in the greenlet that waits.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(client._sock, how)


def _read_the_rest(client):
    """Let a client that is still sending read its answer: closing a connection with unread data would lose it."""
    with contextlib.suppress(OSError), gevent.Timeout(LINGER_S, False):
        client.shutdown(socket.SHUT_WR)
        while client.recv(2**16):
            pass


class _BalancedServer(StreamServer):
    """Accepts connections only when it is this worker's turn."""

    max_accept = 1

    def __init__(self, listener, handle, pool, worker):
        super().__init__(listener, handle, spawn=pool)
        self._worker, self._pending_since, self._checked_at = worker, 0.0, 0.0

    def do_read(self):
        """Accept a connection, or leave it to the other workers and check again shortly."""
        if not self._worker.may_accept() and not (self._worker.may_take_over() and self._is_overdue()):
            self.stop_accepting()
            gevent.spawn_later(TURN_INTERVAL_S, self._start_accepting_if_started)
            return None
        return super().do_read()

    def accept_backlog(self):
        """Accept the connections that the system holds for us: closing the listener would reset them."""
        while accepted := super().do_read():
            self.do_handle(*accepted)

    def _is_overdue(self):
        """Return whether no worker has accepted the pending connection for too long."""
        now = time.monotonic()
        if now - self._checked_at > TURN_LIMIT_S:
            self._pending_since = now  # the one before was accepted: this is another
        self._checked_at = now
        if now - self._pending_since <= TURN_LIMIT_S:
            return False
        self._pending_since = now
        return True
