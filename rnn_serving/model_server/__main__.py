"""Serve a model as `tensorflow_model_server` does; see `rnn_serving.model_server`.

python -m rnn_serving.model_server --port=9000 --model_name=mnist --model_base_path="$PWD/exports/mnist"
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
        print(f"{error}\n{flags.usage()}")
        return FAILED
    if options.version:
        print(
            f"rnn_serving.model_server {metadata.version('rnn-serving')}\nTensorFlow {metadata.version('tensorflow')}"
        )
        return 0
    logging.basicConfig(format="%(asctime)s %(levelname).1s %(message)s", level=logging.INFO)
    # Imported here: TensorFlow takes seconds to load, which a mistyped flag should not have to wait for.
    from rnn_serving.model_server.errors import ServingError

    try:
        return serve(options)
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", flush=True)
        return FAILED


def serve(options):
    """Load the model, then take calls until told to stop, and finish those in flight.

    Raises: ServingError if the server cannot start.
    """
    from rnn_serving.model_server.errors import invalid_argument
    from rnn_serving.model_server.grpc_server import create_server
    from rnn_serving.model_server.models import load_newest

    if options.rest_api_port:
        raise invalid_argument(f"--rest_api_port={options.rest_api_port}: REST is not served yet; expected 0")
    if not options.model_base_path:
        raise invalid_argument("Both server_options.model_base_path and server_options.model_config_file are empty!")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    models = load_newest(
        options.model_name,
        options.model_base_path,
        options.file_system_poll_wait_seconds,
        options.max_num_load_retries,
        options.load_retry_interval_micros / 1e6,
    )
    address = f"{options.host}:{options.port}"
    try:
        server, port = create_server(models, address, options.grpc_max_threads)
    except RuntimeError as error:
        log.error("%s: %s", address, error)
        raise invalid_argument("Failed to BuildAndStart gRPC server") from error
    server.start()
    log.info("Running gRPC ModelServer at %s:%d ...", options.host, port)
    stop.wait()
    server.stop(GRACE_S).wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
