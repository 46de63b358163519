"""Serve the pipeline as flask_server.py serves a model; the network is asked of a model server.

    python -m examples.seq2seq.serve_pipeline --backend 127.0.0.1:9000

POST / with {"data": "how are you"} answers {"y": ["I am fine, thank you. How are you?"]}.
"""

from flask_server import create_app
from rnn_serving import command_line, exports
from rnn_serving.flask_endpoint import gunicorn_server
from rnn_serving.flask_endpoint.backend_addresses import parse_backends


def main(argv=None):
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    args = parse_arguments(argv)
    exports.newest(args.model_path)  # nothing to serve is an error here, not in a worker
    listener = gunicorn_server.listen(args.host, args.port)
    return gunicorn_server.serve(lambda: open_app(args), listener, args.workers, args.access_log)


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    add = parser.add_argument
    add("--backend", type=parse_backends, default="127.0.0.1:9000", help="model servers to ask, HOST:PORT[,...]")
    add("--model_name", default="seq2seq_ids", help="the name that the model servers know the network by")
    add("--model_path", default="exports/seq2seq_ids", help="the network's versions, whose vocabularies are read here")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=command_line.port_number, default=5000, help="port to listen on, 0 for a free one")
    add("--workers", type=command_line.positive_int, default=1, help="processes")
    add("--request_timeout", type=command_line.positive_float, default=10.0, help="limit for an answer, seconds")
    add("--access_log", action="store_true", help="write a line of JSON for each request to stdout")
    return parser.parse_args(argv)


def open_app(args):
    """Return the application and the pipeline that it answers with, which is still to be loaded."""
    # Imported here: TensorFlow and gRPC are loaded by the workers, after the fork, which they would not survive.
    from examples.seq2seq.pipeline import Pipeline

    pipeline = Pipeline(args.backend, args.model_name, args.model_path, args.request_timeout)
    return create_app(pipeline), pipeline


if __name__ == "__main__":
    command_line.run(main)
