"""Step 3: serve the newest exported version over HTTP and JSON.

    python flask_server.py --model_path exports/mnist --port 5000

POST / with {"data": X}, X one image (784 numbers or 28x28) or N of them, answers {"y": [[p0, ..., p9], ...]}.
"""

import numpy as np
import orjson
from flask import Flask, Response, abort, request
from werkzeug.exceptions import HTTPException

from rnn_serving import command_line, exports
from rnn_serving.command_line import UserError
from rnn_serving.flask_endpoint import gunicorn_server
from rnn_serving.flask_endpoint.tensor_from_json import InvalidTensor, tensor_from_json

MAX_REQUEST_BYTES = 16 * 2**20
# Seconds without a byte of a request's body.
BODY_TIMEOUT_S = 10
# The newline is for whoever asks with curl.
JSON_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


def main(argv=None):
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    args = parse_arguments(argv)
    exports.newest(args.model_path)  # nothing to serve is an error here, not in a worker
    listener = gunicorn_server.listen(args.host, args.port)
    return gunicorn_server.serve(lambda: create_app(load_model(args.model_path)), listener, args.workers, args.threads)


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    parser.add_argument(
        "--model_path", default="exports/mnist", help="directory of versions (the newest is served), or one version"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=command_line.port_number, default=5000, help="port to listen on, 0 for a free one"
    )
    parser.add_argument(
        "--workers", type=command_line.positive_int, default=1, help="processes, each with its own model"
    )
    parser.add_argument("--threads", type=command_line.positive_int, default=8, help="requests at a time in one worker")
    return parser.parse_args(argv)


def load_model(model_path):
    """Return the served model, after it has answered once."""
    # Imported here: TensorFlow is loaded by the workers, after the fork, which it would not survive.
    from rnn_serving.saved_model import ServedModel

    model = ServedModel(model_path)
    model.predict({key: np.zeros((1, *info.shape[1:]), info.dtype) for key, info in model.signature.inputs.items()})
    return model


def create_app(model):
    """Return the Flask application that answers with `model`.

    `model` is anything with `name`, `version`, `dataset`, `signature` (`inputs` and `outputs` of one tensor each)
    and `predict({key: array}) -> {key: array}`, as `rnn_serving.saved_model.ServedModel` has them.
    """
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_REQUEST_BYTES
    app.config["MODEL_DESCRIPTION"] = f"model {model.name} version {model.version}, data set {model.dataset}"
    image_input = only(model, "input", model.signature.inputs)
    logits_output = only(model, "output", model.signature.outputs)
    if image_input.dtype != "float32" or not image_input.shape or None in image_input.shape[1:]:
        raise UserError(
            f"model {model.name} takes {image_input.dtype} {image_input.shape}; expected float32 of a fixed shape"
        )
    if logits_output.shape is None or len(logits_output.shape) != 2:
        raise UserError(
            f"model {model.name} answers shape {logits_output.shape}; expected a row of scores for each input"
        )

    @app.post("/")
    def predict():
        images = tensor_from_json(read_data(), "data", image_input.shape[1:])
        logits = model.predict({image_input.key: images})[logits_output.key]
        return json_response({"y": softmax(logits)})

    @app.get("/metadata")
    def metadata():
        return json_response(describe(model))

    @app.errorhandler(InvalidTensor)
    def invalid_tensor(error):
        return json_response({"error": str(error)}, 422)

    @app.errorhandler(HTTPException)
    def http_error(error):
        answer = json_response({"error": f"{request.method} {request.path}: {error.description}"}, error.code)
        answer.headers.extend(header for header in error.get_headers() if header[0] == "Allow")
        return answer

    @app.errorhandler(Exception)
    def internal_error(error):
        app.logger.exception("%s %s failed", request.method, request.path)
        return json_response({"error": f"{request.method} {request.path}: internal error, see the server's log"}, 500)

    @app.after_request
    def add_version(response):
        response.headers["X-Model-Version"] = str(model.version)
        return response

    return app


def only(model, kind, tensors):
    """Return the one input or output of a model's signature.

    Raises: UserError if there are several.
    """
    if len(tensors) != 1:
        raise UserError(f"model {model.name} has {kind}s {sorted(tensors)}; expected one {kind}")
    return next(iter(tensors.values()))


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
    """Return the body's bytes; abort with 413 if there are too many, with 400 if it is cut off."""
    connection = request.environ.get("gunicorn.socket")
    if connection:
        # A client that stalls in the middle would keep a thread for ever.
        connection.settimeout(BODY_TIMEOUT_S)
    try:
        return request.get_data(cache=False) if request.content_length is not None else read_chunks()
    except TimeoutError:
        abort(408, f"no more of the body came for {BODY_TIMEOUT_S} s; expected {request.content_length} bytes")


def read_chunks():
    """Return a body that came in chunks."""
    # Of a body sent in chunks, Werkzeug would silently pass on as much as is allowed.
    stream = request.environ["wsgi.input"]
    try:
        body = stream.read(MAX_REQUEST_BYTES + 1)
    except TimeoutError:
        raise
    except OSError as error:
        abort(400, f"the body is no chunked encoding ({error}); expected an object with the key 'data'")
    if len(body) > MAX_REQUEST_BYTES:
        abort(413)
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


def softmax(logits):
    """Return probabilities, float32 (N, 10), of logits; the largest is subtracted first so that none overflows."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


if __name__ == "__main__":
    command_line.run(main)
