"""Call a model at one or more model servers over gRPC: no session and no model here.

Any server of TensorFlow Serving's PredictionService will do. gRPC itself balances the calls over the servers, retries
on another one, and returns to one that was down; this module configures that, and translates tensors and errors.
"""

import functools
import json
import time
from dataclasses import dataclass
from urllib.parse import unquote

import grpc
import numpy as np
from werkzeug.exceptions import BadGateway, GatewayTimeout, ServiceUnavailable, UnprocessableEntity

from rnn_serving.command_line import UserError, error_reason
from rnn_serving.endpoint.backend_addresses import parse_backends, target
from rnn_serving.model import LOGITS_NAME, OUTPUT_KEY
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.metadata import TRAINED_ON
from rnn_serving.model_server.tensors import decode, encode, encode_as_content
from rnn_serving.saved_model import DEFAULT_SIGNATURE, tensor_info
from rnn_serving.tls import open_channel, tls_refusal

from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

_MAX_MESSAGE_BYTES = 2**31 - 1
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            # A model keeps no state between calls, so a call that a server failed to answer can be repeated. If all
            # servers are down, a call fails after 0.35 s.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # Stop retrying when failures exceed a fifth of successes by 500: TensorFlow Serving is also UNAVAILABLE when its
    # queue is full, and retries would multiply the load.
    "retryThrottling": {"maxTokens": 1000, "tokenRatio": 0.2},
}
_CHANNEL_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    # A request that does not fit is not retried; the default of 256 KiB is 83 images.
    ("grpc.per_rpc_retry_buffer_size", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    # By default, gRPC waits up to two minutes before it reconnects to a server that was down.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long a connection attempt may take (the name is historical). Calls wait for the first attempt, by default
    # 20 s if the host does not respond.
    ("grpc.min_reconnect_backoff_ms", 2000),
    # By default, a name whose servers have moved is resolved again after half a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
)
# Seconds between two attempts to reach a server that is still starting, before the first report of that, and between
# two reports.
_RETRY_S, _REPORT_AFTER_S, _REPORT_INTERVAL_S = 0.1, 1.0, 10.0

# What gRPC says of an HTTP server.
_HTTP_1 = "Failed parsing HTTP/2"
_CODE = grpc.StatusCode
# gRPC codes -> what makes the HTTP error, and what was expected instead.
_ERRORS = (
    (
        (_CODE.INVALID_ARGUMENT, _CODE.OUT_OF_RANGE, _CODE.FAILED_PRECONDITION),
        UnprocessableEntity,
        "what the signature {signature!r} of model {model} takes",
    ),
    (
        # That a model is missing is not the fault of the request.
        (_CODE.UNAVAILABLE, _CODE.RESOURCE_EXHAUSTED, _CODE.ABORTED, _CODE.NOT_FOUND),
        functools.partial(ServiceUnavailable, retry_after=1),
        "a model server there that serves {model} and has room for the request",
    ),
    ((_CODE.DEADLINE_EXCEEDED, _CODE.CANCELLED), GatewayTimeout, "an answer within {timeout_s:g} s"),
)
_ERROR_OF_CODE = {code: (make, expected) for codes, make, expected in _ERRORS for code in codes}
_OTHER_ERROR = (BadGateway, "a TensorFlow Serving PredictionService")


@dataclass(frozen=True)
class RemoteSignature:
    """The inputs and outputs of a signature, {key: saved_model.TensorInfo}, as a model server reports them."""

    inputs: dict
    outputs: dict

    def missing_tensors(self):
        """Return the inputs and outputs, TensorInfo, that have no tensor: ragged or sparse ones, for example."""
        return [info for info in (*self.inputs.values(), *self.outputs.values()) if not info.name]


class Backend:
    """A model at one or more model servers.

    Calls may be made from any number of threads. A process must not fork once it has made one.
    """

    def __init__(self, backends, model_name, signature_name=DEFAULT_SIGNATURE, timeout_s=10.0, tls=None):
        """Prepare to call `backends`, "HOST:PORT" or several joined by commas; nothing is sent yet.

        A single name stands for all its addresses and is resolved again when a connection is lost; the names of a list
        are resolved once, here. `timeout_s` is the deadline of each call, `tls` a `TLS` or None for plain text.
        Raises: argparse.ArgumentTypeError for other text, UserError if a name of a list is unknown.
        """
        self.backends = parse_backends(backends)
        self.name, self.version, self.dataset = model_name, None, None
        self.signature, self.logits = RemoteSignature({}, {}), []
        self._signature_name, self._timeout_s = signature_name, timeout_s
        self._tls = tls
        self._channel = open_channel(target(self.backends), _channel_options(self.backends, timeout_s), tls)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def connect(self, report=lambda refusal: None):
        """Get version and signature from the first backend that answers; one may still be starting.

        While none answers, `report(refusal)` is called now and then with what the last one said.
        Raises: UserError if none has after `timeout_s` seconds, or if it has no such model or signature.
        """
        response, headers = self._metadata(report)
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
        # Our own model server reports what a model was trained on, TensorFlow Serving does not.
        self.dataset = unquote(headers.get(TRAINED_ON, "")) or None
        # A signature does not say what its outputs mean; the pipeline's own is known by its names.
        output = self.signature.outputs.get(OUTPUT_KEY)
        self.logits = [OUTPUT_KEY] if output and output.name == LOGITS_NAME else []

    def predict(self, inputs, wait=lambda future: None):
        """Return ({key: array} of all outputs, the version that answered) from {key: array} of all inputs.

        `wait(future)` returns when the call is done; by default it blocks the thread.
        Raises: a werkzeug HTTPException with the error of a backend.
        """
        missing = self.signature.missing_tensors()
        keys = [key for key, info in self.signature.outputs.items() if info not in missing]
        request = predict_pb2.PredictRequest(output_filter=keys)
        request.model_spec.name, request.model_spec.signature_name = self.name, self._signature_name
        for key, array in inputs.items():
            request.inputs[key].CopyFrom(to_tensor(array))
        call = None
        try:
            call = self._stub.Predict.future(request, timeout=self._timeout_s)
            wait(call)
            response = call.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            failed = call or error  # a request that is too large for gRPC fails before there is a call
            make, _ = _ERROR_OF_CODE.get(failed.code(), _OTHER_ERROR)
            raise make(self._describe(failed)) from error
        outputs = self._outputs(response, keys)
        self.version = response.model_spec.version.value
        return outputs, self.version

    def close(self):
        """Close the connections, which cancels the calls that have no answer yet."""
        self._channel.close()

    def _metadata(self, report):
        """Return the first answer to GetModelMetadata and its headers, or raise UserError with the last error."""
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.name
        began, refusal = time.monotonic(), None
        deadline, report_at = began + self._timeout_s, began + _REPORT_AFTER_S
        # Not by `wait_for_ready`, whose "Deadline Exceeded" does not give the cause.
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                response, call = self._stub.GetModelMetadata.with_call(request, timeout=min(left_s, _REPORT_INTERVAL_S))
                return response, dict(call.trailing_metadata())
            except grpc.RpcError as error:
                if error.code() not in (_CODE.UNAVAILABLE, _CODE.DEADLINE_EXCEEDED):
                    raise UserError(self._describe(error)) from error
                if refusal is None:
                    self._require_tls(error, may_guess=False)
                refusal = error if error.code() == _CODE.UNAVAILABLE else refusal or error
            if time.monotonic() >= report_at:
                report(self._describe(refusal))
                report_at += _REPORT_INTERVAL_S
            time.sleep(_RETRY_S)
        self._require_tls(refusal, may_guess=True)
        raise UserError(self._describe(refusal)) from refusal

    def _require_tls(self, error, may_guess):
        """Raise UserError if `error` is due to a backend that does not take our connection with, or without, TLS."""
        for address in self.backends.split(","):
            if reason := tls_refusal(address, self._tls, may_guess):
                raise UserError(f"backend {self.backends}: {address}: {reason}") from error

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
        """Describe a grpc.RpcError: where it came from, what it says, and what was expected."""
        _, expected = _ERROR_OF_CODE.get(error.code(), _OTHER_ERROR)
        expected = expected.format(model=self.name, signature=self._signature_name, timeout_s=self._timeout_s)
        details = error_reason(error.details() or "no details")
        if _HTTP_1 in details:
            expected = "a gRPC port (--port of the model server), not one of HTTP such as --rest_api_port"
        return f"backend {self.backends}: {error.code().name}: {details}; expected {expected}"


def _channel_options(backends, timeout_s):
    """Return the options that detect a vanished host or a hanging process by keepalive.

    Detection takes 0.7 `timeout_s`, which leaves time to try another server; TCP alone would take 15 minutes.
    """
    return [
        *_CHANNEL_OPTIONS,
        # Otherwise every request would name the list of all addresses as its host.
        ("grpc.default_authority", backends.split(",")[0]),
        # Not more often: a server disconnects clients that ping it too often during a call.
        ("grpc.keepalive_time_ms", max(1000, int(400 * timeout_s))),
        # How long the system waits for the host; a second option is how long gRPC waits for the process.
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
