"""A model server behind the endpoint, asked by greenlets."""

import contextlib
import logging
import time

from werkzeug.exceptions import ServiceUnavailable

from rnn_serving.command_line import UserError
from rnn_serving.flask_endpoint.gateway import Backend
from rnn_serving.flask_endpoint.native_threads import NativeThreads

# Requests that one worker has under way at the model servers; gRPC's own calls block, so each has a thread.
MAX_CALLS = 64
# Seconds between two looks whether the model servers have another signature.
LOOK_S = 10.0

log = logging.getLogger(__name__)


class GatewayModel:
    """A `Backend` whose calls hold up a thread of their own, not the loop of the greenlets."""

    def __init__(self, backends, model_name, signature_name, timeout_s, check):
        """Forward to `backends`; `check(model)` raises UserError unless the endpoint can serve what they offer."""
        self._arguments, self._check = (backends, model_name, signature_name, timeout_s), check
        self._backend, self._threads, self._looked_at = None, NativeThreads(MAX_CALLS), 0.0

    @property
    def is_ready(self):
        """Whether a model server has told its signature."""
        return self._backend is not None

    def load(self):
        """Ask for the signature.

        Raises: UserError if no model server answers or the model is not fit.
        """
        backend = Backend(*self._arguments)
        try:
            backend.connect()
            self._check(backend)
        except BaseException:
            backend.close()
            raise
        self._backend = backend

    def refresh(self):
        """Ask for the signature again now and then: the model servers may have loaded a version with another one."""
        if time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        try:
            self._backend.connect()
        except UserError as error:
            log.warning("%s; requests get 503 until one is back", error)

    def close(self):
        """Close the connections."""
        self._backend.close()
        self._threads.close()

    def __getattr__(self, name):
        """Return what the model servers told: name, version, data set and signature."""
        if name not in ("name", "version", "dataset", "signature"):
            raise AttributeError(name)
        return getattr(self._backend, name)

    @contextlib.contextmanager
    def acquire(self):
        """Give a model for one request, whose version is the one that answered it.

        Raises: ServiceUnavailable before a model server has told its signature.
        """
        if not self.is_ready:
            raise ServiceUnavailable("no model server has answered yet; expected a moment's patience", retry_after=1)
        with self._backend.acquire() as call:
            yield _Call(call, self._backend, self._threads)

    def predict(self, inputs):
        """Return {key: array} of the outputs from {key: array} of the inputs."""
        with self.acquire() as call:
            return call.predict(inputs)


class _Call:
    def __init__(self, call, backend, threads):
        self._call, self._threads = call, threads
        self.name, self.dataset, self.signature = backend.name, backend.dataset, backend.signature

    @property
    def version(self):
        return self._call.version

    def predict(self, inputs):
        return self._threads.call(self._call.predict, inputs)
