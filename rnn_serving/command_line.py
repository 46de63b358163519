"""Flag types, errors and exit statuses that all scripts share."""

import argparse
import contextlib
import math
import os
import re
import sys


class UserError(Exception):
    """An error for the user: what went wrong, where, and what was expected. No traceback, exit status 1."""


def run(main):
    """Run `main()` as a script and exit with its status."""
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        status = fail(error)
    except BrokenPipeError:
        # The reader closed the pipe (`| head`). Point stdout elsewhere, or the flush at exit would fail as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        status = fail(f"{error.filename or 'system call'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def end_process(status):
    """End the process of a server at once, without tearing down the interpreter.

    A thread that is still in TensorFlow would crash that, and one that waits for a client would hold it up.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status or 0)


def fail(message):
    """Print an error in argparse's form; return exit status 1."""
    print(f"{os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr)
    return 1


# Lines of TensorFlow's messages that do not say why: headings, places in code and graph, counts of errors.
_NOT_A_REASON = re.compile(r"\s*$|.*:\s*$|\s(?!\s*\(\d+\) )|Node: |\d+ root error\(s\) found|\[\[")
# What surrounds the reason in its line: the op that ran, or the number and the code of one of several errors.
_AROUND_A_REASON = re.compile(r"^\{\{\w+ \S+\}\} |^\s*\(\d+\) (?:[A-Z_]+: )?| \[Op:\w+\](?: name: ?\S*)?$")


def error_reason(error):
    """Return the line of an error's message that says why it happened.

    TensorFlow puts headings before it, and stacks of code and ops around it.
    """
    lines = str(getattr(error, "message", error)).splitlines()
    reasons = [line for line in lines if not _NOT_A_REASON.match(line)]
    found = next((line for line in [*reasons, *lines] if line.strip()), type(error).__name__)
    return _AROUND_A_REASON.sub("", found).strip()


def request_failure(error):
    """Return the reason an HTTP request failed, without the wrapping of requests and urllib3."""
    cause = error.args[0] if error.args else error
    return error_reason(getattr(cause, "reason", cause)).split(": ", 1)[-1]


def parser(doc):
    """Return an ArgumentParser that shows a script's docstring and every default."""
    return argparse.ArgumentParser(
        description=doc,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        # A default of None is computed later, as the help text explains; "(default: None)" would mislead.
        return action.help if action.default is None else super()._get_help_string(action)


def add_data_dir(arguments):
    """Add `--data_dir`."""
    arguments.add_argument("--data_dir", default="data/mnist", help="directory with the four IDX files of a data set")


def positive_int(text):
    """Parse a whole number of at least 1."""
    return _number(text, int, lambda value: 1 <= value < 2**31, "a whole number of at least 1")


def not_negative_int(text):
    """Parse a whole number of at least 0."""
    return _number(text, int, lambda value: 0 <= value < 2**31, "a whole number of at least 0")


def seed(text):
    """Parse a seed: a whole number of 31 bits."""
    return _number(text, int, lambda value: 0 <= value < 2**31, "a whole number from 0 to 2147483647")


def version_number(text):
    """Parse a version number: positive and below 2^63, as TensorFlow Serving requires."""
    return _number(text, int, lambda value: 1 <= value < 2**63, "a whole number of at least 1, below 2^63")


def positive_float(text):
    """Parse a finite number above 0."""
    return _number(text, float, lambda value: math.isfinite(value) and value > 0, "a number above 0")


def not_negative_float(text):
    """Parse a finite number of at least 0."""
    return _number(text, float, lambda value: math.isfinite(value) and value >= 0, "a number of at least 0")


def fraction(text):
    """Parse a number from 0 to 1."""
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def port_number(text):
    """Parse a TCP port; 0 takes any free one."""
    return _number(text, int, lambda value: 0 <= value <= 65535, "a port from 0 to 65535")


def _number(text, kind, is_valid, expected):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value
