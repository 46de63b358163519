"""Ask a server that is still starting again until it answers, for a limited time."""

import re
import sys
import time
from urllib.parse import urlsplit

import requests

from rnn_serving.clients import server_kind
from rnn_serving.clients.http_json import causes, describe_status
from rnn_serving.command_line import UserError, error_reason, request_failure
from rnn_serving.tls import tls_refusal

ASK_AGAIN_S = 0.1
# What gRPC says of an address where waiting will not help.
_PERMANENT_ERRORS = re.compile(r"resolv|resolution|No route|unreachable|timed out|Failed parsing HTTP/2", re.IGNORECASE)


def get(session, url, timeout_s, wait_s=0.0, kind=None, tls=None):
    """Return the answer to GET; ask again for `wait_s` seconds while nothing listens there or the status is 503.

    `kind` is that of the server, a key of `server_kind.PORTS`; `tls` is a `TLS` if the session connects by it.
    Raises: what `session.get` raises, and UserError if a server of another kind is there.
    """
    patience = _Patience(urlsplit(url).netloc, wait_s, kind, tls)
    while True:
        try:
            answer = session.get(url, timeout=timeout_s)
        except requests.RequestException as error:
            if not patience.should_retry(_is_not_there_yet(error), request_failure(error)):
                raise
        else:
            if answer.status_code != 503 or not patience.should_retry(True, describe_status(answer)):
                return answer


def call(method, request, timeout_s, address, wait_s=0.0, kind=None, tls=None):
    """Return (response, call) of a gRPC method at HOST:PORT; ask again for `wait_s` seconds while it is UNAVAILABLE.

    Raises: grpc.RpcError, and UserError if a server of another kind than `kind` is there.
    """
    # Imported here: flask_client.py does without gRPC.
    import grpc

    patience = _Patience(address, wait_s, kind, tls)
    while True:
        try:
            return method.with_call(request, timeout=timeout_s)
        except grpc.RpcError as error:
            reason = error_reason(error.details() or "no details")
            may_come = error.code() == grpc.StatusCode.UNAVAILABLE and not _PERMANENT_ERRORS.search(reason)
            if not patience.should_retry(may_come, f"{error.code().name}: {reason}"):
                raise


class _Patience:
    """How long to wait for the server at `address`: `wait_s` seconds from now on."""

    def __init__(self, address, wait_s, kind, tls):
        self._address, self._wait_s, self._kind, self._tls = address, wait_s, kind, tls
        self._has_failed = False
        self._deadline = time.monotonic() + wait_s

    def should_retry(self, may_come, reason):
        """Return whether to retry, after sleeping. Print a message on the first failure.

        Raises: UserError if a server of another kind is there, or one that refuses the connection's TLS.
        """
        is_first, self._has_failed = not self._has_failed, True
        gives_up = not may_come or time.monotonic() >= self._deadline
        if (is_first or gives_up) and (refusal := tls_refusal(self._address, self._tls, may_guess=gives_up)):
            raise UserError(f"{self._address}: {refusal}")
        if is_first and self._kind:
            server_kind.require_kind(self._kind, self._address)
        if gives_up:
            return False
        if is_first:
            print(f"{self._address}: {reason}; waiting up to {self._wait_s:g} s", file=sys.stderr, flush=True)
        time.sleep(ASK_AGAIN_S)
        return True


def _is_not_there_yet(error):
    """Return whether a connection was refused, or closed before an answer, as by a container that is starting.

    Not if the host is unknown or does not respond.
    """
    return any(isinstance(cause, ConnectionError) for cause in causes(error))  # Python's, not that of requests
