"""The REST API (http_server.cc, http_rest_api_handler.cc): paths, status codes, answers."""

import gzip
import io
import os
import re
import threading
import time
import zlib
from urllib.parse import unquote_to_bytes

import grpc
import waitress
from google.protobuf import json_format
from waitress import wasyncore

from rnn_serving.model_server import inference, json_answers, json_requests, json_text, monitoring
from rnn_serving.model_server.errors import ServingError, invalid_argument
from rnn_serving.model_server.grpc_server import SERVED_BY
from rnn_serving.model_server.metadata import SIGNATURE_FIELD, get_model_metadata
from rnn_serving.saved_model import DEFAULT_SIGNATURE

from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_ASK = re.compile(rf"{_MODEL}:(?P<verb>classify|regress|predict)", re.IGNORECASE | re.DOTALL)
_TELL = re.compile(rf"(?:{_MODEL}|/v1/models)(?P<metadata>/metadata)?", re.IGNORECASE | re.DOTALL)

_Code = grpc.StatusCode
HTTP_STATUS = {
    **dict.fromkeys((_Code.INVALID_ARGUMENT, _Code.FAILED_PRECONDITION, _Code.OUT_OF_RANGE), "400 Bad Request"),
    _Code.UNAUTHENTICATED: "401 Unauthorized",
    _Code.PERMISSION_DENIED: "403 Forbidden",
    _Code.NOT_FOUND: "404 Not Found",
    **dict.fromkeys((_Code.ALREADY_EXISTS, _Code.ABORTED), "409 Conflict"),
    _Code.RESOURCE_EXHAUSTED: "429 Too Many Requests",
    _Code.CANCELLED: "499 Client Closed Request",
    **dict.fromkeys((_Code.UNKNOWN, _Code.INTERNAL, _Code.DATA_LOSS), "500 Internal Server Error"),
    _Code.UNIMPLEMENTED: "501 Not Implemented",
    _Code.UNAVAILABLE: "503 Service Unavailable",
    _Code.DEADLINE_EXCEEDED: "504 Gateway Timeout",
}
MAX_BODY_BYTES = 2**31 - 1
JSON, TEXT, HTML = "application/json", "text/plain", "text/html"
CORS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
]


class RestServer:
    """The HTTP side of a `core.ServerCore`, on threads of its own."""

    def __init__(self, core):
        """Listen on the REST port.

        Raises: OSError if it is taken.
        """
        options = core.options
        self._application = Application(core)
        self._server = waitress.create_server(
            self._application,
            host=options.host,
            port=options.rest_api_port,
            threads=options.rest_api_num_threads if options.rest_api_num_threads > 0 else 4 * (os.cpu_count() or 1),
            backlog=1024,
            connection_limit=10_000,
            channel_timeout=3600,  # an idle connection may stay: clients of the C++ server keep theirs
            max_request_body_size=MAX_BODY_BYTES,
            ident=None,
            clear_untrusted_proxy_headers=False,
        )
        self._thread = threading.Thread(target=self._server.run, name="rest", daemon=True)

    def start(self):
        """Begin to take requests."""
        self._thread.start()

    def stop(self, grace_s):
        """Refuse new requests, finish those in flight within `grace_s` seconds, and end."""
        self._application.is_stopping = True
        self._in_loop(lambda: wasyncore.dispatcher.close(self._server))
        deadline = time.monotonic() + grace_s
        while not self._is_idle() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
        self._in_loop(lambda: wasyncore.close_all(self._server._map))
        self._thread.join()

    def _in_loop(self, action):
        """Run an action in the thread that owns the sockets."""
        self._server.trigger.pull_trigger(action)

    def _is_idle(self):
        channels = list(self._server.active_channels.values())
        return not any(channel.requests or channel.total_outbufs_len for channel in channels)


class Application:
    """The WSGI application."""

    def __init__(self, core):
        self._core, self._options = core, core.options
        self.is_stopping = False

    def __call__(self, environ, start_response):
        """Answer one request."""
        method, path = environ["REQUEST_METHOD"], environ["REQUEST_URI"]
        status, content_type, body = self._answer(method, path, environ)
        if method == "HEAD":
            body = b""
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), *SERVED_BY]
        if self._options.rest_api_enable_cors_support and _is_ours(path):
            headers += CORS
        start_response(status, headers)
        return [body]

    def _answer(self, method, path, environ):
        """Return (status line, content type, body)."""
        if self._options.metrics_path and path.split("?")[0] == self._options.metrics_path:
            return self._metrics(path)
        if not _is_ours(path):
            return "404 Not Found", HTML, b"<html><body><h1>Not Found</h1></body></html>"
        if method == "OPTIONS":
            origin = environ.get("HTTP_ORIGIN", "")
            allowed = origin.startswith(("http://", "https://"))
            return ("200 OK" if allowed else "400 Bad Request"), JSON, b""
        if self.is_stopping:
            return _error(ServingError(_Code.UNAVAILABLE, "The server is shutting down"))
        try:
            route, name = _route(method, path)
            with monitoring.request(route.get("verb") or "status", "REST", name):
                return "200 OK", JSON, self._body(method, route, name, environ).encode(*json_text.ENCODING)
        except _EmptyAnswer:
            return "400 Bad Request", JSON, b""
        except RecursionError:
            return _error(invalid_argument("JSON Value is nested too deeply"))
        except ServingError as error:
            return _error(error)

    def _metrics(self, path):
        if path != self._options.metrics_path:
            return "400 Bad Request", TEXT, f"Unexpected path: {path}. Should be {self._options.metrics_path}".encode()
        return "200 OK", TEXT, monitoring.page().encode()

    def _body(self, method, route, name, environ):
        spec = _model_spec(route, name)
        if method == "GET":
            return self._metadata(spec) if route["metadata"] else self._status(spec)
        document = json_text.parse(_read(environ))
        return {"predict": self._predict, "classify": self._classify, "regress": self._regress}[route["verb"]](
            document, spec
        )

    def _predict(self, document, spec):
        name = json_requests.signature_name(document)
        with self._core.lookup(spec) as servable:
            signature = servable.signatures.get(name or DEFAULT_SIGNATURE)
            if signature is None:
                missing = name or DEFAULT_SIGNATURE
                raise invalid_argument(f'Serving signature name: "{missing}" not found in signature def')
            layout, inputs = json_requests.inputs(document, signature, name)
            with monitoring.model_call("predict", spec.name):
                outputs = servable.run(signature, inputs, None, self._timeout_s())
        return json_answers.write_predictions(outputs, layout)

    def _classify(self, document, spec):
        request = json_requests.classification_request(document)
        request.model_spec.MergeFrom(spec)
        return json_answers.write_classifications(inference.classify(self._core, request, self._timeout_s()).result)

    def _regress(self, document, spec):
        request = json_requests.regression_request(document)
        request.model_spec.MergeFrom(spec)
        return json_answers.write_regressions(inference.regress(self._core, request, self._timeout_s()).result)

    def _status(self, spec):
        spec.ClearField("version_label")  # ignored, as in gRPC
        return _to_json(self._core.status(spec)) + "\n"

    def _metadata(self, spec):
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_FIELD])
        response = get_model_metadata(self._core, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[SIGNATURE_FIELD].Unpack(signatures)
        return (
            f'{{\n"model_spec":{_to_json(response.model_spec)}\n,\n'
            f'"metadata": {{"signature_def": {_to_json(signatures)}\n}}\n}}\n'
        )

    def _timeout_s(self):
        milliseconds = self._options.rest_api_timeout_in_ms
        return milliseconds / 1000 if milliseconds > 0 else None


def _error(error):
    """Return (status line, content type, body) of an error."""
    text = f'{{\n    "error": {json_text.write_string(error.message)}\n}}'
    return HTTP_STATUS[error.code], JSON, text.encode(*json_text.ENCODING)


class _EmptyAnswer(Exception):
    """The C++ server answers 400 without a body."""


def _is_ours(path):
    return path[:4].lower() == "/v1/"


def _route(method, path):
    """Return the parts of a path, as the groups of the expression it matched, and the model's name.

    Raises: ServingError, _EmptyAnswer.
    """
    match = {"POST": _ASK, "GET": _TELL}.get(method, re.compile("(?!)")).fullmatch(path)
    # The expression ignores case, the comparison after it does not.
    if not match or match.groupdict().get("verb", "predict") not in ("predict", "classify", "regress"):
        raise invalid_argument(f"Malformed request: {method} {path}")
    route = match.groupdict()
    if route["version"] and (len(route["version"].lstrip("0")) > 19 or int(route["version"]) >= 2**63):
        raise _EmptyAnswer
    if not route["name"]:
        raise invalid_argument("Missing model name in request.")
    return route, _decoded(route["name"])


def _decoded(text):
    return unquote_to_bytes(text.encode("latin-1", "replace")).decode("utf-8", "replace")


def _model_spec(route, name):
    spec = model_pb2.ModelSpec(name=name)
    if route["version"]:
        spec.version.value = int(route["version"])
    if route["label"]:
        spec.version_label = _decoded(route["label"])
    return spec


def _read(environ):
    """Return the body of a request, unpacked if it is gzipped; one that cannot be unpacked counts as empty."""
    length = environ.get("CONTENT_LENGTH")
    body = environ["wsgi.input"].read(int(length)) if length else environ["wsgi.input"].read()
    if environ.get("HTTP_CONTENT_ENCODING", "").lower() != "gzip":
        return body
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(body)).read(MAX_BODY_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        return b""
    return unpacked if len(unpacked) <= MAX_BODY_BYTES else b""


def _to_json(message):
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )
