"""Provide standard streams and a temporary directory where cron, a daemon or a read-only container provides none."""

import os
import sys
import tempfile


def open_closed_streams():
    """Open the null device for each standard stream that is closed (`>&-`).

    Python sets such a stream to None, on which `flush` fails, and the next file or socket gets its descriptor: what C++
    writes to descriptor 2 would end up in a checkpoint.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest one that is free: the stream's own
            os.set_inheritable(descriptor, True)
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115, open until the end
            setattr(sys, name, stream)


def find_temporary_directory():
    """Choose another directory for temporary files where Python finds none that can be written.

    TensorFlow asks for its name at import. If /dev/shm cannot be written either, only creating a file fails.
    """
    try:
        tempfile.gettempdir()
    except OSError:
        tempfile.tempdir = "/dev/shm"
