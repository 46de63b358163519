"""One version of a model: load it, warm it up, run it, unload it."""

import asyncio
import contextlib
import os
import threading

import grpc

from rnn_serving import exports, saved_model
from rnn_serving.model_server import warmup
from rnn_serving.model_server.batching_session import BatchingSession
from rnn_serving.model_server.errors import ServingError, failed_precondition, not_found
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import get_model_status_pb2

State = get_model_status_pb2.ModelVersionStatus.State
_MODEL_FILES = (*exports.SAVED_MODEL_FILES, "model.tflite")


class Servable:
    """One version of one model; its state changes as the manager loads and unloads it.

    `failure`: error of the last load attempt; `error`: final error after the last retry.
    """

    def __init__(self, name, number, directory):
        self.name, self.number, self.directory = name, number, directory
        self.state, self.error = State.START, None
        self.aspired = True
        self.failure, self.attempts, self.next_attempt = None, 0, 0.0  # of loads; a `time.monotonic()` timestamp
        self._model, self._batching = None, None
        self._users, self._idle = 0, threading.Condition()

    def __str__(self):
        return f"{{name: {self.name} version: {self.number}}}"

    def load(self, options):
        """Load the SavedModel and run its warm-up requests.

        Raises: ServingError with the C++ server's code and message.
        """
        check_directory(self)
        if options.prefer_tflite_model and os.path.exists(os.path.join(self.directory, "model.tflite")):
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"{self.directory}: TFLite models are not supported")
        try:
            model = saved_model.load(self.directory, options.saved_model_tags.split(","), options.session_config)
        except exports.ExportError as error:
            raise _load_error(error, self.directory, options.saved_model_tags) from error
        try:
            self._batching = BatchingSession.of(options.batching, self.directory, model.signatures)
            self._model = model
            if options.enable_model_warmup:
                warmup.warm_up(self, options.num_request_iterations_for_warmup)
        except BaseException:
            self._model = None
            model.close()
            raise

    @property
    def signatures(self):
        """The signatures of the loaded model, by name."""
        return self._model.signatures

    def run(self, signature, inputs, output_aliases, timeout_s=None):
        """Return {alias: array} of a signature's outputs; with batching, run the request in a batch.

        Raises: ServingError with TensorFlow's own code and message.
        """
        with _as_serving_errors():
            if self._batching and inputs:
                return self._batching.run(signature, inputs, output_aliases, timeout_s)
            return signature(inputs, output_aliases, timeout_s)

    async def run_async(self, signature, inputs, output_aliases, timeout_s=None):
        """Do the same as `run` without blocking the event loop."""
        with _as_serving_errors():
            if self._batching and inputs:
                return await self._batching.run_async(signature, inputs, output_aliases, timeout_s)
            return await asyncio.to_thread(signature, inputs, output_aliases, timeout_s)

    def acquire(self):
        """Return the version, which stays loaded until the end of a `with servable:`."""
        with self._idle:
            self._users += 1
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._idle:
            self._users -= 1
            if not self._users:
                self._idle.notify_all()

    def unload(self):
        """Free the model once the last request has been answered."""
        with self._idle:
            self._idle.wait_for(lambda: not self._users)
        self._model.close()
        self._model = self._batching = None


@contextlib.contextmanager
def _as_serving_errors():
    """Turn TensorFlow's errors into ServingErrors."""
    try:
        yield
    except tf.errors.OpError as error:
        raise ServingError.of(error) from error


def check_directory(servable):
    """Raise the C++ server's error for a version that is not a directory or has no SavedModel."""
    if not tf.io.gfile.isdir(servable.directory):
        raise failed_precondition(
            f"Error while attempting to reserve resources to load servable {servable}: "
            f"{servable.directory}; Not a directory"
        )
    if not any(tf.io.gfile.exists(os.path.join(servable.directory, name)) for name in _MODEL_FILES):
        raise not_found(
            "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
            f"`saved_model.pb`)\nSpecified file path: {servable.directory}"
        )


def _load_error(error, directory, tags):
    """Return the C++ server's error for an error of Python's loader."""
    if "could not be found in SavedModel" in str(error):
        listed = " ".join(tags.split(","))
        return not_found(
            f"Could not find meta graph def matching supplied tags: {{ {listed} }}. To inspect available tag-sets in "
            "the SavedModel, please use the SavedModel CLI: `saved_model_cli`"
        )
    if isinstance(error.__cause__, tf.errors.OpError):
        return ServingError.of(error)
    path = os.path.join(directory, exports.SAVED_MODEL_FILE)
    form = "binary" if os.path.exists(path) else "text"
    return ServingError(
        grpc.StatusCode.DATA_LOSS, f"Can't parse {path if form == 'binary' else path + 'txt'} as {form} proto: {error}"
    )
