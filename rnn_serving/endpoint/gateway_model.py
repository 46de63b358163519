"""A model server behind the endpoint, as a served model."""

import contextlib
import copy
import logging
import threading
import time

from werkzeug.exceptions import ServiceUnavailable

from rnn_serving.command_line import UserError
from rnn_serving.endpoint.backend import Backend

# Requests that one worker has in flight at the model servers: as many as a model of the endpoint's own, by default, has
# in its queue and its call.
MAX_CALLS = 352
# Seconds between two requests for the signature.
SIGNATURE_INTERVAL_S = 10.0

log = logging.getLogger(__name__)


class GatewayModel:
    """A served model that forwards requests to model servers."""

    waits_for_store = False

    def __init__(self, backends, model_name, signature_name, timeout_s, concurrency, check, tls=None):
        """Forward to `backends`; `check(backend)` raises UserError unless the endpoint can serve their signature.

        `concurrency` says how a call waits, `Threads` or `Greenlets`; `tls` is a `TLS` or None for plain text.
        """
        self._arguments, self._check = (backends, model_name, signature_name, timeout_s, tls), check
        self._backend, self._refreshed_at = None, 0.0
        self._futures, self._room = concurrency.futures(), threading.Semaphore(MAX_CALLS)

    @property
    def is_ready(self):
        """Whether a model server has reported its signature."""
        return self._backend is not None

    @contextlib.contextmanager
    def acquire(self):
        """Yield the model for one request; after its `predict`, `version` is the one that answered.

        Raises: ServiceUnavailable before a model server has reported its signature.
        """
        if not self.is_ready:
            raise ServiceUnavailable("no model server has answered yet; retry shortly", retry_after=1)
        yield _ForwardedRequest(self._backend, self._predict)

    def _predict(self, backend, inputs):
        """Return what `backend.predict` does.

        Raises: what it raises, ServiceUnavailable at once if too many requests are in flight.
        """
        if not self._room.acquire(blocking=False):
            raise ServiceUnavailable(f"{MAX_CALLS} requests are in flight; expected fewer at a time", retry_after=1)
        try:
            return backend.predict(inputs, self._futures.wait)
        finally:
            self._room.release()

    def load(self):
        """Get the signature; log now and then that no model server answers yet.

        Raises: UserError if no model server answers or the model is unfit.
        """
        backend = Backend(*self._arguments)
        try:
            backend.connect(report=lambda refusal: log.warning("%s; asking again", refusal))
            self._check(backend)
        except BaseException:
            backend.close()
            raise
        self._backend = backend

    def refresh(self):
        """Get the signature again now and then: the model servers may have loaded a version with another one.

        A signature that the endpoint cannot serve is logged, and the previous one stays in use.
        """
        if time.monotonic() - self._refreshed_at < SIGNATURE_INTERVAL_S:
            return
        self._refreshed_at = time.monotonic()
        try:
            backend = copy.copy(self._backend)  # with the same connections; requests see it once it is checked
            backend.connect()
            self._check(backend)
            self._backend = backend
        except UserError as error:
            log.warning("%s; keeping the signature of version %s", error, self._backend.version)

    def close(self):
        """Close the connections."""
        if self._backend:
            self._backend.close()
        self._futures.close()


class _ForwardedRequest:
    def __init__(self, backend, predict):
        self._backend, self._predict = backend, predict
        self.name, self.version, self.dataset = backend.name, backend.version, backend.dataset
        self.signature, self.logits = backend.signature, backend.logits
        self.mode = f"forwarded to {backend.backends}"

    def predict(self, inputs):
        """Return {key: array} of the outputs from {key: array} of the inputs."""
        outputs, self.version = self._predict(self._backend, inputs)
        return outputs
