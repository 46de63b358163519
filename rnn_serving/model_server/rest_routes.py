"""Parse the paths of the REST API: which model, which version, which call."""

import re
from urllib.parse import unquote_to_bytes

from rnn_serving.model_server.errors import invalid_argument

from tensorflow_serving.apis import model_pb2

_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_POST_PATH = re.compile(rf"{_MODEL}:(?P<verb>classify|regress|predict)", re.IGNORECASE | re.DOTALL)
_GET_PATH = re.compile(rf"(?:{_MODEL}|/v1/models)(?P<metadata>/metadata)?", re.IGNORECASE | re.DOTALL)
_NO_PATH = re.compile("(?!)")


class EmptyBadRequest(Exception):
    """A request that the C++ server answers with 400 and no body."""


def is_api_path(path):
    """Return whether a path belongs to the API."""
    return path[:4].lower() == "/v1/"


def parse(method, path):
    """Return (groups of the matching expression, model name) of a request's path.

    Raises: ServingError, EmptyBadRequest.
    """
    match = {"POST": _POST_PATH, "GET": _GET_PATH}.get(method, _NO_PATH).fullmatch(path)
    # The C++ server matches paths in any case, then accepts verbs in lower case only.
    if not match or match.groupdict().get("verb", "predict") not in ("predict", "classify", "regress"):
        raise invalid_argument(f"Malformed request: {method} {path}")
    route = match.groupdict()
    if route["version"] and (len(route["version"].lstrip("0")) > 19 or int(route["version"]) >= 2**63):
        raise EmptyBadRequest
    if not route["name"]:
        raise invalid_argument("Missing model name in request.")
    return route, _unquote(route["name"])


def model_spec(route, name):
    """Return the ModelSpec of a route."""
    spec = model_pb2.ModelSpec(name=name)
    if route["version"]:
        spec.version.value = int(route["version"])
    if route["label"]:
        spec.version_label = _unquote(route["label"])
    return spec


def _unquote(text):
    return unquote_to_bytes(text.encode("latin-1", "replace")).decode("utf-8", "replace")
