"""What the tests share: a small data set, one trained and exported model, and server processes."""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gevent
import numpy as np
import pytest
import s3_store

import export_savedmodel
import train_lstm
from benchmarks import server_processes
from rnn_serving import dataset, digits, exports

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 90


def pytest_addoption(parser):
    """Let the conformance tests be aimed at another server, and the image be built."""
    text = "what to start instead of rnn_serving.model_server"
    parser.addoption("--server_command", default=None, type=server_command, help=text)
    text = "build the image of deploy/Dockerfile and test it; as root, with buildah and mmdebstrap installed"
    parser.addoption("--build_image", action="store_true", help=text)


def server_command(text):
    """Parse the command of a server, whose program must be there: each of the tests would fail otherwise."""
    program = next(iter(shlex.split(text)), "")
    if not shutil.which(program):
        raise argparse.ArgumentTypeError(f"{text!r}: no program {program!r}; expected the command of a model server")
    return text


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A directory with scikit-learn's digits, named `digits`."""
    directory = tmp_path_factory.mktemp("data") / "digits"
    dataset.write_dataset(directory, *digits.load_digits())
    return directory


@pytest.fixture(scope="session")
def checkpoint_dir(data_dir, tmp_path_factory):
    """A directory with the checkpoint of a small model, trained for a few seconds."""
    directory = tmp_path_factory.mktemp("checkpoints") / "digits"
    flags = ["--training_steps", "120", "--num_hidden", "32", "--save_step", "60", "--display_step", "40"]
    assert train_lstm.main(["--data_dir", str(data_dir), "--checkpoint_dir", str(directory), *flags]) == 0
    return directory


@pytest.fixture
def export(data_dir, checkpoint_dir):
    """A function that exports the small model: `export(base, *flags) -> base`."""

    def run(base, *flags):
        paths = ["--data_dir", str(data_dir), "--checkpoint_dir", str(checkpoint_dir)]
        assert export_savedmodel.main([*paths, "--export_base_path", str(base), *flags]) == 0
        return base

    return run


@pytest.fixture(scope="session")
def export_base(data_dir, checkpoint_dir, tmp_path_factory):
    """A directory `mnist` with version 1 of the small model; tests do not change it."""
    base = tmp_path_factory.mktemp("exports") / "mnist"
    paths = ["--data_dir", str(data_dir), "--checkpoint_dir", str(checkpoint_dir)]
    assert export_savedmodel.main([*paths, "--export_base_path", str(base)]) == 0
    return base


@pytest.fixture(scope="session")
def test_images(data_dir):
    """The test images of the digits, as a Split."""
    return dataset.load(data_dir).test


def random_split(count, seed=0):
    """Return (pixels uint8 (count, 28, 28), labels uint8 (count,)) of no meaning."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 28, 28), np.uint8), random.integers(0, 10, count, np.uint8)


class Server:
    """A server process: its output so far, and the match of the line that said it was ready."""

    def __init__(self, process):
        self.process, self.lines, self.ready = process, [], None
        self._new_line = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._new_line:
                self.lines.append(line)
                self._new_line.notify_all()
        with self._new_line:
            self.lines.append("")  # the end
            self._new_line.notify_all()

    def wait_for(self, pattern, limit_s=START_LIMIT_S):
        """Return the match of a line of output with `pattern`, which may be to come."""
        deadline, seen = time.monotonic() + limit_s, 0
        with self._new_line:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self.lines)
                if self.lines[-1:] == [""] or not self._new_line.wait(deadline - time.monotonic()):
                    raise AssertionError(f"no line like {pattern!r} in {self.output()!r}")

    def output(self):
        """Return all output so far."""
        return "".join(self.lines)

    def stop(self, how=signal.SIGTERM, limit_s=40):
        """Send a signal and return the exit status."""
        self.process.send_signal(how)
        status = self.process.wait(limit_s)
        self._reader.join(limit_s)
        return status


@contextlib.contextmanager
def started(*command, ready=None, **popen):
    """Run a server command from the project's root, wait for the line that says it is ready, and stop it at the end."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **({"cwd": ROOT} | popen),
    )
    server = Server(process)
    try:
        if ready:
            server.ready = server.wait_for(ready)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            finally:  # one that does not stop is an error
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        server._reader.join(5)
        process.stdout.close()


def start_flask(model_path, *flags, **popen):
    """Start `flask_server.py` on a free port; `server.ready[1]` is its URL."""
    command = [sys.executable, "flask_server.py", "--model_path", model_path, "--port", "0", *flags]
    return started(*command, ready=r"ready on (http://\S+/)", **popen)


@pytest.fixture(scope="session")
def flask_url(export_base):
    """The URL of a running `flask_server.py` with the small model."""
    with start_flask(export_base) as server:
        yield server.ready[1]


def run_script(*command, timeout_s=120, **run):
    """Run a Python script from the project's root to its end; return what `subprocess.run` does, output as text."""
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, **run
    )


def start_model_server(model_base_path, *flags, **popen):
    """Start our model server on a free port; `server.ready[1]` is its gRPC address."""
    command = [sys.executable, "-m", "rnn_serving.model_server", f"--port={server_processes.free_port()}"]
    command += ["--model_name=mnist", f"--model_base_path={model_base_path}", *flags]
    return started(*command, ready=r"Running gRPC ModelServer at (\S+)", **popen)


@pytest.fixture(scope="session")
def grpc_address(export_base):
    """The address of a running model server with the small model."""
    with start_model_server(export_base) as server:
        yield server.ready[1]


@pytest.fixture
def loop_on_time():
    """Set the clock of gevent's loop, which stands still while that does not run: time-outs would begin in the past."""
    gevent.get_hub().loop.update_now()


def chunked(*chunks):
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


TOO_LARGE = b'{"data": [' + b"0," * (9 * 2**20)
# Bodies that the Flask endpoint refuses: (body, content type, status, part of the message).
BAD_INPUT = [
    (b'{"data": [1, 2', "application/json", 400, "the body is not valid JSON"),
    (b"", "application/json", 400, "the body is not valid JSON"),
    (b"\xff", "application/json", 400, "the body is not valid JSON"),
    (b'{"data": [NaN]}', "application/json", 400, "the body is not valid JSON"),
    (b"[" * 100_000, "application/json", 400, "the body is not valid JSON"),
    (b'{"images": []}', "application/json", 400, "expected an object with the key 'data'"),
    (b"[1]", "application/json", 400, "expected an object with the key 'data'"),
    (b'{"data": []}', "application/json", 422, "'data' has shape (0,)"),
    (b'{"data": null}', "application/json", 422, "'data' is null"),
    (b'{"data": ["a"]}', "application/json", 422, "'data' holds a string"),
    (b'{"data": [1, 2]}', "application/json", 422, "'data' has shape (2,); expected 784 numbers, 28x28"),
    (json.dumps({"data": [1e39] * 784}), "application/json", 422, "not finite as float32"),
    (b'{"data": []}', "text/plain", 415, "Content-Type is 'text/plain'; expected application/json"),
    (b'{"data": []}', "application/x-www-form-urlencoded", 415, "expected application/json"),
    (TOO_LARGE, "application/json", 413, "bytes; expected at most 16777216"),
]


def publish_copy(source, base, version):
    """Publish the newest version under `source` once more, as a version under `base`."""
    with exports.staging_directory(base, version) as staging:
        shutil.copytree(exports.newest(source), staging, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def store_port():
    """The port of a running S3 server."""

    with s3_store.running_store() as port:
        yield port


@pytest.fixture
def store(store_port, tmp_path, monkeypatch):
    """An `s3_store.Bucket` of its own, reached through a proxy, by this process and those that it starts."""

    proxy = s3_store.Proxy(store_port)
    for name, value in s3_store.variables(proxy.port, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    with contextlib.closing(proxy):
        yield s3_store.Bucket(tmp_path.name, store_port, proxy)
