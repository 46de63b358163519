"""Serve a model by Ray Serve: gRPC as TensorFlow Serving has it, and the JSON of the Flask endpoint over HTTP.

    python -m deploy.ray --model_base_path "$PWD/exports/mnist" --port 9000 --http_port 8000

Starts a cluster on this machine, or joins the one at --address. tfserving_client.py grades the gRPC port,
flask_client.py the HTTP port.
"""

import importlib.util
import os
import signal

from deploy.ray import ports
from rnn_serving import addresses, command_line, exports
from rnn_serving.command_line import UserError
from rnn_serving.object_store import store


def main(argv=None):
    """Serve until SIGTERM or Ctrl-C; return the exit status."""
    if not importlib.util.find_spec("ray"):
        raise UserError("Ray is not installed; expected ray[serve], as pip install -e '.[cluster]' installs it")
    args, settings = parse_arguments(argv)
    settings.model_base_path = absolute_base_path(settings.model_base_path)
    check_ports(args)
    # Imported here and below: only now is Ray known to be there, and it takes seconds, which a wrong flag need not.
    from deploy.ray import cluster

    try:
        with cluster.running_cluster(args.address):
            wait_for_signal = catch_signals()  # not before: Ray has a handler of its own
            with cluster.running_serve(args.host, args.http_port, args.port, settings.request_timeout):
                cluster.deploy(settings, args.start_timeout)
                print_start(args, settings, cluster.running_replicas())
                wait_for_signal()
    except KeyboardInterrupt:
        pass
    return 0


def check_ports(args):
    """Raise UserError unless there are two ports, which are free, or with --address if nothing listens there."""
    if not (args.port and args.http_port) or args.port == args.http_port:
        raise UserError(f"--port {args.port}, --http_port {args.http_port}: expected two ports from 1 to 65535")
    if not args.address:
        ports.require_free_port(args.host, args.http_port, "--http_port")
        ports.require_free_port("0.0.0.0", args.port, "--port")
    elif args.address != "auto":
        ports.require_listener(args.address)


def catch_signals():
    """Raise KeyboardInterrupt on SIGTERM too; return a function that waits for either signal.

    Python runs a handler in the main thread only, and the system may give a signal to any other: the wait is for a byte
    that whichever thread it is writes to a pipe.
    """
    signals, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    return lambda: os.read(signals, 1)


def print_start(args, settings, replicas):
    """Say where the model is served."""
    host = addresses.reachable(args.host)
    print(f"Serving {settings.model_name} with {replicas} replica{'s' * (replicas != 1)}")
    print(f"gRPC at {addresses.join(host, args.port)} (Ray listens on every address of each node)")
    print(f"HTTP at http://{addresses.join(host, args.http_port)}/{addresses.wildcard_note(args.host)}", flush=True)


def parse_arguments(argv):
    """Return the parsed flags, and as a `settings.Settings` those that describe the application.

    Exit with status 2 if one is invalid.
    """
    from pydantic import ValidationError

    from deploy.ray.settings import Settings

    parser = command_line.parser(__doc__)
    parser.prog = "python -m deploy.ray"
    add = parser.add_argument
    for name, field in Settings.model_fields.items():
        default = {} if field.is_required() else {"default": field.default}
        add(f"--{name}", required=field.is_required(), help=field.description, **default)
    add("--port", type=command_line.port_number, default=9000, help="gRPC port of every node")
    add("--http_port", type=command_line.port_number, default=8000, help="HTTP port of every node")
    add("--host", default="127.0.0.1", help="address of the HTTP port; Ray's gRPC port listens on all")
    add(
        "--address",
        type=ports.cluster_address,
        metavar="HOST:PORT",
        help="Ray cluster to join, or auto (default: start one on this machine)",
    )
    add("--start_timeout", type=command_line.positive_float, default=120.0, help="time for the replicas to start, s")
    args = parser.parse_args(argv)
    given = {name: value for name, value in vars(args).items() if name in Settings.model_fields and value is not None}
    try:
        return args, Settings(**given)
    except ValidationError as error:
        found = error.errors()[0]
        where = "".join(f"--{name}={found['input']}: " for name in found["loc"])
        return parser.error(where + found["msg"].removeprefix("Value error, "))


def absolute_base_path(path):
    """Return a base path as every process on this machine can read it.

    Raises: exports.ExportError if a directory has no version, or if a URI's back-end is not installed.
    """
    if store.is_remote(path):
        store.require_backend(path)
        return path
    local = os.path.abspath(exports.local_path(path))
    exports.newest(local)
    return local


if __name__ == "__main__":
    command_line.run(main)
