"""Import TensorFlow without its start-up noise: `from rnn_serving.quiet_tensorflow import tf`."""

import contextlib
import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextlib.contextmanager
def _stderr_held_back():
    """Send file descriptor 2 to a file meanwhile, and show what came only if the body raises.

    The first lines are written by C++ static initializers, before any log level is read, so neither Python's
    `sys.stderr` nor an environment variable reaches them.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except Exception:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


with _stderr_held_back():
    import tensorflow as tf

    # Looks for a GPU now, where the complaint that there is none stays unread.
    tf.config.list_physical_devices()

tf.get_logger().setLevel("ERROR")

__all__ = ["tf"]
