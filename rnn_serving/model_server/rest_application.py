"""The REST API as a WSGI application (http_server.cc, http_rest_api_handler.cc): status codes, headers and bodies."""

from typing import NamedTuple

import grpc
from google.protobuf import json_format

from rnn_serving.model_server import (
    SERVED_BY,
    inference,
    json_answers,
    json_examples,
    json_predict_inputs,
    json_text,
    json_values,
    monitoring,
    rest_routes,
    unpacking,
)
from rnn_serving.model_server.errors import TRUNCATED, ServingError, invalid_argument
from rnn_serving.model_server.metadata import SIGNATURE_FIELD, get_model_metadata
from rnn_serving.saved_model import DEFAULT_SIGNATURE

from tensorflow_serving.apis import get_model_metadata_pb2

StatusCode = grpc.StatusCode
HTTP_STATUS = {
    StatusCode.INVALID_ARGUMENT: "400 Bad Request",
    StatusCode.FAILED_PRECONDITION: "400 Bad Request",
    StatusCode.OUT_OF_RANGE: "400 Bad Request",
    StatusCode.UNAUTHENTICATED: "401 Unauthorized",
    StatusCode.PERMISSION_DENIED: "403 Forbidden",
    StatusCode.NOT_FOUND: "404 Not Found",
    StatusCode.ALREADY_EXISTS: "409 Conflict",
    StatusCode.ABORTED: "409 Conflict",
    StatusCode.RESOURCE_EXHAUSTED: "429 Too Many Requests",
    StatusCode.CANCELLED: "499 Client Closed Request",
    StatusCode.UNKNOWN: "500 Internal Server Error",
    StatusCode.INTERNAL: "500 Internal Server Error",
    StatusCode.DATA_LOSS: "500 Internal Server Error",
    StatusCode.UNIMPLEMENTED: "501 Not Implemented",
    StatusCode.UNAVAILABLE: "503 Service Unavailable",
    StatusCode.DEADLINE_EXCEEDED: "504 Gateway Timeout",
}
MAX_BODY_BYTES = 2**31 - 1
# Longer messages, which quote names in the request, are cut.
MAX_ERROR_LENGTH = 2**16
# Bodies that unpack to more are counted in the memory that unpacked bodies may take together.
SMALL_BODY_BYTES = 2**20
JSON, TEXT, HTML = "application/json", "text/plain", "text/html"
CORS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
]


class Reply(NamedTuple):
    """An answer: its status line, content type and body, and headers of its own."""

    status: str
    content_type: str
    body: bytes
    headers: tuple = ()


class Application:
    """Answers the requests for a `core.ServerCore`; with `is_stopping`, refuses those of the API."""

    def __init__(self, core):
        self._core, self._options = core, core.options
        self._unpacked = unpacking.Budget(unpacking.MAX_UNPACKED_BYTES, ignored=SMALL_BODY_BYTES)
        self.is_stopping = False

    def __call__(self, environ, start_response):
        """Answer one request."""
        method, path = environ["REQUEST_METHOD"], environ["REQUEST_URI"]
        reply = self._answer(method, path, environ)
        body = b"" if method == "HEAD" else reply.body
        headers = [("Content-Type", reply.content_type), ("Content-Length", str(len(body))), *SERVED_BY, *reply.headers]
        if self._options.rest_api_enable_cors_support and rest_routes.is_api_path(path):
            headers += CORS
        start_response(reply.status, headers)
        return [body]

    def _answer(self, method, path, environ):
        """Return the Reply to a request."""
        if self._options.metrics_path and path.split("?")[0] == self._options.metrics_path:
            return self._metrics(path)
        if not rest_routes.is_api_path(path):
            return Reply("404 Not Found", HTML, b"<html><body><h1>Not Found</h1></body></html>")
        if method == "OPTIONS":
            origin = environ.get("HTTP_ORIGIN", "")
            allowed = origin.startswith(("http://", "https://"))
            return Reply("200 OK" if allowed else "400 Bad Request", JSON, b"")
        if self.is_stopping:
            return _error(ServingError(StatusCode.UNAVAILABLE, "The server is shutting down"))
        try:
            route, name = rest_routes.parse(method, path)
            with monitoring.request(route.get("verb") or "status", "REST", name):
                return self._call(method, route, name, environ)
        except _TooLarge:
            return _error_reply(
                "413 Content Too Large", f"The body is too large; expected at most {MAX_BODY_BYTES} bytes"
            )
        except rest_routes.EmptyBadRequest:
            return Reply("400 Bad Request", JSON, b"")
        except RecursionError:
            return _error(invalid_argument("JSON Value is nested too deeply"))
        except ServingError as error:
            return _error(error)

    def _metrics(self, path):
        if path != self._options.metrics_path:
            message = f"Unexpected path: {path}. Should be {self._options.metrics_path}"
            return Reply("400 Bad Request", TEXT, message.encode())
        return Reply("200 OK", TEXT, monitoring.page().encode())

    def _call(self, method, route, name, environ):
        spec = rest_routes.model_spec(route, name)
        if method == "GET":
            return self._metadata(spec) if route["metadata"] else _ok(_to_json(self._core.status(spec)) + "\n")
        call = {"predict": self._predict, "classify": self._classify, "regress": self._regress}[route["verb"]]
        body = _read_body(environ)
        # As the C++ server: any header that contains this, such as `x-gzip`, in lower case.
        if "gzip" not in environ.get("HTTP_CONTENT_ENCODING", ""):
            return _ok(call(body, spec))
        with self._unpacked.reserve(min(unpacking.unpacked_size(body), unpacking.MAX_UNPACKED_BYTES)):
            return _ok(call(unpacking.unpack(body), spec))

    def _predict(self, body, spec):
        document, numbers = json_predict_inputs.parse_numbers(body) or (json_text.parse(body), None)
        name = json_values.signature_name(document)
        with self._core.lookup(spec) as servable:
            key = name or DEFAULT_SIGNATURE
            if key not in servable.signatures:
                raise invalid_argument(f'Serving signature name: "{key}" not found in signature def')
            signature = servable.signatures[key]
            if numbers is not None and (layout := json_predict_inputs.layout_of_numbers(document, signature)):
                inputs = json_predict_inputs.from_numbers(numbers, signature)
            else:
                document = document if numbers is None else json_text.parse(body)
                layout, inputs = json_predict_inputs.parse(document, signature, name)
            with monitoring.model_call("predict", spec.name):
                outputs = servable.run(signature, inputs, None, self._timeout_s())
        return json_answers.write_predictions(outputs, layout)

    def _classify(self, body, spec):
        request = json_examples.classification_request(json_text.parse(body))
        request.model_spec.MergeFrom(spec)
        return json_answers.write_classifications(inference.classify(self._core, request, self._timeout_s()).result)

    def _regress(self, body, spec):
        request = json_examples.regression_request(json_text.parse(body))
        request.model_spec.MergeFrom(spec)
        return json_answers.write_regressions(inference.regress(self._core, request, self._timeout_s()).result)

    def _metadata(self, spec):
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_FIELD])
        response, headers = get_model_metadata(self._core, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[SIGNATURE_FIELD].Unpack(signatures)
        text = (
            f'{{\n"model_spec":{_to_json(response.model_spec)}\n,\n'
            f'"metadata": {{"signature_def": {_to_json(signatures)}\n}}\n}}\n'
        )
        return _ok(text, headers)

    def _timeout_s(self):
        milliseconds = self._options.rest_api_timeout_in_ms
        return milliseconds / 1000 if milliseconds > 0 else None


def _ok(text, headers=()):
    return Reply("200 OK", JSON, text.encode(*json_text.ENCODING), headers)


def _error(error):
    """Return the Reply for an error."""
    message = error.message
    if len(message) > MAX_ERROR_LENGTH:
        message = message[:MAX_ERROR_LENGTH] + TRUNCATED
    return _error_reply(HTTP_STATUS[error.code], message)


def _error_reply(status, message):
    text = f'{{\n    "error": {json_text.write_string(message)}\n}}'
    return Reply(status, JSON, text.encode(*json_text.ENCODING))


class _TooLarge(Exception):
    """A body has more than MAX_BODY_BYTES."""


def _read_body(environ):
    if int(environ.get("CONTENT_LENGTH") or 0) > MAX_BODY_BYTES:
        raise _TooLarge
    body = environ["wsgi.input"].read()
    if len(body) > MAX_BODY_BYTES:
        raise _TooLarge
    return body


def _to_json(message):
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )
