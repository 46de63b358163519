"""The model of a `ServerCore` as a served model of the Flask application (see `saved_model.ServedModel`)."""

import contextlib
import functools

import grpc
from werkzeug.exceptions import GatewayTimeout, ServiceUnavailable, UnprocessableEntity
from werkzeug.exceptions import NotImplemented as HTTPNotImplemented

from rnn_serving import exports
from rnn_serving.command_line import UserError, error_reason
from rnn_serving.endpoint import signature
from rnn_serving.model_server.errors import ServingError
from rnn_serving.saved_model import DEFAULT_SIGNATURE

from tensorflow_serving.apis import model_pb2

_TRANSIENT = {
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
}


class ServedCore:
    """A served model whose version is the newest one that a `ServerCore` has loaded."""

    def __init__(self, core, name, timeout_s):
        """Serve the model `name` with a deadline of `timeout_s` for each call."""
        self._core, self._spec, self._timeout_s = core, model_pb2.ModelSpec(name=name), timeout_s

    @property
    def is_ready(self):
        """Whether a version is loaded."""
        return self._core.is_available(self._spec.name)

    @contextlib.contextmanager
    def acquire(self):
        """Yield the newest version, which stays loaded until the body ends.

        Raises: ServiceUnavailable if there is none.
        """
        try:
            found = self._core.lookup(self._spec)
        except ServingError as error:
            raise ServiceUnavailable("the model is still loading; retry shortly", retry_after=1) from error
        with found as servable:
            yield _version(servable, self._timeout_s)


@functools.lru_cache(maxsize=2)
def _version(servable, timeout_s):
    """Return a version as the application wants it; raise 501 if JSON cannot carry its signature."""
    try:
        version = _Version(servable, timeout_s)
        signature.check_model(version, None, None, None)
    except (KeyError, UserError) as error:
        reason = f"model {servable.name} has no signature {error}" if isinstance(error, KeyError) else error
        raise HTTPNotImplemented(f"{reason}; expected a gRPC call, or a model with one input and one output") from error
    return version


class _Version:
    mode = "a replica of a cluster"

    def __init__(self, servable, timeout_s):
        self._servable, self._timeout_s = servable, timeout_s
        self.name, self.version = servable.name, servable.number
        self.signature = servable.signatures[DEFAULT_SIGNATURE]
        origin = exports.provenance(servable.directory)
        self.dataset = origin.get("dataset", {}).get("name")
        self.logits = exports.described_signature(origin, DEFAULT_SIGNATURE).get("logits", [])

    def predict(self, inputs):
        """Return {key: array} of the outputs from {key: array} of the inputs.

        Raises: UnprocessableEntity, ServiceUnavailable or GatewayTimeout.
        """
        missing = self.signature.missing_tensors()
        keys = [key for key, info in self.signature.outputs.items() if info not in missing]
        try:
            return self._servable.run(self.signature, inputs, keys, self._timeout_s)
        except ServingError as error:
            if error.code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise GatewayTimeout(f"no answer within {self._timeout_s:g} s") from error
            if error.code in _TRANSIENT:
                raise ServiceUnavailable(f"the model call failed: {error_reason(error)}", retry_after=1) from error
            raise UnprocessableEntity(f"the model rejects 'data': {error_reason(error)}") from error
