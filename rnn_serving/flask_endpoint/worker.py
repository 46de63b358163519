"""A gunicorn worker whose connections are greenlets of one thread."""

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
from rnn_serving.flask_endpoint.http_connection import HTTPConnection
from rnn_serving.flask_endpoint.native_threads import NativeThreads

# Seconds: between two looks whether it is this worker's turn to take a connection, how long that is waited for (another
# worker may hang), and how long a kept connection may still bring a request once the worker has been told to stop.
LOOK_S, TURN_LIMIT_S, LINGER_S = 0.001, 0.05, 2.0
# New objects until the collector looks at them (and how many such looks until it looks at older ones): a request leaves
# no cycles, but the lists that its numbers come in would set the collector off every time.
GC_THRESHOLDS = (50_000, 10, 10)
# Seconds between two looks for a new version of the model.
REFRESH_S = 1.0


class GreenletWorker(GeventWorker):
    """gunicorn's worker for gevent without patches to the standard library: TensorFlow and gRPC keep real threads.

    A request waits for its batch without a thread, so that none is woken up or contends for the interpreter.
    `app.model` is loaded in the background; until then the other workers are given the connections.
    """

    _stopping = None

    def patch(self):
        """Make the listening sockets gevent's."""
        self.sockets = [
            gevent.socket.socket(listener.FAMILY, socket.SOCK_STREAM, fileno=listener.sock.detach())
            for listener in self.sockets
        ]

    def run(self):
        """Serve until told to stop, then finish what is in flight."""
        self._connections, self._address = {}, self.sockets[0].getsockname()
        self._is_ready, self._stopping, self._failure = False, Event(), None
        server = _EvenServer(self.sockets[0], self._serve, Pool(self.worker_connections), self)
        server.start()
        model = gevent.spawn(self._keep_model)
        while self.alive:
            self.notify()
            self._hang_up(socket.SHUT_RDWR, self.cfg.keepalive)
            self._stopping.wait(1.0)
        server.close()
        model.kill()
        if self._failure:
            self._give_up()
        self._finish(server.pool)

    def handle_exit(self, sig, frame):
        """Begin to stop; while the application is still being imported, it ends once `run` is called."""
        self.alive = False
        if self._stopping is not None:
            self._stopping.set()

    def _keep_model(self):
        """Load the model, then look for its next version for ever."""
        model, thread = self.app.model, NativeThreads()
        try:
            thread.call(model.load)
        except Exception as error:
            self._failure = error
            self.handle_exit(None, None)
            return
        # What has been loaded stays: the collector need not look at a million objects of TensorFlow's again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
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
        """Return whether it is this worker's turn to take a connection."""
        return self.balance.is_fair(self.slot)

    def may_step_in(self):
        """Return whether this worker could do for one that does not take its turn."""
        return self._is_ready

    def _publish(self):
        if self._is_ready:
            self.balance.publish(self.slot, len(self._connections))

    def _serve(self, client, address):
        """Serve one connection to its end."""
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
        """Return whether a client may go on; without a model, it has to connect to a worker that has one."""
        return self.alive and self._is_ready

    def _finish(self, pool):
        """Wait for what is in flight; a connection that is idle may bring one more request for a moment."""
        deadline, lingering_until = (time.monotonic() + seconds for seconds in (self.cfg.graceful_timeout, LINGER_S))
        while len(pool) and time.monotonic() < deadline:
            self.notify()
            if time.monotonic() > lingering_until:
                self._hang_up(socket.SHUT_RD)
            pool.join(0.1)

    def _hang_up(self, how, waiting_s=0.0):
        """Shut down (`how`: socket.SHUT_...) what clients have let the worker wait for so long."""
        now = time.monotonic()
        for connection, client in self._connections.items():
            if connection.waiting_since is not None and now - connection.waiting_since >= waiting_s:
                # Not gevent's own shutdown, which would raise in the greenlet that waits.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(client._sock, how)


def _read_the_rest(client):
    """Let a client that is still sending read the last answer: a connection closed with something unread loses it."""
    with contextlib.suppress(OSError), gevent.Timeout(LINGER_S, False):
        client.shutdown(socket.SHUT_WR)
        while client.recv(2**16):
            pass


class _EvenServer(StreamServer):
    """Takes connections only when it is this worker's turn."""

    max_accept = 1

    def __init__(self, listener, handle, pool, worker):
        super().__init__(listener, handle, spawn=pool)
        self._worker, self._offered_at, self._looked_at = worker, 0.0, 0.0

    def do_read(self):
        """Accept a connection, or leave it to the other workers and look again in a moment."""
        if not self._worker.may_accept() and not (self._worker.may_step_in() and self._has_been_left()):
            self.stop_accepting()
            gevent.spawn_later(LOOK_S, self._start_accepting_if_started)
            return None
        return super().do_read()

    def _has_been_left(self):
        """Return whether nobody has taken the connection for too long."""
        now = time.monotonic()
        if now - self._looked_at > TURN_LIMIT_S:
            self._offered_at = now  # the one before was taken: this is another
        self._looked_at = now
        if now - self._offered_at <= TURN_LIMIT_S:
            return False
        self._offered_at = now
        return True
