"""Run a WSGI application in gunicorn's worker processes, from Python."""

import os
import resource
import shutil
import signal
import socket
import sys
import tempfile

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

from rnn_serving.command_line import UserError
from rnn_serving.flask_endpoint.balance import Balance

# Seconds for what is in flight when the server is told to stop, and without a sign of life until a worker is replaced.
GRACE_S, HUNG_S = 30, 60
# Seconds an idle connection stays open: longer than a client's pause, so that it need not connect anew.
KEEP_ALIVE_S = 75
# Connections that one worker keeps open, and files that it needs beside them.
MAX_CONNECTIONS, OTHER_FILES = 4000, 200
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


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


def serve(open_app, listener, workers, access_log=False):
    """Serve on `listener` until SIGTERM or Ctrl-C and finish what is in flight; return the exit status.

    `open_app() -> (WSGI application, model)` is called in each worker, after the fork; it may raise UserError. The
    model's `load()` and, from time to time, `refresh()` are called in a thread of their own. One line is printed when
    the first worker has loaded it.
    """
    arbiter, metrics_directory = os.getpid(), tempfile.mkdtemp(prefix="flask-metrics-")
    os.environ[METRICS_DIRECTORY] = metrics_directory
    try:
        _GracefulArbiter(_Application(open_app, listener, workers, access_log)).run()
    except SystemExit as end:
        if os.getpid() != arbiter:
            raise  # a worker's end, whose status the arbiter reads
        return 1 if end.code else 0
    finally:
        if os.getpid() == arbiter:
            shutil.rmtree(metrics_directory, ignore_errors=True)


class _Application(BaseApplication):
    """gunicorn's view of the endpoint; `model` is there once a worker has called `load`."""

    name = os.path.basename(sys.argv[0])

    def __init__(self, open_app, listener, workers, access_log):
        self._open_app, self.model = open_app, None
        self._url = "http://{}:{}/".format(*listener.getsockname()[:2])
        self._balance = Balance(workers)
        # One byte for all workers to read: whichever gets it has been the first.
        self._token, writer = os.pipe()
        os.write(writer, b"1")
        os.close(writer)
        self._settings = {
            "bind": f"fd://{listener.detach()}",
            "workers": workers,
            "worker_class": "rnn_serving.flask_endpoint.worker.GreenletWorker",
            "worker_connections": _connections_allowed(),
            "timeout": HUNG_S,
            "graceful_timeout": GRACE_S,
            "keepalive": KEEP_ALIVE_S,
            "loglevel": "warning",
            "logger_class": "rnn_serving.flask_endpoint.request_log.RequestLog",
            # A SCRIPT_NAME or a scheme that a proxy reports changes no answer, and one that is wrong would be an error.
            "forwarded_allow_ips": "",
            "accesslog": "-" if access_log else None,
            # Its default path is the same for all instances of a user, so that two servers would fight over it.
            "control_socket_disable": True,
            "pre_fork": self._before_fork,
            "post_worker_init": lambda worker: signal.signal(signal.SIGINT, signal.SIG_IGN),
            "child_exit": self._after_end,
        }
        super().__init__()

    def load_config(self):
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self):
        try:
            app, self.model = self._open_app()
        except UserError as error:
            # gunicorn prints this one without a traceback, and stops instead of trying again for ever.
            raise AppImportError(f"{self.name}: error: {error}") from error
        return app

    def model_is_loaded(self):
        """Tell the user once, when the first worker can answer."""
        if os.read(self._token, 1):
            model = self.model
            description = f"model {model.name} version {model.version}, data set {model.dataset}"
            print(f"Flask server ready on {self._url}: {description}", flush=True)

    def _before_fork(self, arbiter, worker):
        worker.balance, worker.slot = self._balance, self._balance.reserve()

    def _after_end(self, arbiter, worker):
        self._balance.give_back(worker.slot)
        # Imported here: in the workers the metrics begin with the first import, which must come after the fork.
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)


def _connections_allowed():
    """Return how many connections a worker may keep, after its limit of open files is raised as far as that may be."""
    wanted, limits = MAX_CONNECTIONS + OTHER_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (wanted if limit == resource.RLIM_INFINITY else limit for limit in limits)
    if soft < wanted:
        soft = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    return min(MAX_CONNECTIONS, max(1, soft - OTHER_FILES))


class _GracefulArbiter(Arbiter):
    def handle_int(self):
        """Treat Ctrl-C as SIGTERM: gunicorn would drop what is in flight."""
        self.handle_term()
