"""Import TensorFlow without its start-up noise and without the user's Keras settings.

from rnn_serving.quiet_tensorflow import tf
"""

import contextlib
import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _ignore_keras_settings(environment):
    """Make Keras, which TensorFlow imports, ignore the settings that the user has for other projects.

    `tf.keras` needs Keras 3 on TensorFlow. Another precision or a limit of steps would change the training.
    """
    for name in [name for name in environment if name.startswith("KERAS_") or name == "TF_USE_LEGACY_KERAS"]:
        del environment[name]
    environment["KERAS_BACKEND"] = "tensorflow"
    # Where Keras reads keras.json and stores its downloads.
    environment["KERAS_HOME"] = os.path.join(os.path.expanduser("~"), ".cache", "rnn-serving", "keras")


@contextlib.contextmanager
def _stderr_captured():
    """Redirect file descriptor 2 to a file during the body, and print its content only if the body raises.

    C++ static initializers write the first lines before they read any log level, so neither Python's `sys.stderr` nor
    an environment variable can silence them.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with _scratch_file() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception:
            captured.seek(0)
            os.write(terminal, captured.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def _scratch_file():
    try:
        return tempfile.TemporaryFile()
    except OSError:  # without a writable directory, the output is lost
        return open(os.devnull, "r+b")


@contextlib.contextmanager
def _without_matplotlib():
    """Prevent Keras from importing matplotlib in the body: that takes a while, and needs a writable directory."""
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules["matplotlib"] = None  # as if it were not installed
    try:
        yield
    finally:
        del sys.modules["matplotlib"]


_ignore_keras_settings(os.environ)
with _stderr_captured(), _without_matplotlib():
    import tensorflow as tf

    # Look for a GPU now, while the warning that there is none is hidden.
    tf.config.list_physical_devices()

tf.get_logger().setLevel("ERROR")

__all__ = ["tf"]
