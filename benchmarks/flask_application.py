"""The application of flask_server.py with a plain model, served in one of three ways."""

import json
import logging

import numpy as np

# TensorFlow is imported inside functions: gunicorn forks its workers first.

DEVELOPMENT, GUNICORN, GUNICORN_JSON = "development server", "gunicorn", "gunicorn, Python's json"


def serve(how, base, port):
    """Serve flask_server.py's application with a `ServedModel`, without what production adds to the model."""
    from rnn_serving.endpoint import json_api
    from rnn_serving.http_worker import gunicorn_server

    if how == DEVELOPMENT:
        from werkzeug.serving import run_simple

        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        # What app.run does, without its banner.
        run_simple("127.0.0.1", port, open_app(base)[0], threaded=True)
        return
    if how == GUNICORN_JSON:
        json_api.orjson = PlainJSON
    gunicorn_server.serve(lambda: open_app(base), gunicorn_server.listen("127.0.0.1", port), workers=1)


def open_app(base):
    """Return the application and its model, which is loaded once and stays."""
    import flask_server
    from rnn_serving.saved_model import ServedModel

    model = ServedModel(base)
    model.load = model.refresh = lambda: None
    return flask_server.create_app(model), model


class PlainJSON:
    """What the endpoint needs of orjson, by Python's own json."""

    JSONDecodeError, loads = json.JSONDecodeError, staticmethod(json.loads)

    @staticmethod
    def dumps(value, option):
        """Return a value, NumPy arrays included, as bytes of JSON."""
        return json.dumps(value, default=np.ndarray.tolist).encode()
