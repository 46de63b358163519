"""HTTP/1.1 on one connection: what httptools reads is asked of a WSGI application, and its answer sent at once.

A worker answers a quarter more small requests than by gunicorn's own way of doing this, which is Python throughout.
"""

import email.utils
import functools
import io
import logging
import sys
import time
from collections import deque
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

import gevent
import httptools
import orjson

log = logging.getLogger(__name__)

RECEIVE_BYTES = 2**16
# Limits of what has to be kept before a request can be asked: of all that precedes its body, and of its address.
MAX_HEAD_BYTES, MAX_URL_BYTES, MAX_HEADERS = 2**16, 8190, 100
# Seconds without a byte of a request's body, and the bytes a second that are expected of it after as many seconds.
BODY_TIMEOUT_S, MIN_BODY_RATE = 10, 1000
# Digits of a Content-Length. Zeros may lead it, in any number, of which Python makes no integer any more.
MAX_LENGTH_DIGITS = 20

_UNNAMED = {"CONTENT_TYPE", "CONTENT_LENGTH"}
_BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


class HTTPConnection:
    """Asks a WSGI application one request after the other, in the order in which they come.

    `waiting_since` is the time of `time.monotonic()` since when the client has been waited for, to send a request or to
    take its answer; None while it waits itself. `has_unread` tells whether it may still be sending its last request.
    `may_keep()` tells whether the client may send another request; `log(environ, status, headers, size, seconds)` is
    told of each answer.
    """

    def __init__(self, sock, peer, server, app, may_keep, log):
        self._socket, self._app, self._may_keep, self._log = sock, app, may_keep, log
        self._parser = httptools.HttpRequestParser(self)
        self._received, self._requests, self._refusal = 0, deque(), None
        self._environ = {
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
        self._request, self._refused = None, self._environ
        self.waiting_since, self.has_unread = None, False

    def serve(self):
        """Answer requests until the client, an error or `may_keep` ends it. Raises: OSError if the connection fails."""
        while request := self._next_request():
            try:
                if not self._answer(request):
                    return
            except OSError:
                raise
            except Exception:
                log.exception("A request failed")
                self._refused = request.environ
                self._refusal = HTTPStatus.INTERNAL_SERVER_ERROR, "internal error, see the server's log"
                break
        if self._refusal:
            self._refuse(*self._refusal)

    def _next_request(self):
        """Return the next request, whose body may still be on its way; None if there is none."""
        if self._requests:
            gevent.sleep(0)  # the others' turn: a client that sends many requests ahead must not hold them up
        self.waiting_since = time.monotonic()
        while not self._requests:
            if self._refusal or not self._receive():
                return None
        self.waiting_since = None
        return self._requests.popleft()

    def _receive(self):
        """Parse what comes next; return whether anything came."""
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            return False
        self._received += len(data)
        self._parse(data)
        if self._received > MAX_HEAD_BYTES:
            message = f"the head, or a trailer, has more than {MAX_HEAD_BYTES} bytes; expected at most as many"
            self._fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
        return True

    def _parse(self, data):
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # Here is nothing but HTTP/1.1, as which a new parser reads the rest, since the old one has ended.
            self._parser = httptools.HttpRequestParser(self)
            self._parse(self._request.head_of_body() + data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._fail(HTTPStatus.BAD_REQUEST, f"{error}; expected an HTTP/1.1 request")

    def _fail(self, status, message):
        """Remember the first reason to refuse what is being received."""
        self._refusal = self._refusal or (status, message)

    # What httptools calls

    def on_message_begin(self):
        """Begin a request."""
        self._url, self._headers = b"", []

    def on_url(self, part):
        """Take the address, or a part of it."""
        self._url += part

    def on_header(self, name, value):
        """Take a header, or a trailer, which nobody asks for."""
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            message = f"the head has more than {MAX_HEADERS} headers; expected at most as many"
            self._fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)

    def on_headers_complete(self):
        """Let the application answer as soon as it is its turn; it can read the body while that is received."""
        self._received = 0
        environ, parser = self._environ.copy(), self._parser
        if self._request and self._request.is_upgrade:
            self._request.is_upgrade = False  # the head was read before
            return
        self._request = request = _Request(environ, parser.should_keep_alive())
        environ["REQUEST_METHOD"] = parser.get_method().decode()
        environ["SERVER_PROTOCOL"] = "HTTP/" + parser.get_http_version()
        for name, value in self._headers:
            key, text = _environ_key(name), value.decode("latin-1")
            if key:
                environ[key] = f"{environ[key]},{text}" if key in environ else text
        if len(self._url) > MAX_URL_BYTES:
            message = f"the address has {len(self._url)} bytes; expected at most {MAX_URL_BYTES}"
            self._fail(HTTPStatus.REQUEST_URI_TOO_LONG, message)
        try:
            environ["PATH_INFO"], environ["QUERY_STRING"] = _path_and_query(self._url)
        except httptools.HttpParserError as error:
            self._fail(HTTPStatus.BAD_REQUEST, f"{error}; expected the path of a page")
        self._check(environ)
        request.is_upgrade = parser.should_upgrade() and bool(request.head_of_body())
        if self._refusal:
            self._refused = environ
        else:
            self._requests.append(request)

    def on_body(self, part):
        """Take a part of the body."""
        self._received = 0
        self._request.body += part
        self._request.size += len(part)

    def on_message_complete(self):
        """End a request."""
        self._received = 0
        self._request.is_complete = not self._request.is_upgrade

    def _check(self, environ):
        """Refuse a request that is HTTP, but no such as can be answered here."""
        coding = environ.get("HTTP_TRANSFER_ENCODING")
        if environ["SERVER_PROTOCOL"] not in ("HTTP/1.1", "HTTP/1.0"):
            self._fail(HTTPStatus.BAD_REQUEST, f"{environ['SERVER_PROTOCOL']}; expected HTTP/1.1")
        if environ["SERVER_PROTOCOL"] == "HTTP/1.0":
            environ.pop("HTTP_EXPECT", None)  # which was not known then
        if coding and (coding.lower() != "chunked" or environ["SERVER_PROTOCOL"] == "HTTP/1.0"):
            self._fail(HTTPStatus.BAD_REQUEST, f"Transfer-Encoding is {coding!r}; expected 'chunked', of HTTP/1.1")
        if environ.get("HTTP_EXPECT", "100-continue").lower() != "100-continue":
            self._fail(HTTPStatus.EXPECTATION_FAILED, f"Expect is {environ['HTTP_EXPECT']!r}; expected '100-continue'")
        if len(environ.get("CONTENT_LENGTH", "")) > MAX_LENGTH_DIGITS:
            message = f"Content-Length has more than {MAX_LENGTH_DIGITS} digits; expected at most as many"
            self._fail(HTTPStatus.BAD_REQUEST, message)

    # Answers

    def _answer(self, request):
        """Send what the application answers to a request; return whether another one may follow."""
        began, environ, parts, started = time.perf_counter(), request.environ, [], []

        def start_response(status, headers, exc_info=None):
            started[:] = status, headers
            return parts.append

        if request.is_complete:
            environ["wsgi.input"] = io.BytesIO(request.body)
        else:
            environ["wsgi.input"] = io.BufferedReader(_Body(self, request))
        result = self._app(environ, start_response)
        try:
            parts.extend(result)
        finally:
            if hasattr(result, "close"):
                result.close()
        self.has_unread = not request.is_complete
        keeps = request.keeps and request.is_complete and self._may_keep()
        self._send(environ, *started, b"".join(parts), keeps, time.perf_counter() - began)
        return keeps

    def _refuse(self, status, message):
        """Send an error that ends the connection."""
        body = orjson.dumps({"error": message}, option=orjson.OPT_APPEND_NEWLINE)
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        self._send(self._refused, f"{status.value} {status.phrase}", headers, body, keeps=False, seconds=0.0)

    def _send(self, environ, status, headers, body, keeps, seconds):
        """Send head and body together, since sending costs more than anything else here, and log it."""
        code = int(status[:3])
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
        head = f"HTTP/1.1 {status}\r\n{_general_headers(int(time.time()), keeps)}{lines}\r\n".encode("latin-1")
        has_body = environ.get("REQUEST_METHOD") != "HEAD" and code not in _BODILESS
        try:
            self._send_all(memoryview(head + body if has_body else head))
        finally:
            self._note(environ, code, headers, len(body), seconds)

    def _send_all(self, content):
        while content:
            self.waiting_since = time.monotonic()
            content = content[self._socket.send(content) :]
        self.waiting_since = None

    def _note(self, *answer):
        try:
            self._log(*answer)
        except Exception:  # a line that cannot be written is no reason to answer otherwise
            log.exception("An answer was not logged")

    def _read_body(self, request, size):
        """Return up to `size` bytes of a body, none at its end.

        Raises: TimeoutError if nothing comes, OSError if what comes is no such body.
        """
        request.reading_since = request.reading_since or time.monotonic()
        try:
            self._socket.settimeout(BODY_TIMEOUT_S)
            if request.environ.pop("HTTP_EXPECT", None) and not request.body:
                self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            while not (request.body or request.is_complete or self._refusal):
                self._socket.settimeout(self._patience_s(request))
                if not self._receive():
                    break
        except TimeoutError:
            message = f"nothing came for {BODY_TIMEOUT_S} s, or less than {MIN_BODY_RATE} bytes a second"
            raise TimeoutError(message) from None
        finally:
            self._socket.settimeout(None)
        part, request.body = request.body[:size], request.body[size:]
        if not part and not request.is_complete:
            raise OSError(self._refusal[1] if self._refusal else "it is cut off")
        return part

    @staticmethod
    def _patience_s(request):
        """Return how long to wait for more of a body."""
        ends = request.reading_since + BODY_TIMEOUT_S + request.size / MIN_BODY_RATE
        return min(BODY_TIMEOUT_S, max(0.001, ends - time.monotonic()))


class _Request:
    """A request: `body` is what has come and was not read yet, `size` what has come in all."""

    __slots__ = ("body", "environ", "is_complete", "is_upgrade", "keeps", "reading_since", "size")

    def __init__(self, environ, keeps):
        self.environ, self.keeps = environ, keeps
        self.body, self.size, self.is_complete, self.is_upgrade, self.reading_since = b"", 0, False, False, None

    def head_of_body(self):
        """Return a head that tells where the body ends, b"" if there is none."""
        length = self.environ.get("CONTENT_LENGTH", "0")
        if "HTTP_TRANSFER_ENCODING" in self.environ:
            return b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        return f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode() if length.strip("0") else b""


class _Body(io.RawIOBase):
    """The body of a request that is still being received."""

    def __init__(self, connection, request):
        self._connection, self._request = connection, request

    def readable(self):
        return True

    def readinto(self, buffer):
        part = self._connection._read_body(self._request, len(buffer))
        buffer[: len(part)] = part
        return len(part)


@functools.lru_cache(maxsize=256)
def _environ_key(name):
    """Return WSGI's key of a header; None for one that could pass for another, as that has '-' for '_'."""
    key = name.decode("latin-1").upper()
    if "_" in key:
        return None
    key = key.replace("-", "_")
    return key if key in _UNNAMED else "HTTP_" + key


@functools.lru_cache(maxsize=256)
def _path_and_query(url):
    """Return PATH_INFO and QUERY_STRING of a request's address, which may be whole, as proxies are sent it."""
    if url.startswith(b"/"):
        path, _, query = url.partition(b"#")[0].partition(b"?")
    else:
        parsed = httptools.parse_url(url)
        path, query = parsed.path or b"", parsed.query or b""
    return unquote_to_bytes(path).decode("latin-1"), query.decode("latin-1")


@functools.lru_cache(maxsize=4)
def _general_headers(second, keeps):
    """Return the headers that all answers of a second share."""
    connection = "keep-alive" if keeps else "close"
    return f"Date: {email.utils.formatdate(second, usegmt=True)}\r\nConnection: {connection}\r\n"
