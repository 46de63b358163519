"""HTTP/1.1 on one connection: httptools parses requests, a WSGI application answers, one send returns the answer."""

import email.utils
import functools
import io
import logging
import sys
import time
from http import HTTPStatus

import gevent
import gevent.socket
import orjson

from rnn_serving.http_server.request_reader import Refusal, RequestReader

log = logging.getLogger(__name__)

RECEIVE_BYTES = 2**16
# A body times out after BODY_TIMEOUT_S without data, or if it stays below MIN_BODY_RATE bytes per second after that.
BODY_TIMEOUT_S, MIN_BODY_RATE = 10, 1000
_BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class HTTPConnection:
    """Passes one request after the other to a WSGI application, in the order of their arrival.

    `waiting_since` is `time.monotonic()` when the connection began to wait for the client; None while a request is
    processed. `has_unread` says whether the client may still be sending its last
    request. `may_keep()` returns whether it may send another one; `log(environ, status, headers, size, seconds)` is
    called for each answer. `is_alone()` returns whether this is the only connection.
    """

    def __init__(self, sock, peer, server, app, may_keep, log, is_alone=lambda: True):
        self._socket, self._app, self._may_keep, self._log, self._is_alone = sock, app, may_keep, log, is_alone
        environ = {
            "REMOTE_ADDR": peer[0],
            "REMOTE_PORT": str(peer[1]),
            "SCRIPT_NAME": "",
            "SERVER_NAME": server[0],
            "SERVER_PORT": str(server[1]),
            "wsgi.errors": sys.stderr,
            "wsgi.input_terminated": True,
            "wsgi.multiprocess": True,
            "wsgi.multithread": True,
            "wsgi.run_once": False,
            "wsgi.url_scheme": "http",
            "wsgi.version": (1, 0),
        }
        self._reader = RequestReader(environ)
        self.waiting_since, self.has_unread = None, False

    def serve(self):
        """Answer requests until the client, an error or `may_keep` ends the connection. Raises: OSError if it fails."""
        while request := self._next_request():
            try:
                if not self._answer(request):
                    return
            except BodyTimeout as error:
                message = f"the body is not complete ({error})"
                self._refuse(Refusal(HTTPStatus.REQUEST_TIMEOUT, message, request.environ))
                return
            except OSError:
                raise
            except Exception:
                log.exception("A request failed")
                self._refuse(Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error, see the log", request.environ))
                return
        if self._reader.refusal:
            self._refuse(self._reader.refusal)

    def _next_request(self):
        """Return the next request, whose body may still be arriving; None if there is none."""
        requests = self._reader.requests
        if requests:
            gevent.sleep(0)  # let others run: a client that pipelines many requests must not hold them up
        self.waiting_since = time.monotonic()
        while not requests:
            if self._reader.refusal or not self._receive():
                return None
        self.waiting_since = None
        return requests.popleft()

    def _receive(self):
        """Receive and parse more; return whether anything arrived."""
        if not self._is_alone():
            # `recv` returns at once what is there, before what arrived earlier on other connections.
            gevent.socket.wait_read(self._socket.fileno(), self._socket.gettimeout(), TimeoutError("timed out"))
        data = self._socket.recv(RECEIVE_BYTES)
        if data:
            self._reader.feed(data)
        return bool(data)

    def _answer(self, request):
        """Send the application's answer to a request; return whether another one may follow."""
        began, environ, parts, started = time.perf_counter(), request.environ, [], []

        def start_response(status, headers, exc_info=None):
            started[:] = status, headers
            return parts.append

        if request.is_complete:
            environ["wsgi.input"] = io.BytesIO(request.body)
        else:
            environ["wsgi.input"] = io.BufferedReader(_Body(self, request), RECEIVE_BYTES)
        try:
            result = self._app(environ, start_response)
            try:
                parts.extend(result)
            finally:
                if hasattr(result, "close"):
                    result.close()
        except (BodyTimeout, BodyCutOff):
            raise
        except OSError as error:  # not one of this connection
            raise RuntimeError("the application failed") from error
        environ.setdefault("CONTENT_LENGTH", str(request.size))  # for the log, if it was chunked
        self.has_unread = not request.is_complete
        keeps = request.keeps and request.is_complete and self._may_keep()
        self._send(environ, *started, b"".join(parts), keeps, time.perf_counter() - began)
        return keeps

    def _refuse(self, refusal):
        """Send an error that ends the connection."""
        self.has_unread = True
        body = orjson.dumps({"error": refusal.message}, option=orjson.OPT_APPEND_NEWLINE)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        status = f"{refusal.status.value} {refusal.status.phrase}"
        self._send(refusal.environ, status, headers, body, keeps=False, seconds=0.0)

    def _send(self, environ, status, headers, body, keeps, seconds):
        """Send head and body by one system call, the most expensive part of this module, and log the answer."""
        code = int(status[:3])
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        head = f"HTTP/1.1 {status}\r\n{_general_headers(int(time.time()), keeps)}{lines}\r\n".encode("latin-1")
        has_body = environ.get("REQUEST_METHOD") != "HEAD" and code not in _BODILESS
        try:
            self._send_all(memoryview(head + body if has_body else head))
        finally:
            self._log_answer(environ, code, headers, len(body), seconds)

    def _send_all(self, content):
        while content:
            self.waiting_since = time.monotonic()
            content = content[self._socket.send(content) :]
        self.waiting_since = None

    def _log_answer(self, *answer):
        try:
            self._log(*answer)
        except Exception:  # a log that cannot be written must not change the answer
            log.exception("An answer was not logged")

    def _read_body(self, request, size):
        """Return up to `size` bytes of a body, none at its end.

        Raises: BodyTimeout if it is late, BodyCutOff if it is cut off or not valid HTTP.
        """
        request.reading_since = request.reading_since or time.monotonic()
        try:
            self._socket.settimeout(BODY_TIMEOUT_S)
            if request.environ.pop("HTTP_EXPECT", None) and not request.body:
                self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            while not (request.body or request.is_complete or self._reader.refusal):
                self._socket.settimeout(self._receive_timeout_s(request))
                if not self._receive():
                    break
        except TimeoutError:
            message = f"nothing arrived for {BODY_TIMEOUT_S} s, or less than {MIN_BODY_RATE} bytes per second"
            raise BodyTimeout(message) from None
        except OSError as error:
            raise BodyCutOff(error.strerror or "it is cut off") from error
        finally:
            self._socket.settimeout(None)
        part, request.body = request.body[:size], request.body[size:]
        if not part and not request.is_complete:
            raise BodyCutOff(self._reader.refusal.message if self._reader.refusal else "it is cut off")
        return part

    @staticmethod
    def _receive_timeout_s(request):
        """Return how long to wait for more of a body, in seconds."""
        ends = request.reading_since + BODY_TIMEOUT_S + request.size / MIN_BODY_RATE
        return min(BODY_TIMEOUT_S, max(0.001, ends - time.monotonic()))


class BodyTimeout(TimeoutError):
    """The body of a request is late."""


class BodyCutOff(OSError):
    """The body of a request is cut off or not valid HTTP."""


class _Body(io.RawIOBase):
    """The body of a request while it is being received."""

    def __init__(self, connection, request):
        self._connection, self._request = connection, request

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self._connection._read_body(self._request, len(buffer))
        buffer[: len(part)] = part
        return len(part)


@functools.lru_cache(maxsize=4)
def _general_headers(second, keeps):
    """Return the headers that all answers within a second share."""
    connection = "keep-alive" if keeps else "close"
    return f"Date: {email.utils.formatdate(second, usegmt=True)}\r\nConnection: {connection}\r\n"
