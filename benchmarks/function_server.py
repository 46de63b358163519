"""Run a function that serves in a process of its own."""

import contextlib
import multiprocessing
import time

import requests

from benchmarks import server_processes
from rnn_serving.clients.http_json import direct_session
from rnn_serving.command_line import UserError


@contextlib.contextmanager
def serving(serve, *arguments):
    """Run `serve(*arguments, port)` in a process of its own until the body ends; the value is its URL.

    Raises: UserError if the process ends before it answers, or does not answer in time.
    """
    port = server_processes.free_port()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(*arguments, port), daemon=True)
    process.start()
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.join(server_processes.STOP_LIMIT_S)
        process.kill()


def _wait_until_ready(process, url):
    """Return once a process gives any answer at a URL; raise UserError if it does not."""
    deadline = time.monotonic() + server_processes.START_LIMIT_S
    with direct_session() as session:
        while process.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                session.get(url, timeout=server_processes.START_LIMIT_S)
                return
            time.sleep(server_processes.ASK_AGAIN_S)
    raise UserError(f"{url}: no answer; expected a server there")
