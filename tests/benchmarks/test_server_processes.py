import subprocess
import sys

import pytest
import requests

from benchmarks import server_processes
from rnn_serving.command_line import UserError

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


def never():
    raise requests.ConnectionError("not yet")


def test_the_body_starts_once_the_server_answers_and_the_server_ends_with_it():
    answers = iter([never, never, lambda: None])
    with server_processes.running(SLEEPER, lambda: next(answers)()) as process:
        assert next(answers, "all asked") == "all asked"
        assert process.poll() is None
    assert process.poll() is not None


def test_a_server_that_does_not_answer_is_an_error_with_the_last_reason():
    with pytest.raises(UserError, match="does not answer after 0.3 s: not yet"):
        with server_processes.running(SLEEPER, never, limit_s=0.3):
            pytest.fail("it does not answer")


def test_a_server_that_ends_is_an_error_at_once():
    with pytest.raises(UserError, match="ended with status 3; expected it to serve"):
        with server_processes.running([sys.executable, "-c", "raise SystemExit(3)"], never):
            pytest.fail("it does not answer")


def test_an_error_in_the_body_stops_the_server():
    with pytest.raises(ZeroDivisionError), server_processes.running(SLEEPER, lambda: None) as process:
        raise ZeroDivisionError
    assert process.poll() is not None


def test_sigterm_runs_finally_blocks():
    code = (
        "import os, signal, time\n"
        "from benchmarks import server_processes\n"
        "server_processes.end_on_sigterm()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGTERM); time.sleep(10)\n"
        "finally:\n    print('stopped')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (ended.returncode, ended.stdout) == (143, "stopped\n")
