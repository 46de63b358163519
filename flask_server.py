"""Step 3: serve the newest exported version over HTTP and JSON.

    python flask_server.py --model_path exports/mnist --port 5000

POST / takes {"data": X}, where X is an image (784 numbers or 28x28) or a list of images, and answers
{"y": [[p0, ..., p9], ...]}.
"""

import numpy as np

from rnn_serving import command_line, tls
from rnn_serving.endpoint import json_api, operations
from rnn_serving.endpoint import signature as signatures
from rnn_serving.endpoint.backend_addresses import parse_backends
from rnn_serving.endpoint.lean_flask import LeanFlask
from rnn_serving.endpoint.live_model import keep_loaded
from rnn_serving.endpoint.open_model import check_model_path, import_tensorflow, open_model
from rnn_serving.endpoint.tensor_from_json import json_from_tensor
from rnn_serving.endpoint.threads import Threads


def create_app(model, input_key=None, output_key=None, postprocess=None, max_request_mb=16):
    """Return the Flask application, which answers with a served model (see `rnn_serving.saved_model.ServedModel`)."""
    app = LeanFlask(__name__)
    app.url_map.merge_slashes = False  # a redirect would be neither an answer nor an error
    app.config["MAX_CONTENT_LENGTH"] = int(max_request_mb * 2**20)

    @app.post("/")
    def predict():
        body = json_api.read_body()  # {"data": X} as bytes; an error answers 400, 408, 413 or 415
        with model.acquire() as version:  # this version answers the whole request, even if a new one goes live
            source, target = signatures.select_tensors(version, input_key, output_key)
            tensor = json_api.tensor_from_body(body, source)  # X as an array; an error answers 400 or 422
            outputs = version.predict({source.key: tensor})[target.key]  # batched with concurrent requests
            if outputs.size and signatures.wants_softmax(version, target, postprocess):
                outputs = softmax(signatures.finite_scores(outputs)).reshape(outputs.shape)
            else:
                signatures.require_finite(outputs)
            return json_api.respond({"y": json_from_tensor(outputs)}, version)

    def describe_start(version):
        _, target = signatures.select_tensors(version, input_key, output_key)
        return operations.describe_start(version, target, signatures.wants_softmax(version, target, postprocess))

    json_api.add_error_handlers(app, model)
    operations.add_routes(app, model)
    app.describe_start = describe_start
    return app


def softmax(scores):
    """Return probabilities of scores, along the last axis; subtracting the largest first prevents an overflow."""
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def open_app(args, concurrency=Threads):
    """Return the application and its model, which is still to be loaded; `concurrency` says how requests wait."""
    choices = (args.input_key, args.output_key, args.postprocess)
    model = open_model(args, concurrency, lambda version: signatures.check_model(version, *choices))
    return create_app(model, *choices, args.max_request_mb), model


def wsgi_app(**flags):
    """Return the application for another WSGI server: gunicorn 'flask_server:wsgi_app(model_path="exports/mnist")'."""
    app, model = open_app(parse_arguments([f"--{name}={value}" for name, value in flags.items()]))
    keep_loaded(model)
    return app


def main(argv=None):
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    # Imported here: under another WSGI server, the application needs neither gunicorn nor gevent.
    from rnn_serving.http_worker import gunicorn_server
    from rnn_serving.http_worker.greenlets import Greenlets

    args = parse_arguments(argv)
    check_model_path(args)  # if there is no version, fail here and not in every worker
    return gunicorn_server.serve(
        open_app=lambda: open_app(args, Greenlets),
        listener=gunicorn_server.listen(args.host, args.port),
        workers=args.workers,
        access_log=args.access_log,
        before_fork=lambda: import_tensorflow(args),
    )


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    add, positive_int, positive_float = parser.add_argument, command_line.positive_int, command_line.positive_float
    add("--model_path", default="exports/mnist", help="path or URI of versions (the newest is served), or of one")
    add("--model_version", type=command_line.version_number, help="version to pin (default: always the newest)")
    add("--backend", type=parse_backends, metavar="HOST:PORT[,HOST:PORT...]", help="model servers to forward to")
    tls.add_flags(parser)
    add("--model_name", default="mnist", help="name of the model at the model servers")
    add("--signature_name", default="serving_default", help="signature to run")
    add("--input_key", help="the signature's input (default: its only one)")
    add("--output_key", help="the signature's output (default: its only one)")
    add(
        "--postprocess",
        choices=signatures.POSTPROCESS,
        help="function to apply to the output (default: softmax if it is known to be logits)",
    )
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=command_line.port_number, default=5000, help="port to listen on, 0 for a free one")
    add("--workers", type=positive_int, default=1, help="processes, each with its own model")
    add("--threads", type=positive_int, help="threads of one model call (default: cores / workers)")
    add("--batching", choices=("auto", "on", "off"), default="auto", help="auto: for models whose rows are independent")
    add("--max_batch_size", type=positive_int, default=32, help="maximum rows of a batch")
    add("--batch_timeout_micros", type=command_line.not_negative_int, default=0, help="wait for a batch to fill, us")
    add("--max_enqueued_batches", type=positive_int, default=10, help="batches that may wait in a worker")
    add("--request_timeout", type=positive_float, default=10.0, help="deadline of a request, s")
    add("--max_request_mb", type=positive_float, default=16, help="limit of a request's body, MiB")
    add("--access_log", action="store_true", help="write a line of JSON for each request to stdout")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
