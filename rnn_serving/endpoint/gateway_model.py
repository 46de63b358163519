"""A model server behind the endpoint, as a served model."""

import contextlib
import copy
import logging
import threading
import time

from werkzeug.exceptions import GatewayTimeout, ServiceUnavailable

from rnn_serving.command_line import UserError
from rnn_serving.endpoint.backend import Backend

# Requests that one worker has in flight at the model servers; gRPC's calls block, so each has a thread.
# Those that may wait for a thread: as many as may wait, by default, for a model of the endpoint's own.
MAX_CALLS, MAX_WAITING = 64, 320
# Seconds between two requests for the signature.
SIGNATURE_INTERVAL_S = 10.0

log = logging.getLogger(__name__)


class GatewayModel:
    """A served model that forwards requests to model servers."""

    def __init__(self, backends, model_name, signature_name, timeout_s, concurrency, check):
        """Forward to `backends`; `check(backend)` raises UserError unless the endpoint can serve their signature.

        `concurrency` says how a blocking call waits, `Threads` or `Greenlets`.
        """
        self._arguments, self._check = (backends, model_name, signature_name, timeout_s), check
        self._backend, self._refreshed_at = None, 0.0
        self._queue = _CallQueue(concurrency.blocking_calls(MAX_CALLS), timeout_s)

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
        yield _ForwardedRequest(self._backend, self._queue)

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
        self._queue.close()


class _CallQueue:
    """Calls of `Backend.predict` that share threads: a bounded number, with deadlines that include the waiting."""

    def __init__(self, calls, timeout_s):
        self._calls, self._timeout_s = calls, timeout_s
        self._room = threading.Semaphore(MAX_CALLS + MAX_WAITING)

    def predict(self, backend, inputs):
        """Return what `backend.predict` does.

        Raises: what it raises, ServiceUnavailable at once if too many calls wait, GatewayTimeout at the deadline.
        """
        if not self._room.acquire(blocking=False):
            raise ServiceUnavailable(f"{MAX_WAITING} requests are waiting; expected fewer at a time", retry_after=1)
        try:
            return self._calls.call(self._predict, backend, inputs, time.monotonic() + self._timeout_s)
        finally:
            self._room.release()

    def _predict(self, backend, inputs, deadline):
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise GatewayTimeout(f"no answer within {self._timeout_s:g} s")
        return backend.predict(inputs, remaining_s)

    def close(self):
        """End the threads."""
        self._calls.close()


class _ForwardedRequest:
    def __init__(self, backend, queue):
        self._backend, self._queue = backend, queue
        self.name, self.version, self.dataset = backend.name, backend.version, backend.dataset
        self.signature, self.logits = backend.signature, backend.logits
        self.mode = f"forwarded to {backend.backends}"

    def predict(self, inputs):
        """Return {key: array} of the outputs from {key: array} of the inputs."""
        outputs, self.version = self._queue.predict(self._backend, inputs)
        return outputs
