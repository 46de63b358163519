"""Serve a model the way the article's Flask server did: the baseline that every figure is compared with.

    python -m benchmarks.article_flask_server --model_path exports/mnist --port 5000

Slow on purpose, and not to be copied: Werkzeug's development server, a connection and a Session.run for each request,
Python's json both ways, no input checks. The server to copy is flask_server.py.
"""

import json
import logging

import numpy as np
from flask import Flask, request

from flask_server import softmax
from rnn_serving import addresses, command_line, exports
from rnn_serving.dataset import IMAGE_SHAPE
from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.saved_model import DEFAULT_SIGNATURE, SERVE_TAG


def main(argv=None):
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    args = parse_arguments(argv)
    # The article's server printed a line for each request; without them, the terminal is not part of the measurement.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    app = create_app(*load_model(args.model_path))
    app.run(addresses.bare_host(args.host), args.port)
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--model_path", default="exports/mnist", help="directory of versions, or one version")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=command_line.port_number, default=5000, help="port to listen on")
    return parser.parse_args(argv)


def load_model(model_path):
    """Return (session, name of the input tensor, name of the output tensor) of the newest version."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    directory = str(exports.newest(model_path))
    with session.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.load(session, [SERVE_TAG], directory)
    signature = meta_graph.signature_def[DEFAULT_SIGNATURE]
    return session, signature.inputs[INPUT_KEY].name, signature.outputs[OUTPUT_KEY].name


def create_app(session, input_name, output_name):
    """Return the Flask application: POST / with {"data": X} answers {"y": rows of ten probabilities}."""
    app = Flask(__name__)

    @app.route("/", methods=["POST"])
    def predict():
        images = np.array(request.get_json()["data"], np.float32).reshape(-1, *IMAGE_SHAPE)
        logits = session.run(output_name, feed_dict={input_name: images})
        return json.dumps({"y": softmax(logits).tolist()})

    return app


if __name__ == "__main__":
    command_line.run(main)
