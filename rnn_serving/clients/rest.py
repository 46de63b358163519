"""TensorFlow Serving's REST API: the same calls as over gRPC, as JSON."""

import contextlib
from urllib.parse import quote

import numpy as np
import requests
from google.protobuf import json_format

from rnn_serving.clients import server_kind, waiting
from rnn_serving.clients.classify import scores_by_digit
from rnn_serving.clients.http_json import describe_status, direct_session, post_json
from rnn_serving.clients.load import RequestError
from rnn_serving.clients.signature import FEATURE
from rnn_serving.clients.tfserving import connection_hint, served_by
from rnn_serving.command_line import UserError, request_failure

from tensorflow_serving.apis import get_model_metadata_pb2


@contextlib.contextmanager
def open_rest(address, query):
    """Yield (`tfserving.ServedBy`, connect) of the REST API at HOST:PORT.

    `connect()` yields `ask(images) -> scores`, float32 (n, 28, 28) to (n, 10), which raises RequestError.
    Raises: UserError if there is no server, or saying how its model differs from what the requests need.
    """
    scheme = "https" if query.tls else "http"
    url = f"{scheme}://{address}/v1/models/{quote(query.model_name, safe='')}"
    try:
        with direct_session(query.tls) as session:
            answer = waiting.get(session, url + "/metadata", query.timeout_s, query.wait_s, "rest", query.tls)
    except (requests.RequestException, ValueError) as error:
        raise UserError(f"{url}: {request_failure(error)}; {connection_hint(model_not_found=False)}") from error
    if answer.status_code != 200:
        server_kind.require_kind("rest", address)
        hint = connection_hint(model_not_found=answer.status_code == 404)
        raise UserError(f"{url}: {describe_status(answer)}; {hint}")
    server = served_by(answer.headers, address, *_metadata(url, answer), query)
    yield server, lambda: connect(f"{url}:{query.method}", query, server.image_shape)


@contextlib.contextmanager
def connect(url, query, image_shape):
    """Yield `ask(images) -> scores` over one connection that stays open."""
    with direct_session(query.tls) as session:

        def ask(images):
            request = {"signature_name": query.signature_name, **_request(images.reshape(-1, *image_shape), query)}
            answer = post_json(session, url, request, query.timeout_s)
            try:
                return _scores(answer, query)
            except (KeyError, TypeError, ValueError) as error:
                expected = "outputs" if query.method == "predict" else "results"
                raise RequestError(f"{url}: {str(answer)[:100]}; expected JSON with {expected!r}") from error

        yield ask


def _metadata(url, answer):
    """Return (version, SignatureDefMap) from an answer to GET .../metadata; UserError if it is something else."""
    try:
        found = answer.json()
        signatures = json_format.ParseDict(found["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap())
        return int(found["model_spec"]["version"]), signatures
    except (ValueError, KeyError, TypeError, json_format.ParseError) as error:
        raise UserError(f"{url}: {answer.text[:100]!r}; expected the metadata of a model server") from error


def _request(images, query):
    """Return the part of a request's JSON that holds the images."""
    if query.method == "predict":
        return {"inputs": {query.input_key: images}}
    return {"examples": [{FEATURE: image} for image in images]}


def _scores(answer, query):
    """Return the scores, float32 (n, 10), in an answer's JSON; KeyError, TypeError or ValueError if it has none."""
    if query.method == "classify":
        return scores_by_digit(answer["results"])
    outputs = answer["outputs"]
    # A signature with one output answers with its value alone.
    return np.array(outputs[query.output_key] if isinstance(outputs, dict) else outputs, np.float32)
