"""Flags, errors and exit statuses that every script treats alike."""

import argparse
import math
import os
import sys


class UserError(Exception):
    """What went wrong, where, and what was expected: shown to the user without a traceback, exit status 1."""


def run(main):
    """Run `main()` as a script and end the process with its exit status."""
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        status = fail(error)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); without a stdout there is nothing left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        status = fail(f"{error.filename or 'system call'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def fail(message):
    """Print an error as argparse prints its own; return exit status 1."""
    print(f"{os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr)
    return 1


def first_line(error):
    """Return the first line of an error's message: TensorFlow, for one, appends a stack of ops to it."""
    return (str(getattr(error, "message", error)).splitlines() or [type(error).__name__])[0]


def request_failure(error):
    """Return why an HTTP request failed, without the layers that requests and urllib3 wrap around it."""
    cause = error.args[0] if error.args else error
    return first_line(getattr(cause, "reason", cause)).split(": ", 1)[-1]


def parser(doc):
    """Return an ArgumentParser that shows a script's docstring and every default."""
    return argparse.ArgumentParser(
        description=doc,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        # A default of None means "worked out later"; the help text says how, "(default: None)" would not.
        return action.help if action.default is None else super()._get_help_string(action)


def add_data_dir(arguments):
    """Add `--data_dir`, the data set to read."""
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
    """Parse the number of a version: what fits into 63 bits, as TensorFlow Serving reads it."""
    return _number(text, int, lambda value: 1 <= value < 2**63, "a whole number of at least 1, below 2^63")


def positive_float(text):
    """Parse a finite number above 0."""
    return _number(text, float, lambda value: math.isfinite(value) and value > 0, "a number above 0")


def fraction(text):
    """Parse a number from 0 to 1."""
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def port_number(text):
    """Parse a TCP port; 0 stands for any free one."""
    return _number(text, int, lambda value: 0 <= value <= 65535, "a port from 0 to 65535")


def _number(text, kind, is_valid, expected):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_valid(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return value
