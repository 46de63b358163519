"""Start the servers as processes, wait until they answer, and stop them whatever happens. No TensorFlow."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import requests

from rnn_serving.clients.http_json import direct_session
from rnn_serving.command_line import UserError

ROOT = Path(__file__).resolve().parent.parent
# Seconds a server may take to load its model, and to finish the requests in flight.
START_LIMIT_S, STOP_LIMIT_S = 120, 45
ASK_AGAIN_S = 0.1


def free_port():
    """Return a TCP port of 127.0.0.1 that no one listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def end_on_sigterm():
    """Make SIGTERM raise SystemExit, so that every `with` and `finally` on the way out is run."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


class ServerProcess:
    """A server on a free port, run in a `with` whose value is its address; `str()` of it is the command to type."""

    # Where it runs; by default in the directory of this process.
    directory = None

    def __init__(self, address, shown, command, variables=None):
        """Prepare to run `command`, shown to users as `shown`, with `variables` added to its environment."""
        self._address, self._shown, self._command, self._variables = address, shown, command, variables or {}

    def __str__(self):
        return shlex.join([*(f"{name}={value}" for name, value in self._variables.items()), *self._shown])

    def __enter__(self):
        self._running = running(self._command, self._check_ready, variables=self._variables, directory=self.directory)
        self._process = self._running.__enter__()
        return self._address

    def __exit__(self, *error):
        return self._running.__exit__(*error)

    def _check_ready(self):
        """Raise requests.RequestException or grpc.FutureTimeoutError while the server does not answer."""
        raise NotImplementedError


class FlaskServer(ServerProcess):
    """`flask_server.py`; the address is its URL."""

    def __init__(self, model_path, *flags):
        self.port = free_port()
        flags = ["--model_path", str(model_path), "--port", str(self.port), *flags]
        command = [sys.executable, ROOT / "flask_server.py", *flags]
        super().__init__(f"http://127.0.0.1:{self.port}/", ["python", "flask_server.py", *flags], command)

    def _check_ready(self):
        ask_http(self._address + "metadata")

    def worker_memory_mib(self):
        """Return the resident memory of the largest worker in MiB (Linux)."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
        return max(_resident_mib(worker) for worker in children.split())


class ArticleServer(ServerProcess):
    """`benchmarks.article_flask_server`; the address is its URL.

    It has no flag for `threads`, those of a model call; TensorFlow reads them from the environment. The default is one
    per core.
    """

    directory = ROOT

    def __init__(self, model_path, threads=None):
        self.port = free_port()
        # Absolute, because it runs in the project's root, where Python finds the module.
        flags = ["--model_path", str(Path(model_path).absolute()), "--port", str(self.port)]
        kinds = ("INTRAOP", "INTEROP") if threads else ()
        super().__init__(
            f"http://127.0.0.1:{self.port}/",
            ["python", "-m", "benchmarks.article_flask_server", *flags],
            [sys.executable, "-m", "benchmarks.article_flask_server", *flags],
            {f"TF_NUM_{kind}_THREADS": str(threads) for kind in kinds},
        )

    def _check_ready(self):
        # It answers nothing but POST; a refusal shows as well that it is there.
        ask_http(self._address, expected=(405,))


class TFServing(ServerProcess):
    """`scripts/serve_tfserving.sh` with gRPC and REST; the address is that of gRPC.

    `program` is what it starts: "binary", "docker" or "python" (by default, what the machine has).
    """

    def __init__(self, model_base_path, *flags, program=None):
        self.port, self.rest_port = free_port(), free_port()
        ports = [f"--port={self.port}", f"--rest_api_port={self.rest_port}"]
        launcher, *flags = ["scripts/serve_tfserving.sh", *ports, f"--model_base_path={model_base_path}", *flags]
        variables = {"TFSERVING": program} if program else {}
        super().__init__(f"127.0.0.1:{self.port}", [launcher, *flags], [ROOT / launcher, *flags], variables)

    def _check_ready(self):
        ask_grpc(self._address)
        # The REST port comes last; that it refuses this path shows as well that it is there.
        ask_http(f"http://127.0.0.1:{self.rest_port}/v1/models/", expected=(400, 404))


@contextlib.contextmanager
def running(command, ask, limit_s=START_LIMIT_S, variables=None, directory=None):
    """Run a server's command until the body ends; the body starts once `ask()` raises nothing.

    `variables` are added to its environment; `directory` is where it runs (by default, where this process does).
    Raises: UserError if the process ends before, or with the last error of `ask` after `limit_s` seconds.
    """
    environment = os.environ | {"PYTHON": sys.executable} | (variables or {})
    process = subprocess.Popen([str(part) for part in command], env=environment, cwd=directory)
    try:
        _wait_until_ready(process, ask, limit_s)
        yield process
    finally:
        stop(process)


def _wait_until_ready(process, ask, limit_s):
    deadline = time.monotonic() + limit_s
    while True:
        if process.poll() is not None:
            raise UserError(f"{_name(process)} ended with status {process.returncode}; expected it to serve")
        try:
            return ask()
        except (requests.RequestException, grpc.FutureTimeoutError) as error:
            if time.monotonic() > deadline:
                reason = error or type(error).__name__
                raise UserError(f"{_name(process)} does not answer after {limit_s} s: {reason}") from error
        time.sleep(ASK_AGAIN_S)


def stop(process):
    """Ask a process to end, and kill it if it does not."""
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _name(process):
    """Return the program and the script, or module, that a process runs."""
    parts = [part for part in process.args if part != "-m"]
    return " ".join(Path(part).name for part in parts[:2])


def _resident_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def ask_http(url, expected=()):
    """Raise requests.RequestException unless GET is answered with a good status or an expected one."""
    with direct_session() as session:
        answer = session.get(url, timeout=START_LIMIT_S)
        if answer.status_code not in expected:
            answer.raise_for_status()


def ask_grpc(address):
    """Raise grpc.FutureTimeoutError unless a gRPC server listens at HOST:PORT."""
    # TensorFlow Serving binds its port once the model is loaded, so a connection means that it is ready.
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        grpc.channel_ready_future(channel).result(timeout=1)
