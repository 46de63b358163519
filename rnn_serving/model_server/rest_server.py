"""The HTTP server: `rest_application.Application` on the REST port."""

import os
import threading
import time

from waitress import wasyncore

from rnn_serving import addresses
from rnn_serving.model_server.rest_application import MAX_BODY_BYTES, Application
from rnn_serving.model_server.rest_listener import Listener


class RestServer:
    """An HTTP server for a `core.ServerCore`, on threads of its own."""

    def __init__(self, core):
        """Listen on the REST port.

        Raises: OSError if the port is taken.
        """
        options = core.options
        self._application = Application(core)
        self._server = Listener(
            self._application,
            addresses.listen(options.host, options.rest_api_port, backlog=1024),
            options.rest_api_num_threads if options.rest_api_num_threads > 0 else 4 * (os.cpu_count() or 1),
            backlog=1024,
            asyncore_use_poll=True,  # select() fails at the 1,024th file descriptor
            # Never in temporary files, which need file descriptors and a directory that can be written.
            inbuf_overflow=MAX_BODY_BYTES,
            outbuf_overflow=MAX_BODY_BYTES,
            channel_timeout=3600,  # clients keep idle connections to the C++ server open
            max_request_body_size=MAX_BODY_BYTES,
            ident=None,
            clear_untrusted_proxy_headers=False,
        )
        self._thread = threading.Thread(target=self._server.run, name="rest", daemon=True)

    def start(self):
        """Begin to answer requests."""
        self._thread.start()

    def stop(self, grace_s):
        """Refuse new requests, finish those in flight within `grace_s` seconds, then end."""
        self._application.is_stopping = True
        self._in_loop(lambda: wasyncore.dispatcher.close(self._server))
        deadline = time.monotonic() + grace_s
        while not self._is_idle() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._server.task_dispatcher.shutdown(cancel_pending=True, timeout=1)
        self._in_loop(lambda: wasyncore.close_all(self._server._map))
        self._thread.join()

    def _in_loop(self, action):
        """Run an action in the thread that owns the sockets."""
        self._server.trigger.pull_trigger(action)

    def _is_idle(self):
        channels = list(self._server.active_channels.values())
        return not any(channel.requests or channel.total_outbufs_len for channel in channels)
