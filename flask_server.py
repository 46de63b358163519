"""Step 3: serve the newest exported version over HTTP and JSON.

    python flask_server.py --model_path exports/mnist --port 5000

POST / with {"data": X}, X one image (784 numbers or 28x28) or N of them, answers {"y": [[p0, ..., p9], ...]}.
"""

import contextlib

import numpy as np
import orjson
from flask import Response, abort, request
from werkzeug.exceptions import HTTPException

from rnn_serving import command_line, exports
from rnn_serving.command_line import UserError
from rnn_serving.flask_endpoint import gunicorn_server, operations
from rnn_serving.flask_endpoint.backend_addresses import parse_backends
from rnn_serving.flask_endpoint.lean_flask import LeanFlask
from rnn_serving.flask_endpoint.open_model import open_model, versions_path
from rnn_serving.flask_endpoint.tensor_from_json import (
    InvalidTensor,
    json_from_tensor,
    numpy_type,
    tensor_from_json,
)

POSTPROCESS = ("softmax", "none")
VERSION_HEADER = "X-Model-Version"
# The newline is for whoever asks with curl.
JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


def main(argv=None):
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    args = parse_arguments(argv)
    if not args.backend:
        exports.newest(versions_path(args))  # nothing to serve is an error here, not in a worker
    listener = gunicorn_server.listen(args.host, args.port)
    return gunicorn_server.serve(lambda: open_app(args), listener, args.workers, args.access_log)


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    add = parser.add_argument
    add("--model_path", default="exports/mnist", help="directory of versions (the newest is served), or one version")
    add("--model_version", type=command_line.version_number, help="version to stay with (default: always the newest)")
    add("--backend", type=parse_backends, metavar="HOST:PORT[,HOST:PORT...]", help="model servers to ask instead")
    add("--model_name", default="mnist", help="the name that the model servers know the model by")
    add("--signature_name", default="serving_default", help="the signature to run")
    add("--input_key", help="the signature's input (default: its only one)")
    add("--output_key", help="the signature's output (default: its only one)")
    add("--postprocess", choices=POSTPROCESS, help="softmax (default for rows of scores), or none (for any other)")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=command_line.port_number, default=5000, help="port to listen on, 0 for a free one")
    add("--workers", type=command_line.positive_int, default=1, help="processes, each with its own model")
    add("--threads", type=command_line.positive_int, help="threads of one model call (default: cores / workers)")
    add("--max_batch_size", type=command_line.positive_int, default=32, help="rows of one model call")
    add("--batch_timeout_micros", type=command_line.not_negative_int, default=0, help="wait for more, microseconds")
    add("--max_enqueued_batches", type=command_line.positive_int, default=10, help="batches that may wait in a worker")
    add("--request_timeout", type=command_line.positive_float, default=10.0, help="limit for an answer, seconds")
    add("--max_request_mb", type=command_line.positive_float, default=16, help="limit for a request, MiB")
    add("--access_log", action="store_true", help="write a line of JSON for each request to stdout")
    return parser.parse_args(argv)


def open_app(args):
    """Return the application and the model that it answers with, which is still to be loaded."""
    model = open_model(args, check=lambda version: check(version, args))
    app = create_app(model, args.input_key, args.output_key, args.postprocess, args.max_request_mb)
    return app, model


def check(version, args):
    """Raise UserError unless a version of the model can be served in the way that the flags ask for."""
    _, target = tensors_of(version, args.input_key, args.output_key)
    if args.postprocess == "softmax" and numpy_type(target.dtype).kind not in "fiu":
        raise UserError(f"model {version.name} has {target.key!r} of {target.dtype}; expected numbers for a softmax")


def create_app(model, input_key=None, output_key=None, postprocess=None, max_request_mb=16):
    """Return the Flask application that answers with `model`.

    `model` is anything with `name`, `version`, `dataset`, `signature` (`inputs` and `outputs`, {key: TensorInfo}) and
    `predict({key: array}) -> {key: array}`, as `rnn_serving.saved_model.ServedModel` has them. One whose version
    changes has `acquire()` as well, a context manager that gives such a model for one request, and `is_ready`.
    Raises: UserError if the model does not take and answer one tensor each.
    """
    app = LeanFlask(__name__)
    app.url_map.merge_slashes = False  # no redirects: they would be neither answers nor errors
    app.config["MAX_CONTENT_LENGTH"] = int(max_request_mb * 2**20)
    operations.add_routes(app, model)
    if is_ready(model):
        tensors_of(model, input_key, output_key)

    @app.post("/")
    def predict():
        data = read_data()
        with acquired(model) as version:
            source, target = tensors_of(version, input_key, output_key)
            tensor = tensor_from_json(data, "data", source.shape, source.dtype)
            scores = version.predict({source.key: tensor})[target.key]
            if postprocess == "softmax" or (postprocess is None and is_scores(target)):
                scores = softmax_of(scores)
            return versioned(json_response({"y": json_from_tensor(scores)}), version)

    @app.get("/metadata")
    def metadata():
        with acquired(model) as version:
            return versioned(json_response(describe(version)), version)

    @app.errorhandler(InvalidTensor)
    def invalid_tensor(error):
        return json_response({"error": str(error)}, 422)

    @app.errorhandler(HTTPException)
    def http_error(error):
        answer = json_response({"error": f"{request.method} {request.path}: {error.description}"}, error.code)
        answer.headers.extend(header for header in error.get_headers() if header[0] in ("Allow", "Retry-After"))
        return answer

    @app.errorhandler(Exception)
    def internal_error(error):
        app.logger.exception("%s %s failed", request.method, request.path)
        return json_response({"error": f"{request.method} {request.path}: internal error, see the server's log"}, 500)

    @app.after_request
    def add_version(response):
        return versioned(response, model) if is_ready(model) and VERSION_HEADER not in response.headers else response

    return app


def is_ready(model):
    """Return whether a model has been loaded, as any is that does not say otherwise."""
    return getattr(model, "is_ready", True)


def acquired(model):
    """Return a context manager that gives the version of the model which answers one request."""
    return model.acquire() if hasattr(model, "acquire") else contextlib.nullcontext(model)


def versioned(response, model):
    """Return a response with the header that tells which version of the model answered."""
    response.headers[VERSION_HEADER] = str(model.version)
    return response


def tensors_of(model, input_key=None, output_key=None):
    """Return the input and the output of a model's signature, each by its key or the only one.

    Raises: UserError if there is no such one, or if JSON cannot hold its type.
    """
    if len(model.signature.inputs) != 1:
        raise UserError(f"model {model.name} has inputs {sorted(model.signature.inputs)}; expected one input")
    chosen = (
        only(model, "input", model.signature.inputs, input_key),
        only(model, "output", model.signature.outputs, output_key),
    )
    for info in chosen:
        if numpy_type(info.dtype) is None:
            raise UserError(f"model {model.name} has {info.key!r} of {info.dtype}; expected numbers or strings")
    return chosen


def only(model, kind, tensors, key):
    """Return the input or output of a model's signature that has a key, or without one the only one.

    Raises: UserError if there is no such one.
    """
    if key is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    if key not in tensors:
        wanted = repr(key) if key else f"one {kind}, or --{kind}_key to choose"
        raise UserError(f"model {model.name} has {kind}s {sorted(tensors)}; expected {wanted}")
    return tensors[key]


def read_data():
    """Return what the request's JSON has under "data"; abort with 415 or 400 where there is none."""
    if not request.is_json:
        abort(415, f"Content-Type is {request.content_type!r}; expected application/json")
    if request.content_encoding:
        abort(415, f"Content-Encoding is {request.content_encoding!r}; expected none")
    try:
        body = orjson.loads(read_body())
    except orjson.JSONDecodeError as error:
        abort(400, f"the body is no JSON ({error}); expected an object with the key 'data'")
    if not isinstance(body, dict) or "data" not in body:
        abort(400, "the body's JSON has no 'data'; expected an object with the key 'data'")
    return body["data"]


def read_body():
    """Return the body's bytes; abort with 413 if there are too many, with 400 if they are cut off, with 408 if late."""
    length, limit = request.content_length, request.max_content_length
    if length is not None and length > limit:
        abort(413, f"the body has {length} bytes; expected at most {limit}")
    try:
        # Not by Werkzeug, for which a time-out is an end, and which passes on as much of chunks as is allowed.
        body = request.environ["wsgi.input"].read(limit + 1 if length is None else length)
    except TimeoutError as error:
        abort(408, f"the body is late: {error}; expected {length or 'its last chunk'}")
    except OSError as error:
        abort(400, f"the body cannot be read ({error}); expected an object with the key 'data'")
    if len(body) > limit:
        abort(413, f"the body has more than {limit} bytes; expected at most as many")
    if len(body) < (length or 0):
        abort(400, f"the body is cut off after {len(body)} bytes; expected {length}")
    return body


def json_response(value, status=200):
    """Return a value, NumPy arrays included, as an answer in JSON."""
    return Response(orjson.dumps(value, option=JSON_OPTIONS), status, mimetype="application/json")


def describe(model):
    """Return what GET /metadata answers: model, version, data set, and the tensors of the signature."""
    tensors = {
        kind: {key: {"name": info.name, "dtype": info.dtype, "shape": info.shape} for key, info in infos.items()}
        for kind, infos in (("inputs", model.signature.inputs), ("outputs", model.signature.outputs))
    }
    return {"model": model.name, "version": model.version, "dataset": model.dataset, "signature": tensors}


def is_scores(info):
    """Return whether a tensor has a row of scores for each input."""
    return info.shape is not None and len(info.shape) == 2 and numpy_type(info.dtype).kind == "f"


def softmax_of(scores):
    """Return probabilities of scores of any type and shape; abort with 422 where they are not finite."""
    scores = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
    if not scores.size or not scores.ndim:
        return np.ones_like(scores)
    if not np.isfinite(scores.max(axis=-1)).all():
        abort(422, "the model's scores for 'data' are not finite; expected numbers that it was trained on")
    return softmax(scores)


def softmax(logits):
    """Return probabilities, float32 (N, 10), of logits; the largest is subtracted first so that none overflows."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


if __name__ == "__main__":
    command_line.run(main)
