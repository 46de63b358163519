"""Ask a server for an answer as JSON over HTTP: the Flask endpoint, or TensorFlow Serving's REST API."""

import base64
import contextlib
from urllib.parse import quote

import requests

from rnn_serving.clients import waiting
from rnn_serving.clients.http_json import describe_status, direct_session, post_json
from rnn_serving.clients.load import RequestError
from rnn_serving.command_line import request_failure


@contextlib.contextmanager
def open_flask(address, model_name, timeout_s, wait_s=0.0):
    """Yield `ask(question) -> answer`, bytes to str, which raises RequestError; the endpoint has one model, any name.

    Raises: RequestError if no server with a model answers.
    """
    url = f"http://{address}/"
    with open_session(f"{url}readyz", timeout_s, wait_s) as session:
        yield lambda text: first_answer(session, url, {"data": as_json(text)}, "y", timeout_s)


@contextlib.contextmanager
def open_rest(address, model_name, timeout_s, wait_s=0.0):
    """Yield `ask` as `open_flask` does."""
    url = f"http://{address}/v1/models/{quote(model_name, safe='')}"
    with open_session(url, timeout_s, wait_s) as session:
        yield lambda text: first_answer(
            session, f"{url}:predict", {"instances": [as_json(text)]}, "predictions", timeout_s
        )


@contextlib.contextmanager
def open_session(url, timeout_s, wait_s):
    """Yield a session once `url` answers with status 200, which shows that a model is there.

    Raises: RequestError if it does not, for a server that is starting after `wait_s` seconds.
    """
    with direct_session() as session:
        try:
            answer = waiting.get(session, url, timeout_s, wait_s)
        except (requests.RequestException, ValueError) as error:
            raise RequestError(f"{url}: {request_failure(error)}") from error
        if answer.status_code != 200:
            raise RequestError(f"{url}: {describe_status(answer)}")
        yield session


def first_answer(session, url, value, key, timeout_s):
    """Return the only answer in the list under `key` of the response to `value`; raise RequestError."""
    response = post_json(session, url, value, timeout_s)
    try:
        return response[key][0]
    except (KeyError, IndexError, TypeError) as error:
        raise RequestError(f"{url}: {str(response)[:100]}; expected JSON with one answer in {key!r}") from error


def as_json(text):
    """Return bytes as JSON holds them: as text, or in base64 if they are not valid UTF-8."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(text).decode()}
