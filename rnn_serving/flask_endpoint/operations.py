"""What operators and browsers ask of the endpoint: health, readiness, metrics and a page to try it."""

from pathlib import Path

from flask import Response
from werkzeug.exceptions import ServiceUnavailable

PAGE = Path(__file__).with_name("page.html")
# The page is one file and asks nobody but this server.
PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
)


def add_routes(app, model):
    """Add GET /healthz, /readyz, /metrics and / to a Flask application that answers with `model`."""

    @app.get("/healthz")
    def healthz():
        return Response('{"status":"alive"}\n', mimetype="application/json")

    @app.get("/readyz")
    def readyz():
        if not getattr(model, "is_ready", True):
            raise ServiceUnavailable("the model is still loading; expected a moment's patience", retry_after=1)
        return Response('{"status":"ready"}\n', mimetype="application/json")

    @app.get("/metrics")
    def metrics():
        # Imported here, in a worker: the metrics of the workers begin with the first import.
        from rnn_serving.flask_endpoint import metrics

        return Response(metrics.page(), content_type=metrics.CONTENT_TYPE)

    @app.get("/")
    def page():
        return Response(PAGE.read_bytes(), mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY})
