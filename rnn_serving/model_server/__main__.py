"""Serve models as `tensorflow_model_server` does; see `rnn_serving.model_server`.

python -m rnn_serving.model_server --port=9000 --rest_api_port=8501 --model_name=mnist \
    --model_base_path="$PWD/exports/mnist"
"""

import logging
import signal
import sys
import threading
from importlib import metadata

from rnn_serving.model_server import flags
from rnn_serving.model_server.flags import FlagError

log = logging.getLogger("rnn_serving.model_server")

# What a return of -1 from the C++ server's main is to a shell.
FAILED = 255
# Seconds for calls in flight when the server is told to stop.
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
    # It has a line for each request that has to wait for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # Imported here: TensorFlow takes seconds to load, which a mistyped flag should not have to wait for.
    from rnn_serving.model_server.errors import ServingError

    try:
        return serve(options)
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", flush=True)
        return FAILED


def serve(options):
    """Load the models, then take calls until told to stop, and finish those in flight.

    Raises: ServingError if the server cannot start.
    """
    from rnn_serving.model_server.core import ServerCore
    from rnn_serving.model_server.options import complete

    core = ServerCore(complete(options))
    stop = threading.Event()

    def stop_on_signal(number, frame):
        stop.set()
        core.give_up()  # where it still waits for a first version

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop_on_signal)
    try:
        core.start()
        if not stop.is_set():
            take_calls(core, stop)
    finally:
        core.stop()
    return 0


def take_calls(core, stop):
    """Open the ports, and close them when `stop` is set and the calls in flight are done.

    Raises: ServingError if the gRPC port is taken.
    """
    from rnn_serving.model_server.errors import invalid_argument
    from rnn_serving.model_server.grpc_server import create_server

    options = core.options
    address = f"{options.host}:{options.port}" if options.port or not options.grpc_socket_path else None
    try:
        server, port = create_server(core, address)
    except RuntimeError as error:
        log.error("%s: %s; expected a free port (--port)", address, error)
        raise invalid_argument("Failed to BuildAndStart gRPC server") from error
    server.start()
    log.info("Running gRPC ModelServer at %s:%d ...", options.host, port)
    rest = start_rest(core)
    stop.wait()
    refused = server.stop(GRACE_S)
    if rest:
        rest.stop(GRACE_S)
    refused.wait()


def start_rest(core):
    """Return the running REST side, None if there is none; a port that is taken is logged, and gRPC goes on alone."""
    from rnn_serving.model_server.rest_server import RestServer

    options = core.options
    if not options.rest_api_port:
        return None
    try:
        if options.rest_api_port == options.port:
            raise OSError("it is the port of gRPC")
        rest = RestServer(core)
    except OSError as error:
        log.error("Failed to start HTTP Server at %s:%d: %s", options.host, options.rest_api_port, error)
        return None
    rest.start()
    log.info("Exporting HTTP/REST API at:%s:%d ...", options.host, options.rest_api_port)
    return rest


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
