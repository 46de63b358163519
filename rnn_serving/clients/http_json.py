"""JSON over HTTP: a session without proxies, a POST, and what a failed request says."""

import orjson
import requests

from rnn_serving import command_line
from rnn_serving.clients.load import RequestError


def direct_session(tls=None):
    """Return a session that uses no proxy: none stands between a client and a server on the same machine."""
    session = requests.Session()
    session.trust_env = False
    if tls:
        session.verify, session.cert = tls.ca_file or True, tls.identity
    return session


def post_json(session, url, value, timeout_s):
    """Return the answer, as an object, to a value that is sent as JSON; NumPy arrays may be in it.

    Raises: RequestError with what the server or the connection said instead.
    """
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    try:
        answer = session.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=timeout_s)
    except (requests.RequestException, ValueError) as error:
        message = f"{url}: {command_line.request_failure(error)}; expected an answer"
        raise RequestError(message, _has_lost_connection(error)) from error
    if answer.status_code != 200:
        raise RequestError(f"{url}: {describe_status(answer)}; expected 200", _may_succeed_later(answer))
    try:
        return orjson.loads(answer.content)
    except ValueError as error:
        raise RequestError(f"{url}: {answer.text[:100]!r}; expected JSON") from error


def _has_lost_connection(error):
    """Return whether a connection was refused or broke off; one whose certificate is refused would be so again."""
    lost = (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, lost) and not isinstance(error, requests.exceptions.SSLError)


def _may_succeed_later(answer):
    """Return whether an answer says that a server, or the one behind it, is not there now, or refuses for now.

    Ray answers 500 in plain text if a replica died; our own servers' errors are JSON.
    """
    is_json = "json" in answer.headers.get("Content-Type", "")
    return answer.status_code == 503 or (answer.status_code == 500 and not is_json)


def causes(error):
    """Yield an exception and those that it was raised from: requests wraps errors of urllib3 and those of Python."""
    while error:
        yield error
        error = error.__context__


def describe_status(answer):
    """Return the status of an HTTP answer and the beginning of its body, on one line."""
    return f"status {answer.status_code} {' '.join(answer.text[:300].split())}"
