"""Run a WSGI application in gunicorn's worker processes, from Python."""

import gc
import os
import shutil
import signal
import sys
import tempfile

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.errors import AppImportError

from rnn_serving import addresses
from rnn_serving.command_line import UserError, end_process
from rnn_serving.http_server import drain
from rnn_serving.http_worker import heartbeat
from rnn_serving.http_worker.balance import Balance

# Seconds to finish requests at shutdown, and without a heartbeat before a worker is replaced.
GRACE_S, HUNG_S = 30, 60
# Seconds an idle connection stays open: longer than a client's pause, so that it need not connect again.
KEEP_ALIVE_S = 75
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def listen(host, port):
    """Return a listening TCP socket; port 0 takes a free one.

    Bound here and handed to gunicorn, which would try a port that is taken five times and then print its own message.
    Raises: UserError if the address is not available.
    """
    try:
        return addresses.listen(host, port, backlog=2048)
    except OSError as error:
        address = addresses.join(host, port)
        raise UserError(
            f"{address}: {error.strerror}; expected a free port (--port) of this machine (--host)"
        ) from error


def serve(open_app, listener, workers, access_log=False, before_fork=lambda: None):
    """Serve on `listener` until SIGTERM or Ctrl-C and finish the requests in flight; return the exit status.

    `before_fork()` may import what all workers need; it must not start threads.
    `open_app() -> (WSGI application, served model)` is called in each worker, after the fork; it may raise UserError.
    The model's `load()` and, from time to time, `refresh()` are called in a thread of their own. One line, with the
    application's `describe_start(version)`, is printed when the first worker has loaded it.
    """
    arbiter, metrics_directory = os.getpid(), _make_metrics_directory()
    heartbeat.keep_in_memory()
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: sys.exit())  # until gunicorn has its own handlers
    try:
        before_fork()
        gc.freeze()  # a collection in a worker would write to every object, and so copy the memory that it shares
        _GracefulArbiter(_Application(open_app, listener, workers, access_log)).run()
    except SystemExit as end:
        if os.getpid() != arbiter:
            end_process(end.code)
        return 1 if end.code else 0
    finally:
        if os.getpid() == arbiter and metrics_directory:
            shutil.rmtree(metrics_directory, ignore_errors=True)


def _make_metrics_directory():
    """Return a new directory in which the workers share their metrics, None if there is no place for one."""
    try:
        os.environ[METRICS_VARIABLE] = tempfile.mkdtemp(prefix="flask-metrics-")
    except OSError as error:
        print(
            f"{_Application.name}: cannot create a temporary directory ({error.strerror}); set TMPDIR. "
            "/metrics covers one worker only",
            file=sys.stderr,
            flush=True,
        )
        return None
    return os.environ[METRICS_VARIABLE]


class _Application(BaseApplication):
    """The endpoint as gunicorn sees it; `model` is set once a worker has called `load`."""

    name = os.path.basename(sys.argv[0])

    def __init__(self, open_app, listener, workers, access_log):
        self._open_app, self._app, self.model = open_app, None, None
        host, port = listener.getsockname()[:2]
        self._url = f"http://{addresses.join(addresses.reachable(host), port)}/{addresses.wildcard_note(host)}"
        self._balance = Balance(workers)
        # One byte for all workers to read: whichever gets it is the first.
        self._token, writer = os.pipe()
        os.write(writer, b"1")
        os.close(writer)
        self._settings = {
            "bind": f"fd://{listener.detach()}",
            "workers": workers,
            "worker_class": "rnn_serving.http_worker.worker.GreenletWorker",
            "timeout": HUNG_S,
            "graceful_timeout": GRACE_S,
            "keepalive": KEEP_ALIVE_S,
            "loglevel": "warning",
            "logger_class": "rnn_serving.http_worker.request_log.RequestLog",
            # Ignore proxy headers: responses do not depend on them, and gunicorn rejects invalid ones.
            "forwarded_allow_ips": "",
            "accesslog": "-" if access_log else None,
            # Its default path is the same for all instances of a user, so that two servers would compete for it.
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
            self._app, self.model = self._open_app()
        except UserError as error:
            # gunicorn prints this one without a traceback, and stops instead of retrying forever.
            raise AppImportError(f"{self.name}: error: {error}") from error
        return self._app

    def model_is_loaded(self):
        """Tell the user once, when the first worker can answer."""
        if os.read(self._token, 1):
            with self.model.acquire() as version:
                print(f"Flask server ready on {self._url}: {self._app.describe_start(version)}", flush=True)

    def _before_fork(self, arbiter, worker):
        worker.balance, worker.slot = self._balance, self._balance.reserve()

    def _after_end(self, arbiter, worker):
        self._balance.give_back(worker.slot)
        if METRICS_VARIABLE not in os.environ:
            return
        # Imported here: in the workers the metrics begin with the first import, which must come after the fork.
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)


class _GracefulArbiter(Arbiter):
    def handle_int(self):
        """Treat Ctrl-C as SIGTERM: gunicorn would drop the requests in flight."""
        self.handle_term()

    def stop(self, graceful=True):
        """End the workers; these first accept all connections that the system has accepted."""
        for listener in self.LISTENERS:
            drain.take_no_more_connections(listener.sock)
        super().stop(graceful)

    def reload(self):
        """Start new workers on SIGHUP; the old ones serve until these have loaded the model."""
        if len(self.WORKERS) > self.num_workers:
            self.log.warning("SIGHUP is ignored: the workers of the one before are still loading")
            return
        self.log.reopen_files()
        for _ in range(self.num_workers):
            self.spawn_worker()

    def manage_workers(self):
        """Keep the number of workers; if there are more, end the oldest once the newest are ready."""
        by_age = sorted(self.WORKERS.values(), key=lambda worker: worker.age)
        newest = by_age[-self.num_workers :]
        if len(by_age) <= self.num_workers or all(worker.balance.is_ready(worker.slot) for worker in newest):
            super().manage_workers()
