"""The JSON of the endpoint: a request's body, checked; answers and errors."""

import orjson
from flask import Response, abort, request
from werkzeug.exceptions import HTTPException

from rnn_serving.endpoint.tensor_from_json import MAX_RANK, InvalidTensor, numpy_type, tensor_from_json
from rnn_serving.number_lists import read_number_lists

VERSION_HEADER = "X-Model-Version"
# The newline is for users of curl.
JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


def read_body():
    """Return the bytes of a request's body; abort with 400, 408, 413 or 415 if it is not a complete body of JSON."""
    if not request.is_json:
        abort(415, f"Content-Type is {request.content_type!r}; expected application/json")
    if request.content_encoding:
        abort(415, f"Content-Encoding is {request.content_encoding!r}; expected none")
    length, limit = request.content_length, request.max_content_length
    if length is not None and length > limit:
        abort(413, f"the body has {length} bytes; expected at most {limit}")
    try:
        # Werkzeug treats a time-out as end of input and truncates chunked bodies at the limit, so read directly.
        body = request.environ["wsgi.input"].read(limit + 1 if length is None else length)
    except TimeoutError as error:
        abort(408, f"timed out reading the request body ({error}); expected {length or 'its last chunk'}")
    except OSError as error:
        abort(400, f"the body cannot be read ({error}); expected an object with the key 'data'")
    if len(body) > limit:
        abort(413, f"the body is too large; expected at most {limit} bytes")
    if len(body) < (length or 0):
        abort(400, f"the body is cut off after {len(body)} bytes; expected {length}")
    return body


def tensor_from_body(body, info):
    """Return the lists under "data" as the tensor that a `TensorInfo` describes; abort with 400 if there is no "data".

    Raises: InvalidTensor if they are not such a tensor.
    """
    if numpy_type(info.dtype).kind == "f":
        numbers = read_number_lists(body, "data", MAX_RANK if info.shape is None else len(info.shape))
        if numbers is not None:
            return tensor_from_json(numbers, "data", info.shape, info.dtype)
    return tensor_from_json(_parse(body), "data", info.shape, info.dtype)


def _parse(body):
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        abort(400, f"the body is not valid JSON ({error}); expected an object with the key 'data'")
    if not isinstance(value, dict) or "data" not in value:
        abort(400, "the body's JSON has no 'data'; expected an object with the key 'data'")
    return value["data"]


def respond(value, version):
    """Return a value, NumPy arrays included, as an answer in JSON with the version that gave it."""
    response = _json_response(value)
    response.headers[VERSION_HEADER] = str(version.version)
    return response


def add_error_handlers(app, model):
    """Answer every error of a Flask application as {"error": text}, never as HTML or a traceback."""

    @app.errorhandler(InvalidTensor)
    def invalid_tensor(error):
        return _json_response({"error": str(error)}, 422)

    @app.errorhandler(HTTPException)
    def http_error(error):
        answer = _json_response({"error": f"{request.method} {request.path}: {error.description}"}, error.code)
        answer.headers.extend(header for header in error.get_headers() if header[0] in ("Allow", "Retry-After"))
        return answer

    @app.errorhandler(Exception)
    def internal_error(error):
        app.logger.exception("%s %s failed", request.method, request.path)
        return _json_response({"error": f"{request.method} {request.path}: internal error, see the server's log"}, 500)

    @app.after_request
    def add_version(response):
        if VERSION_HEADER not in response.headers and model.is_ready:
            with model.acquire() as version:
                response.headers[VERSION_HEADER] = str(version.version)
        return response


def _json_response(value, status=200):
    return Response(orjson.dumps(value, option=JSON_OPTIONS), status, mimetype="application/json")
