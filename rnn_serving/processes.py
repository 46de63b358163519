"""Start the servers as processes, wait until they answer, and stop them whatever happens. No TensorFlow."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import requests

from rnn_serving.command_line import UserError

ROOT = Path(__file__).resolve().parent.parent
# Seconds a server may take to load its model, and to finish what is in flight.
START_LIMIT_S, STOP_LIMIT_S = 120, 45
ASK_AGAIN_S = 0.1


def free_port():
    """Return a TCP port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def end_on_sigterm():
    """Make SIGTERM raise SystemExit, so that every `with` and `finally` on the way out is run."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


class FlaskServer:
    """`flask_server.py` on a free port, run in a `with` whose value is its URL."""

    def __init__(self, model_path, *flags):
        self.port = free_port()
        self._flags = ["flask_server.py", "--model_path", str(model_path), "--port", str(self.port), *flags]

    def __str__(self):
        return shlex.join(["python", *self._flags])

    def __enter__(self):
        url = f"http://127.0.0.1:{self.port}/"
        script, *flags = self._flags
        self._running = running([sys.executable, ROOT / script, *flags], lambda: _ask_http(url + "metadata"))
        self._process = self._running.__enter__()
        return url

    def worker_memory_mib(self):
        """Return the resident memory of the largest worker in MiB (Linux)."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="ascii")
        return max(_resident_mib(worker) for worker in children.split())

    def __exit__(self, *error):
        return self._running.__exit__(*error)


class ArticleServer:
    """`benchmarks/article_flask_server.py` on a free port, run in a `with` whose value is its URL.

    It has no flag for `threads`, those of a model call; TensorFlow reads them from the environment (None: one a core).
    """

    def __init__(self, model_path, threads=None):
        self.port = free_port()
        self._flags = ["--model_path", str(model_path), "--port", str(self.port)]
        kinds = ("INTRAOP", "INTEROP") if threads else ()
        self._variables = {f"TF_NUM_{kind}_THREADS": str(threads) for kind in kinds}

    def __str__(self):
        variables = [f"{name}={value}" for name, value in self._variables.items()]
        return shlex.join([*variables, "python", "benchmarks/article_flask_server.py", *self._flags])

    def __enter__(self):
        url = f"http://127.0.0.1:{self.port}/"
        command = [sys.executable, ROOT / "benchmarks" / "article_flask_server.py", *self._flags]
        # It answers nothing but POST; a refusal says as well that it is there.
        self._running = running(command, lambda: _ask_http(url, expected=(405,)), variables=self._variables)
        self._running.__enter__()
        return url

    def __exit__(self, *error):
        return self._running.__exit__(*error)


class TFServing:
    """`scripts/serve_tfserving.sh` on free ports, run in a `with` whose value is its gRPC address.

    `program` is what it is to start: "binary", "docker" or "python" (None: what the machine has).
    """

    def __init__(self, model_base_path, *flags, program=None):
        self.port, self.rest_port = free_port(), free_port()
        self._variables = {"TFSERVING": program} if program else {}
        ports = [f"--port={self.port}", f"--rest_api_port={self.rest_port}"]
        self._command = ["scripts/serve_tfserving.sh", *ports, f"--model_base_path={model_base_path}", *flags]

    def __str__(self):
        return shlex.join([*(f"{name}={value}" for name, value in self._variables.items()), *self._command])

    def __enter__(self):
        address = f"127.0.0.1:{self.port}"
        launcher, *flags = self._command
        self._running = running([ROOT / launcher, *flags], lambda: self._ask(address), variables=self._variables)
        self._running.__enter__()
        return address

    def _ask(self, address):
        _ask_grpc(address)
        # The REST port comes last; that it refuses this path says as well that it is there.
        _ask_http(f"http://127.0.0.1:{self.rest_port}/v1/models/", expected=(400, 404))

    def __exit__(self, *error):
        return self._running.__exit__(*error)


def cpp_server():
    """Return how this machine has tensorflow_model_server, "binary" or "docker", or None; TFSERVING decides if set."""
    forced = os.environ.get("TFSERVING")
    if forced:
        return forced if forced in ("binary", "docker") else None
    if shutil.which("tensorflow_model_server"):
        return "binary"
    image = ["docker", "image", "inspect", "tensorflow/serving"]
    # A docker command without a daemon is common, and may take minutes to say so.
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if subprocess.run(image, capture_output=True, timeout=3, check=False).returncode == 0:
            return "docker"
    return None


def cpp_server_version(how):
    """Return the version of tensorflow_model_server, run as `cpp_server` says, or "unknown"."""
    command = ["tensorflow_model_server"]
    if how == "docker":
        command = ["docker", "run", "--rm", "--entrypoint", *command, "tensorflow/serving"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
        return next((line.rpartition(" ")[2] for line in said.splitlines() if "ModelServer:" in line), "unknown")
    return "unknown"


@contextlib.contextmanager
def running(command, ask, limit_s=START_LIMIT_S, variables=None):
    """Run a server's command until the body ends; the body starts once `ask()` raises nothing.

    `variables` are added to its environment.
    Raises: UserError if the process ends before, or with the last error of `ask` after `limit_s` seconds.
    """
    environment = os.environ | {"PYTHON": sys.executable} | (variables or {})
    process = subprocess.Popen([str(part) for part in command], env=environment)
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


def _resident_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _name(process):
    return " ".join(Path(part).name for part in process.args[:2])


def stop(process):
    """Ask a process to end, and end it if it does not."""
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ask_http(url, expected=()):
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(url, timeout=START_LIMIT_S)
        if answer.status_code not in expected:
            answer.raise_for_status()


def _ask_grpc(address):
    # TensorFlow Serving binds its port once the model is loaded, so a connection is readiness.
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        grpc.channel_ready_future(channel).result(timeout=1)
