"""Run a WSGI application in gunicorn's worker processes, from Python."""

import os
import signal
import socket
import sys

import gunicorn.util
import orjson
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

from rnn_serving.command_line import UserError

# Seconds for what is in flight when the server is told to stop, and for a worker to load its model.
GRACE_S, LOADING_S = 30, 300
# Seconds an idle connection stays open: longer than a client's pause, so that it need not connect anew.
KEEP_ALIVE_S = 75


def listen(host, port):
    """Return a listening TCP socket; port 0 takes a free one.

    Bound here and handed to gunicorn, which would try a port that is taken five times and then print its own words.
    Raises: UserError if the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        # Python appends the address to an operating system's message, and has no number for a resolver's.
        reason = os.strerror(error.errno) if error.errno > 0 else error.strerror
        raise UserError(f"{host}:{port}: {reason}; expected a free port (--port) of this machine (--host)") from error


def serve(load_app, listener, workers, threads):
    """Serve on `listener` until SIGTERM or Ctrl-C and finish what is in flight; return the exit status.

    `load_app() -> WSGI application` is called in each worker, after the fork; it may raise UserError. One line is
    printed when the first worker has loaded.
    """
    # What is no HTTP never reaches the application, and gunicorn has no setting for how it answers that.
    gunicorn.util.write_error = write_json_error
    host, port = listener.getsockname()[:2]
    app = _Application(
        load_app,
        bind=f"fd://{listener.detach()}",
        workers=workers,
        worker_class="gthread",
        threads=threads,
        timeout=LOADING_S,
        graceful_timeout=GRACE_S,
        keepalive=KEEP_ALIVE_S,
        loglevel="warning",
        # Its default path is the same for all instances of a user, so that two servers would fight over it.
        control_socket_disable=True,
        post_worker_init=lambda worker: _worker_is_ready(worker, f"http://{host}:{port}/"),
    )
    arbiter = os.getpid()
    try:
        _GracefulArbiter(app).run()
    except SystemExit as end:
        if os.getpid() != arbiter:
            raise  # a worker's end, whose status the arbiter reads
        return 1 if end.code else 0


def write_json_error(sock, status, reason, message):
    """Answer a connection that spoke no HTTP as the application answers errors."""
    body = orjson.dumps({"error": f"{reason}: {message}; expected an HTTP/1.1 request"})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    gunicorn.util.write_nonblock(sock, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


class _Application(BaseApplication):
    def __init__(self, load_app, **settings):
        self.load_app, self.settings = load_app, settings
        super().__init__()

    def load_config(self):
        for name, value in self.settings.items():
            self.cfg.set(name, value)

    def load(self):
        try:
            return self.load_app()
        except UserError as error:
            # gunicorn prints this one without a traceback, and stops instead of trying again for ever.
            raise AppImportError(f"{os.path.basename(sys.argv[0])}: error: {error}") from error


class _GracefulArbiter(Arbiter):
    def handle_int(self):
        """Treat Ctrl-C as SIGTERM: gunicorn would drop what is in flight."""
        self.handle_term()


def _worker_is_ready(worker, url):
    # Ctrl-C in a terminal reaches the workers too; the arbiter tells them when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if worker.age == 1:
        print(f"Flask server ready on {url}: {worker.wsgi.config['MODEL_DESCRIPTION']}", flush=True)
