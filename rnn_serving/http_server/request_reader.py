"""Parse HTTP/1.1 requests by httptools into WSGI environments."""

import functools
from collections import deque
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import httptools

# Limits of what is held in memory before a request is answered: of all that precedes its body, and of its URL.
MAX_HEAD_BYTES, MAX_URL_BYTES, MAX_HEADERS = 2**16, 8190, 100
# Digits of a Content-Length: any number of zeros may lead it, and Python limits the digits that it converts.
MAX_LENGTH_DIGITS = 20

_WITHOUT_HTTP_PREFIX = {"CONTENT_TYPE", "CONTENT_LENGTH"}


class Refusal(NamedTuple):
    """Why a request is rejected: an HTTPStatus, a message, and the environment as far as it is known."""

    status: HTTPStatus
    message: str
    environ: dict


class Request:
    """A request: `body` is the part that has arrived and was not read yet, `size` all that has arrived."""

    __slots__ = ("body", "environ", "is_complete", "is_upgrade", "keeps", "reading_since", "size")

    def __init__(self, environ, keeps):
        self.environ, self.keeps = environ, keeps
        self.body, self.size, self.is_complete, self.is_upgrade, self.reading_since = b"", 0, False, False, None

    def head_of_body(self):
        """Return a head that says where the body ends, b"" if there is no body."""
        length = self.environ.get("CONTENT_LENGTH", "0")
        if "HTTP_TRANSFER_ENCODING" in self.environ:
            return b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        return f"POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode() if length.strip("0") else b""


class RequestReader:
    """Turns the bytes of a connection, fed as they arrive, into `requests`, a deque, until there is a `refusal`.

    A request is added once its head is complete; its body grows while more is fed. All share the items of `environ`.
    """

    def __init__(self, environ):
        self._environ, self._parser = environ, httptools.HttpRequestParser(self)
        self._held, self._request = 0, None
        self.requests, self.refusal = deque(), None

    def feed(self, data):
        """Parse bytes that have arrived."""
        self._held += len(data)
        self._parse(data)
        if self._held > MAX_HEAD_BYTES:
            message = f"the head, or a trailer, is too long; expected at most {MAX_HEAD_BYTES} bytes"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)

    def _parse(self, data):
        try:
            while data:
                data = self._rest_of(data)
        except httptools.HttpParserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"{error}; expected an HTTP/1.1 request")

    def _rest_of(self, data):
        """Parse `data`; if a request asks for an upgrade, ignore that and return the rest as HTTP/1.1."""
        try:
            self._parser.feed_data(data)
            return b""
        except httptools.HttpParserUpgrade as upgrade:
            self._parser = httptools.HttpRequestParser(self)  # the one before has ended
            return self._request.head_of_body() + data[upgrade.args[0] :]

    def _refuse(self, status, message, environ=None):
        """Keep the first reason to reject what is being received."""
        self.refusal = self.refusal or Refusal(status, message, environ or self._environ)

    # Callbacks of httptools

    def on_message_begin(self):
        """Begin a request."""
        self._url, self._headers = b"", []

    def on_url(self, part):
        """Add the URL, or a part of it."""
        self._url += part

    def on_header(self, name, value):
        """Add a header, or a trailer, which is not used."""
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            message = f"the head has too many headers; expected at most {MAX_HEADERS}"
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)

    def on_headers_complete(self):
        """Queue the request; the application can read the body while it is being received."""
        self._held = 0
        environ, parser = self._environ.copy(), self._parser
        if self._request and self._request.is_upgrade:
            self._request.is_upgrade = False  # the head was read before
            return
        self._request = request = Request(environ, parser.should_keep_alive())
        environ["REQUEST_METHOD"] = parser.get_method().decode()
        environ["SERVER_PROTOCOL"] = "HTTP/" + parser.get_http_version()
        environ["REQUEST_URI"] = self._url.decode("latin-1")
        for name, value in self._headers:
            key, text = _environ_key(name), value.decode("latin-1")
            if key:
                environ[key] = f"{environ[key]},{text}" if key in environ else text
        if len(self._url) > MAX_URL_BYTES:
            message = f"the URL has {len(self._url)} bytes; expected at most {MAX_URL_BYTES}"
            self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, message, environ)
        try:
            environ["PATH_INFO"], environ["QUERY_STRING"] = _path_and_query(self._url)
        except httptools.HttpParserError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"{error}; expected the path of a page", environ)
        self._check(environ)
        request.is_upgrade = parser.should_upgrade() and bool(request.head_of_body())
        if not self.refusal:
            self.requests.append(request)

    def on_body(self, part):
        """Add a part of the body."""
        self._held = 0
        self._request.body += part
        self._request.size += len(part)

    def on_message_complete(self):
        """End a request."""
        self._held = 0
        self._request.is_complete = not self._request.is_upgrade

    def _check(self, environ):
        """Reject valid HTTP that we do not support."""
        coding = environ.get("HTTP_TRANSFER_ENCODING")
        if environ["SERVER_PROTOCOL"] not in ("HTTP/1.1", "HTTP/1.0"):
            self._refuse(HTTPStatus.BAD_REQUEST, f"{environ['SERVER_PROTOCOL']}; expected HTTP/1.1", environ)
        if environ["SERVER_PROTOCOL"] == "HTTP/1.0":
            environ.pop("HTTP_EXPECT", None)  # HTTP/1.0 does not know it
        if coding and (coding.lower() != "chunked" or environ["SERVER_PROTOCOL"] == "HTTP/1.0"):
            self._refuse(
                HTTPStatus.BAD_REQUEST, f"Transfer-Encoding is {coding!r}; expected 'chunked', of HTTP/1.1", environ
            )
        if environ.get("HTTP_EXPECT", "100-continue").lower() != "100-continue":
            self._refuse(
                HTTPStatus.EXPECTATION_FAILED, f"Expect is {environ['HTTP_EXPECT']!r}; expected '100-continue'", environ
            )
        if len(environ.get("CONTENT_LENGTH", "")) > MAX_LENGTH_DIGITS:
            message = f"Content-Length is too long; expected at most {MAX_LENGTH_DIGITS} digits"
            self._refuse(HTTPStatus.BAD_REQUEST, message, environ)


@functools.lru_cache(maxsize=256)
def _environ_key(name):
    """Return the WSGI key of a header; None for a name with '_', which could pass for another with '-'."""
    key = name.decode("latin-1").upper()
    if "_" in key:
        return None
    key = key.replace("-", "_")
    return key if key in _WITHOUT_HTTP_PREFIX else "HTTP_" + key


@functools.lru_cache(maxsize=256)
def _path_and_query(url):
    """Return PATH_INFO and QUERY_STRING of a request's URL, which may be absolute, as proxies receive it."""
    if url.startswith(b"/"):
        path, _, query = url.partition(b"#")[0].partition(b"?")
    else:
        parsed = httptools.parse_url(url)
        path, query = parsed.path or b"", parsed.query or b""
    return unquote_to_bytes(path).decode("latin-1"), query.decode("latin-1")
