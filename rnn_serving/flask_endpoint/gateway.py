"""Answer by asking a model server, or several: no session and no model here.

Any server of TensorFlow Serving's PredictionService will do. Which server a call goes to, trying another one and
coming back to one that was down is gRPC's own doing; this module says how, and translates tensors and errors.
"""

import contextlib
import functools
import json
import time
from dataclasses import dataclass

import grpc
import numpy as np
from werkzeug.exceptions import BadGateway, GatewayTimeout, ServiceUnavailable, UnprocessableEntity

from rnn_serving.command_line import UserError, first_line
from rnn_serving.flask_endpoint.backend_addresses import parse_backends, target
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.tensors import decode, encode, encode_as_content
from rnn_serving.saved_model import DEFAULT_SIGNATURE, tensor_info

from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

_MAX_MESSAGE_BYTES = 2**31 - 1
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            # A model keeps no state between calls, so one that a server died of can be made again. If all are down,
            # this is how long a call takes to say so: 0.35 s.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # TensorFlow Serving is UNAVAILABLE too when its queue is full: once 500 attempts have failed and not five times
    # as many succeeded, nothing is tried again, which would be four times the load.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.2},
}
_CHANNEL_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A request that does not fit is never tried again; the default of 256 KiB is 83 images.
    ("grpc.per_rpc_retry_buffer_size", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    # gRPC waits up to two minutes before it tries a server again that was down.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long a connection may take (its name is older than its meaning). Calls wait for the first one: of a host that
    # does not even refuse, for 20 s by default.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # A name whose servers have moved is looked up again after half a minute by default.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
)
# Seconds between two looks whether a server has come up.
_ASK_AGAIN_S = 0.1

_CODE = grpc.StatusCode
# gRPC codes -> what makes the HTTP error, and what was expected instead.
_ERRORS = (
    (
        (_CODE.INVALID_ARGUMENT, _CODE.OUT_OF_RANGE, _CODE.FAILED_PRECONDITION),
        UnprocessableEntity,
        "what the signature {signature!r} of model {model} takes",
    ),
    (
        # A model that is not there is no fault of the request.
        (_CODE.UNAVAILABLE, _CODE.RESOURCE_EXHAUSTED, _CODE.ABORTED, _CODE.NOT_FOUND),
        functools.partial(ServiceUnavailable, retry_after=1),
        "a model server there that serves {model} and has room for the request",
    ),
    ((_CODE.DEADLINE_EXCEEDED, _CODE.CANCELLED), GatewayTimeout, "an answer within {timeout_s:g} s"),
)
_ERROR_OF_CODE = {code: (make, expected) for codes, make, expected in _ERRORS for code in codes}
_OTHER_ERROR = (BadGateway, "TensorFlow Serving's answer to a Predict call")


@dataclass(frozen=True)
class RemoteSignature:
    """What a model server tells of a signature: {key: saved_model.TensorInfo} each."""

    inputs: dict
    outputs: dict


class Backend:
    """A model at one or more model servers, with the interface of `saved_model.ServedModel`.

    Its calls block and may be made from any number of threads. A process that forks has to do so before it makes one.
    """

    def __init__(self, backends, model_name, signature_name=DEFAULT_SIGNATURE, timeout_s=10.0):
        """Prepare to ask `backends`, "HOST:PORT" or several joined by commas; nothing is asked yet.

        A single name stands for all its addresses and is looked up again when a connection is lost; the names of
        a list are looked up once, here. `timeout_s` limits each call.
        Raises: argparse.ArgumentTypeError for other text, UserError if a name of a list is unknown.
        """
        self.backends = parse_backends(backends)
        # A model server does not tell what its model was trained on.
        self.name, self.version, self.dataset = model_name, None, None
        self.signature = RemoteSignature({}, {})
        self._signature_name, self._timeout_s = signature_name, timeout_s
        self._channel = grpc.insecure_channel(target(self.backends), _channel_options(self.backends, timeout_s))
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def connect(self):
        """Learn version and signature from the first backend that answers; one may still be starting.

        Raises: UserError if none has after `timeout_s` seconds, or if it has no such model or signature.
        """
        response = self._metadata()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        version, offered = response.model_spec.version.value, signatures.signature_def
        if self._signature_name not in offered:
            raise UserError(
                f"backend {self.backends}: model {self.name} version {version} has no signature "
                f"{self._signature_name!r}; expected one of {sorted(offered)}"
            )
        definition = offered[self._signature_name]
        self.version, self.signature = version, RemoteSignature(_infos(definition.inputs), _infos(definition.outputs))

    def predict(self, inputs, output_keys=None):
        """Return {key: array} of the outputs asked for (None: all) from {key: array} of all inputs.

        Raises: a werkzeug HTTPException that says what a backend answered.
        """
        return self._ask(inputs, output_keys)[0]

    @contextlib.contextmanager
    def acquire(self):
        """Give the model as one request sees it: after its `predict`, `version` is the one that answered."""
        yield _Request(self)

    def close(self):
        """End the connections, and with them the calls that have no answer yet."""
        self._channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _metadata(self):
        """Return the first answer to GetModelMetadata, or raise UserError with the last error."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.name
        deadline, refusal = time.monotonic() + self._timeout_s, None
        # Not by `wait_for_ready`, whose "Deadline Exceeded" does not say what was in the way.
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                return self._stub.GetModelMetadata(request, timeout=left_s)
            except grpc.RpcError as error:
                if error.code() not in (_CODE.UNAVAILABLE, _CODE.DEADLINE_EXCEEDED):
                    raise UserError(self._describe(error)) from error
                refusal = error if error.code() == _CODE.UNAVAILABLE else refusal or error
            time.sleep(_ASK_AGAIN_S)
        raise UserError(self._describe(refusal)) from refusal

    def _ask(self, inputs, output_keys):
        """Return what `predict` does, and the version that answered."""
        keys = list(self.signature.outputs if output_keys is None else output_keys)
        request = predict_pb2.PredictRequest(output_filter=keys)
        request.model_spec.name, request.model_spec.signature_name = self.name, self._signature_name
        for key, array in inputs.items():
            request.inputs[key].CopyFrom(to_tensor(array))
        try:
            response = self._stub.Predict(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            make, _ = _ERROR_OF_CODE.get(error.code(), _OTHER_ERROR)
            raise make(self._describe(error)) from error
        outputs = self._outputs(response, keys)
        self.version = response.model_spec.version.value
        return outputs, self.version

    def _outputs(self, response, keys):
        """Return {key: array} of a PredictResponse; raise BadGateway unless all `keys` are there and whole."""
        missing = sorted(set(keys) - set(response.outputs))
        if missing:
            raise BadGateway(f"backend {self.backends}: the answer has no {missing}; expected {sorted(keys)}")
        try:
            return {key: decode(key, tensor) for key, tensor in response.outputs.items()}
        except ServingError as error:
            raise BadGateway(f"backend {self.backends}: {error.message}; expected whole tensors") from error

    def _describe(self, error):
        """Return what to tell of a grpc.RpcError: where, which, and what was expected."""
        _, expected = _ERROR_OF_CODE.get(error.code(), _OTHER_ERROR)
        expected = expected.format(model=self.name, signature=self._signature_name, timeout_s=self._timeout_s)
        details = first_line(error.details() or "no details")
        return f"backend {self.backends}: {error.code().name}: {details}; expected {expected}"


class _Request:
    """A `Backend` as one request sees it."""

    def __init__(self, backend):
        self._backend = backend
        self.name, self.version, self.dataset = backend.name, backend.version, backend.dataset
        self.signature = backend.signature

    def predict(self, inputs, output_keys=None):
        """Do what `Backend.predict` does, and note the version that answered."""
        outputs, self.version = self._backend._ask(inputs, output_keys)
        return outputs


def _channel_options(backends, timeout_s):
    """Return the options with which a host that vanished or a process that hangs is given up.

    It has 0.7 `timeout_s`, so that there is time left to ask another one; TCP alone would take a quarter of an hour.
    """
    return [
        *_CHANNEL_OPTIONS,
        # Otherwise the list of all addresses would be the name of the host in every request.
        ("grpc.default_authority", backends.split(",")[0]),
        # Not more often: a server hangs up on who pings it again and again while it works on a call.
        ("grpc.keepalive_time_ms", max(1000, int(400 * timeout_s))),
        # How long the system waits for a host, and gRPC, by an option of its own, for the process.
        ("grpc.keepalive_timeout_ms", max(1000, int(300 * timeout_s))),
        ("grpc.http2.ping_timeout_ms", max(1000, int(300 * timeout_s))),
    ]


def _infos(tensors):
    return {key: tensor_info(key, info) for key, info in sorted(tensors.items())}


def to_tensor(array):
    """Return an array as a TensorProto: numbers as one string of bytes, strings one by one."""
    array = np.asarray(array)
    if array.dtype.kind in "OSU":
        return encode(array)
    return encode_as_content(array.astype(array.dtype.newbyteorder("<"), copy=False))
