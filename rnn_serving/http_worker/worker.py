"""A gunicorn worker that serves each connection with a greenlet; all of them share one thread."""

import gc
import socket
import sys
import time

import gevent
from gevent.event import Event
from gunicorn.arbiter import Arbiter
from gunicorn.workers.ggevent import GeventWorker

from rnn_serving.command_line import UserError
from rnn_serving.endpoint.live_model import REFRESH_S
from rnn_serving.http_server.native_threads import NativeThreads
from rnn_serving.http_server.server import HTTPServer

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
        """Patch nothing."""

    def run(self):
        """Serve until told to stop, then finish the requests in flight."""
        self._is_ready, self._stopping, self._failure = False, Event(), None
        self._server = _BalancedServer(self, self.sockets[0].sock, self.wsgi, self._may_keep, self.log.answered)
        self._server.start()
        model = gevent.spawn(self._keep_model)
        while self.alive:
            self.notify()
            self._server.shut_down_waiting(socket.SHUT_RDWR, self.cfg.keepalive)
            self._stopping.wait(1.0)
        model.kill()
        if self._failure:
            self._server.close()
            self._give_up()
        self._server.finish(self.cfg.graceful_timeout, LINGER_S, self.notify)

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
        self.publish()
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

    def publish(self):
        """Tell the other workers how many connections this one has, once it has a model."""
        if self._is_ready:
            self.balance.publish(self.slot, self._server.connection_count)

    def _may_keep(self):
        """Return whether a client may send another request; without a model, it has to connect to another worker."""
        return self.alive and self._is_ready


class _BalancedServer(HTTPServer):
    """Accepts connections only when it is this worker's turn."""

    max_accept = 1

    def __init__(self, worker, *arguments):
        super().__init__(*arguments)
        self._worker, self._pending_since, self._checked_at = worker, 0.0, 0.0

    def do_read(self):
        """Accept a connection, or leave it to the other workers and check again shortly."""
        if self._worker.may_accept() or (self._worker.may_take_over() and self._is_overdue()):
            return super().do_read()
        self.pause_accepting(TURN_INTERVAL_S)
        return None

    def count_changed(self):
        """Publish it."""
        super().count_changed()
        self._worker.publish()

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
