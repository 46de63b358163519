"""Serve the pipeline as flask_server.py serves a model; a model server runs the network.

    python -m examples.seq2seq.serve_pipeline --backend 127.0.0.1:9000

POST / with {"data": "how are you"} answers {"y": ["I am fine, thank you. How are you?"]}.
"""

from flask_server import create_app
from rnn_serving import command_line, exports
from rnn_serving.endpoint.backend_addresses import parse_backends
from rnn_serving.http_worker import gunicorn_server
from rnn_serving.http_worker.greenlets import Greenlets


def open_app(args):
    """Return the application and its pipeline, which is still to be loaded."""
    # Imported here: TensorFlow and gRPC are loaded by the workers, after the fork, which they would not survive.
    from examples.seq2seq.pipeline import Pipeline

    pipeline = Pipeline(args.backend, args.model_name, args.model_path, args.request_timeout, Greenlets)
    # The application of flask_server.py takes any served model.
    return create_app(pipeline), pipeline


def main(argv=None):
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    args = parse_arguments(argv)
    exports.newest(args.model_path)  # if there is no version, fail here and not in every worker
    listener = gunicorn_server.listen(args.host, args.port)
    return gunicorn_server.serve(lambda: open_app(args), listener, args.workers, args.access_log)


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    add = parser.add_argument
    add("--backend", type=parse_backends, default="127.0.0.1:9000", help="model servers to call, HOST:PORT[,...]")
    add("--model_name", default="seq2seq_ids", help="name of the network at the model servers")
    add("--model_path", default="exports/seq2seq_ids", help="directory of its versions, which have the vocabularies")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=command_line.port_number, default=5000, help="port to listen on, 0 for a free one")
    add("--workers", type=command_line.positive_int, default=1, help="processes")
    add("--request_timeout", type=command_line.positive_float, default=10.0, help="deadline of a request, s")
    add("--access_log", action="store_true", help="write a line of JSON for each request to stdout")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
