"""Serve models as `tensorflow_model_server` does; see `rnn_serving.model_server`.

python -m rnn_serving.model_server --port=9000 --rest_api_port=8501 --model_name=mnist \
    --model_base_path="$PWD/exports/mnist"
"""

import gc
import logging
import os
import signal
import sys
import threading
from importlib import metadata

from rnn_serving import addresses, command_line
from rnn_serving.model_server import flags
from rnn_serving.model_server.flags import FlagError

log = logging.getLogger("rnn_serving.model_server")

# The exit status of tensorflow_model_server, whose main returns -1.
FAILED = 255
# How long calls in flight may take to finish at shutdown.
GRACE_S = 10


def main(argv):
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    try:
        options = flags.parse(argv)
    except FlagError as error:
        print(flags.usage() if "--help" in argv else f"{error}\n{flags.usage()}")
        return FAILED
    if options.version:
        print(f"rnn_serving.model_server {metadata.version('rnn-serving')}")
        print(f"TensorFlow Library: {metadata.version('tensorflow')}")
        return 0
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", level=logging.INFO)
    # Imported late: TensorFlow takes seconds to load, and a mistyped flag is reported without it.
    from rnn_serving.model_server.errors import ServingError

    try:
        return serve(options)
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", flush=True)
        return FAILED


def serve(options):
    """Load the models, then serve until a signal arrives, and finish the calls in flight.

    Raises: ServingError if the server cannot start.
    """
    from rnn_serving.model_server.core import ServerCore
    from rnn_serving.model_server.options import complete

    gc.freeze()  # a garbage collection that visits TensorFlow's million objects would hold up all calls for 0.1 s
    core = ServerCore(complete(options))
    stop = threading.Event()

    def stop_on_signal(signals):
        os.read(signals, 1)
        stop.set()
        core.stop_waiting()  # `core.start` may still be waiting for a first version

    # Not in a signal's handler: that interrupts the main thread anywhere, also while it holds the lock of an event, and
    # does not run while the main thread waits if the system lets another thread take the signal.
    signals, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    threading.Thread(target=stop_on_signal, args=(signals,), name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        core.start()
        if not stop.is_set():
            serve_calls(core, stop)
    finally:
        core.stop()
    return 0


def serve_calls(core, stop):
    """Open the ports; when `stop` is set, refuse new calls, finish those in flight and close the ports.

    Raises: ServingError if the gRPC port is taken.
    """
    from rnn_serving.model_server.errors import invalid_argument
    from rnn_serving.model_server.grpc_server import create_server
    from rnn_serving.model_server.open_streams import OpenStreams

    options = core.options
    address = addresses.join(options.host, options.port) if options.port or not options.grpc_socket_path else None
    streams = OpenStreams()
    try:
        server, port = create_server(core, address, streams)
    except RuntimeError as error:
        log.error("%s: %s; expected a free port (--port)", address, error)
        raise invalid_argument("Failed to BuildAndStart gRPC server") from error
    server.start()
    log.info("Running gRPC ModelServer at %s ...%s", *printed(options.host, port))
    rest = start_rest(core)
    stop.wait()
    grpc_stopped = server.stop(GRACE_S)
    streams.end()
    if rest:
        rest.stop(GRACE_S)
    grpc_stopped.wait()


def start_rest(core):
    """Start the REST server and return it; return None without --rest_api_port.

    A port that is taken is logged, and the server goes on with gRPC alone.
    """
    from rnn_serving.model_server.rest_server import RestServer

    options = core.options
    if not options.rest_api_port:
        return None
    try:
        if options.rest_api_port == options.port:
            raise OSError("the gRPC server uses this port")
        server = RestServer(core)
        server.start()
    except OSError as error:
        address = addresses.join(options.host, options.rest_api_port)
        log.error("Failed to start HTTP Server at %s: %s", address, error.strerror or error)
        return None
    log.info("Exporting HTTP/REST API at:%s ...%s", *printed(options.host, options.rest_api_port))
    return server


def printed(host, port):
    """Return an address that a client can connect to, and what to add if the server listens on all addresses."""
    return addresses.join(addresses.reachable(host), port), addresses.wildcard_note(host)


if __name__ == "__main__":
    command_line.end_process(main(sys.argv[1:]))
