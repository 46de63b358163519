"""The HTTP server: `rest_application.Application` on the REST port."""

import io
import os
import socket
import threading

import gevent
from gevent.event import Event

from rnn_serving import addresses
from rnn_serving.http_server import drain
from rnn_serving.http_server.native_threads import NativeThreads
from rnn_serving.http_server.server import HTTPServer
from rnn_serving.model_server.rest_application import MAX_BODY_BYTES, Application

# Seconds that a connection may be idle, or its client not read its answer, and between two looks at that.
IDLE_S, CHECK_S = 3600, 10
# Seconds in which an idle connection may bring one more request at a stop: it is refused then.
LINGER_S = 0.2


class RestServer:
    """An HTTP server for a `core.ServerCore`: one thread for all connections, others for the calls."""

    def __init__(self, core):
        """Listen on the REST port.

        Raises: OSError if the port is taken.
        """
        options = core.options
        self._listener = addresses.listen(options.host, options.rest_api_port, backlog=1024)
        self._application = Application(core)
        self._calls = NativeThreads(
            options.rest_api_num_threads if options.rest_api_num_threads > 0 else 4 * (os.cpu_count() or 1)
        )
        self._thread = threading.Thread(target=self._run, name="rest", daemon=True)
        self._loop, self._stopping, self._grace_s, self._failure = None, None, None, None
        self._has_started = threading.Event()

    def start(self):
        """Begin to answer requests. Raises: OSError if the thread cannot."""
        self._thread.start()
        self._has_started.wait()
        if self._failure:
            raise self._failure

    def stop(self, grace_s):
        """Refuse new requests, finish those in flight within `grace_s` seconds, then end."""
        self._application.is_stopping, self._grace_s = True, grace_s
        self._loop.run_callback_threadsafe(self._stopping.set)
        self._thread.join()

    def _run(self):
        try:
            self._loop, self._stopping = gevent.get_hub().loop, Event()
            server = HTTPServer(self._listener, self._answer, lambda: not self._application.is_stopping)
            server.start()
        except OSError as error:
            self._failure = error
            self._listener.close()
            return
        finally:
            self._has_started.set()
        while not self._stopping.wait(CHECK_S):
            server.shut_down_waiting(socket.SHUT_RDWR, IDLE_S)
        drain.take_no_more_connections(server.socket)
        server.finish(self._grace_s, LINGER_S)
        self._calls.close()

    def _answer(self, environ, start_response):
        """Answer a request in another thread, which does not have to wait for its body."""
        if int(environ.get("CONTENT_LENGTH") or 0) <= MAX_BODY_BYTES:
            environ["wsgi.input"] = io.BytesIO(_received(environ["wsgi.input"]))
        return self._calls.call(self._application, environ, start_response)


def _received(body):
    """Return a body once all of it has arrived, or more than the application takes."""
    parts, size = [], 0
    while size <= MAX_BODY_BYTES and (part := body.read1()):
        parts.append(part)
        size += len(part)
    return b"".join(parts)
