"""What a Flask server says about its model at GET /metadata. No TensorFlow."""

from urllib.parse import urlsplit

import requests

from rnn_serving.clients import server_kind, waiting
from rnn_serving.clients.http_json import describe_status, direct_session
from rnn_serving.clients.signature import image_shape
from rnn_serving.command_line import UserError, request_failure
from rnn_serving.dataset import IMAGE_SHAPE


def read_metadata(url, timeout_s, wait_s=0.0, tls=None):
    """Return the JSON of GET /metadata, {} from a server that does not offer it; wait for a server that is starting.

    Raises: UserError if there is no server after `wait_s` seconds, one without a model, or one of another kind.
    """
    try:
        with direct_session(tls) as session:
            answer = waiting.get(session, url + "metadata", timeout_s, wait_s, "flask", tls)
    except (requests.RequestException, ValueError) as error:
        raise UserError(
            f"{url}: {request_failure(error)}; expected a server there, start one with python flask_server.py"
        ) from error
    if answer.status_code == 503:
        raise UserError(f"{url}: {describe_status(answer)}; expected a server that has loaded its model")
    try:
        found = answer.json() if answer.ok else None
    except ValueError:
        found = None
    if isinstance(found, dict):
        return found
    server_kind.require_kind("flask", urlsplit(url).netloc)
    return {}


def served_image_shape(url, metadata):
    """Return the shape in which the server's model takes one image, (28, 28) if `metadata` does not say.

    Raises: UserError if it does not take images.
    """
    try:
        ((key, info),) = metadata["signature"]["inputs"].items()
        # A number in JSON becomes a float of any size.
        dtype = "float32" if info["dtype"].startswith("float") else info["dtype"]
        shape = info["shape"] and tuple(info["shape"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return IMAGE_SHAPE
    try:
        return image_shape(key, dtype, shape)
    except UserError as error:
        raise UserError(f"{url}: model {metadata.get('model')} version {metadata.get('version')} {error}") from error
