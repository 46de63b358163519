import argparse
import subprocess
import sys

import pytest
from conftest import run_script

from rnn_serving import command_line


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("positive_int", "1", 1),
        ("seed", "0", 0),
        ("positive_float", "1e-3", 0.001),
        ("fraction", "1", 1.0),
        ("port_number", "65535", 65535),
    ],
)
def test_a_flag_of_the_right_kind_is_a_number(kind, text, value):
    assert getattr(command_line, kind)(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("positive_int", text) for text in ("0", "-1", "1.5", "abc", "")),
        *(("seed", text) for text in ("-1", "2147483648")),
        *(("positive_float", text) for text in ("0", "nan", "inf", "-1")),
        *(("fraction", text) for text in ("-0.1", "1.1", "nan")),
        *(("port_number", text) for text in ("-1", "65536", "http")),
    ],
)
def test_another_says_what_came_and_what_was_expected(kind, text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"^{text!r} is not a"):
        getattr(command_line, kind)(text)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("return 0", 0, ""),
        ("return None", 0, ""),
        ("raise command_line.UserError('x is 1; expected 2')", 1, "-c: error: x is 1; expected 2\n"),
        ("open('/nonexistent/file')", 1, "-c: error: /nonexistent/file: No such file or directory\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
    ],
)
def test_a_script_ends_with_a_status_and_one_line(body, status, error):
    ended = run_script("-c", f"from rnn_serving import command_line\ndef main():\n    {body}\ncommand_line.run(main)")
    assert (ended.returncode, ended.stderr) == (status, error)


def test_a_reader_that_went_away_is_no_traceback():
    code = "from rnn_serving import command_line; command_line.run(lambda: print('x' * 10_000_000))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 141
