"""Run a container's command as a process of this machine: with its arguments, but paths and ports of the test."""

import contextlib
import functools
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import START_LIMIT_S, started

from benchmarks import server_processes

# Binds a directory to itself, so that it stays writable, makes the root read-only, then runs a command.
_READ_ONLY_ROOT = 'mount --rbind "$1" "$1" && mount -o remount,bind,ro / && shift && exec "$@"'


class Host:
    """What takes the place of a container's world: directories under `directory`, free ports, addresses of others."""

    def __init__(self, container, directory, models, secret=None, addresses=None):
        """Map the mounts and ports of a `manifests.Container`.

        `models` is the directory of models, `secret` what a Secret mounts, and `addresses` {"name:port": addresses of
        the containers behind it, joined by commas}.
        """
        self._container, self.directory = container, Path(directory) / "root"
        self.directory.mkdir(parents=True)
        places = {path: self._place(content, models, secret) for path, content in container.mounts.items()}
        self.ports = {number: server_processes.free_port() for number in container.ports.values()}
        # Each pattern finds a whole address, path or number.
        self._replacements = {
            **{rf"(?<![\w.-]){re.escape(name)}(?!\d)": address for name, address in (addresses or {}).items()},
            **{rf"(?<![\w/.]){re.escape(path)}(?![\w.-])": str(place) for path, place in places.items()},
            **{rf"(?<![\w.]){number}(?![\w.])": str(port) for number, port in self.ports.items()},
        }

    def _place(self, content, models, secret):
        if content == "secret":
            return secret
        if isinstance(content, Path):
            return content
        if str(content).startswith("models"):
            return Path(models) / content.partition("/")[2]
        place = self.directory / f"mount{len(list(self.directory.iterdir()))}"
        place.mkdir()
        for name, text in (content if isinstance(content, dict) else {}).items():
            (place / name).write_text(text)
        return place

    def local(self, text):
        """Return a text of the container with the paths, addresses and ports of this machine."""
        # In one pass, so that what has been replaced is not replaced again.
        any_of_them = "|".join(f"({pattern})" for pattern in self._replacements)
        found = list(self._replacements.values())
        return re.sub(any_of_them, lambda match: found[match.lastindex - 1], text)

    def local_words(self, words):
        return [self.local(word) for word in words]

    @property
    def environment(self):
        """The container's variables, and nothing of the test's but where Python is."""
        search_path = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
        variables = {name: self.local(value) for name, value in self._container.environment.items()}
        return {"PATH": search_path, "TMPDIR": self.local("/tmp")} | variables

    def address(self, port):
        """Return the address of a port of the container, given by number or name."""
        return f"127.0.0.1:{self.ports[self._container.ports.get(port, port)]}"


class ContainerProcess:
    """A running container: its probes, its hook, and how it is stopped."""

    def __init__(self, container, host, server):
        self.container, self.host, self._server = container, host, server

    def passes(self, kind):
        """Return whether a probe passes now. Raises: AssertionError if the process has ended."""
        assert self._server.process.poll() is None, f"{self.container.name} has ended: {self._server.output()}"
        probe = self.container.probes[kind]
        if isinstance(probe, list):
            return self._run(probe)
        get = probe["httpGet"]
        return _answers(self.host.address(get["port"]), get["path"], probe.get("timeoutSeconds", 1))

    def wait_until_passes(self, kind, limit_s=START_LIMIT_S):
        """Ask a probe until it passes. Raises: AssertionError after `limit_s` seconds, or if the process ends."""
        self.wait_until(lambda: self.passes(kind), f"{kind} passes", limit_s)

    def wait_until(self, condition, what, limit_s=START_LIMIT_S):
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"{self.container.name}: not yet: {what}\n{self._server.output()}"
            time.sleep(0.05)

    def wait_for_line(self, pattern):
        """Wait for a line of output that matches a pattern."""
        self._server.wait_for(pattern)

    def run_pre_stop(self):
        """Do what Kubernetes does before SIGTERM."""
        for action, value in self.container.pre_stop.items():
            assert action == "sleep", f"preStop {action}: expected an action that the test knows"
            time.sleep(value["seconds"])

    def terminate(self, after_pre_stop_s=0.0):
        """Send SIGTERM; return the exit status, which has to come within what is left of the grace period."""
        return self._server.stop(signal.SIGTERM, limit_s=self.container.grace_s - after_pre_stop_s)

    def _run(self, command):
        words = self.host.local_words(command)
        return subprocess.run(words, env=self.host.environment, stdout=subprocess.DEVNULL, timeout=20).returncode == 0


@contextlib.contextmanager
def running(container, *arguments, **options):
    """Yield the `ContainerProcess` of a container; the other arguments are those of `Host`."""
    host = Host(container, *arguments, **options)
    command = [*read_only_root(host.directory), *host.local_words(container.command)]
    with started(*command, cwd=host.directory, env=host.environment) as server:
        yield ContainerProcess(container, host, server)


def read_only_root(writable):
    """Return the words before a command that runs it with a read-only root, but for one directory; none without."""
    return [*_UNSHARE, _READ_ONLY_ROOT, "sh", str(writable)] if can_make_root_read_only() else []


_UNSHARE = ["unshare", "--map-root-user", "--mount", "sh", "-c"]


@functools.cache
def can_make_root_read_only():
    """Return whether this system allows a read-only root: Linux with user namespaces does."""
    try:
        words = [*_UNSHARE, _READ_ONLY_ROOT, "sh", "/tmp", "true"]
        return subprocess.run(words, capture_output=True, timeout=10).returncode == 0
    except OSError:
        return False


def _answers(address, path, timeout_s):
    """Return whether GET answers as a probe wants it, with a status from 200 to 399."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
