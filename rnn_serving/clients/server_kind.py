"""Recognize which kind of server answers at an address, for a client that is aimed at the port of another kind."""

from http.client import HTTPException

import requests

from rnn_serving.addresses import split_address
from rnn_serving.clients.http_json import causes, direct_session
from rnn_serving.command_line import UserError

# What a port is called, by the kind of server, and which client asks it.
PORTS = {
    "flask": ("the port of a Flask server", "python flask_client.py"),
    "grpc": ("the gRPC port of a model server", "python tfserving_client.py"),
    "rest": ("the REST port of a model server", "python tfserving_client.py --protocol rest"),
    "http": ("the port of an HTTP server of another kind", None),
}
TIMEOUT_S = 2.0


def require_kind(kind, address):
    """Raise UserError if a server of another kind than `kind`, a key of `PORTS`, answers at HOST:PORT.

    It says which port that is and how to ask it. A server that does not answer raises nothing.
    """
    found = recognize(address)
    # A Flask server need not be ours: the article's offers nothing to recognize it by.
    if found in (None, kind) or (kind, found) == ("flask", "http"):
        return
    (expected, _), (port, client) = PORTS[kind], PORTS[found]
    hint = f", or ask this one with {client} {_flags(address)}" if client else ""
    raise UserError(f"{address} is {port}; expected {expected}{hint}")


def recognize(address, timeout_s=TIMEOUT_S):
    """Return the kind of the server at HOST:PORT, a key of `PORTS`, or None."""
    try:
        with direct_session() as session:
            answer = session.get(f"http://{address}/v1/", timeout=timeout_s)
    except requests.ConnectionError as error:
        is_there = any(isinstance(cause, (HTTPException, ConnectionResetError)) for cause in causes(error))
        return "grpc" if is_there and _speaks_grpc(address, timeout_s) else None
    except (requests.RequestException, ValueError):
        return None
    error = _error_of(answer)
    if error.startswith("Malformed request"):  # TensorFlow Serving's words for a path that it does not know
        return "rest"
    return "flask" if error.startswith("GET /v1/:") else "http"


def _flags(address):
    """Return the flags of a client that name HOST:PORT."""
    host, port = split_address(address)
    return f"--port {port}" if host == "127.0.0.1" else f"--host {host} --port {port}"


def _error_of(answer):
    """Return the text under "error" in the JSON of an answer, "" if there is none."""
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def _speaks_grpc(address, timeout_s):
    # Imported here: flask_client.py needs gRPC only to recognize it.
    import grpc

    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=timeout_s)
        except grpc.FutureTimeoutError:
            return False
    return True
