"""What operators and browsers ask of the endpoint: metadata, health, readiness, metrics and a page to try it."""

from pathlib import Path

from flask import Response
from werkzeug.exceptions import ServiceUnavailable

from rnn_serving.endpoint import json_api

# The routes of `add_routes` and, under "/", the predictions.
METADATA, HEALTH, READINESS, METRICS, ROOT = PATHS = ("/metadata", "/healthz", "/readyz", "/metrics", "/")
PAGE = Path(__file__).with_name("page.html")
# The page is one file and contacts this server only.
PAGE_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
)


def add_routes(app, model):
    """Add GET /metadata, /healthz, /readyz, /metrics and / to a Flask application that answers with `model`."""

    @app.get(METADATA)
    def metadata():
        with model.acquire() as version:
            return json_api.respond(describe(version), version)

    @app.get(HEALTH)
    def healthz():
        return Response('{"status":"alive"}\n', mimetype="application/json")

    @app.get(READINESS)
    def readyz():
        if not model.is_ready:
            raise ServiceUnavailable("the model is still loading; retry shortly", retry_after=1)
        return Response('{"status":"ready"}\n', mimetype="application/json")

    @app.get(METRICS)
    def metrics():
        # Imported here, in a worker: the metrics of a worker begin with the first import.
        from rnn_serving.endpoint import metrics

        return Response(metrics.page(), content_type=metrics.CONTENT_TYPE)

    @app.get(ROOT)
    def page():
        return Response(PAGE.read_bytes(), mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY})


def describe_start(version, output, is_softmax):
    """Return what the server says of itself when it is ready, in one line."""
    dataset = f", data set {version.dataset}" if version.dataset else ""
    outputs = f"softmax of {output.key!r}" if is_softmax else f"{output.key!r} as it is"
    return f"model {version.name} version {version.version}{dataset}, {version.mode}, {outputs}"


def describe(version):
    """Return the answer of GET /metadata: model, version, data set, and the tensors of the signature."""
    tensors = {
        kind: {key: {"name": info.name, "dtype": info.dtype, "shape": info.shape} for key, info in infos.items()}
        for kind, infos in (("inputs", version.signature.inputs), ("outputs", version.signature.outputs))
    }
    return {"model": version.name, "version": version.version, "dataset": version.dataset, "signature": tensors}
