"""The flags that both clients have."""

from rnn_serving import addresses, command_line, tls
from rnn_serving.addresses import split_address
from rnn_serving.command_line import UserError


def add_flags(parser, port_help):
    """Add the flags that both clients have; `port_help` says which ports are the defaults."""
    command_line.add_data_dir(parser)
    add_server(parser, port_help)
    tls.add_flags(parser)
    parser.add_argument(
        "--num_tests", type=command_line.positive_int, help="test images to send (default: all, at most 1,000)"
    )
    parser.add_argument("--batch_size", type=command_line.positive_int, default=1, help="images in one request")
    parser.add_argument("--concurrency", type=command_line.positive_int, default=1, help="requests at a time")
    parser.add_argument(
        "--retries",
        type=command_line.not_negative_int,
        default=0,
        help="times to repeat a request whose server has gone, or refuses for now; timed as one",
    )
    parser.add_argument("--json", metavar="FILE", help="write the report there as well")


def add_server(parser, port_help):
    """Add the flags that name a server, and say how long to wait for it and for its answers."""
    add = parser.add_argument
    add("--host", type=_host, default="127.0.0.1", help="the server's address, or its URL; https:// connects by TLS")
    add("--port", type=command_line.port_number, help=f"the server's port (default: {port_help})")
    add("--timeout", type=command_line.positive_float, default=10.0, help="deadline of a request, s")
    add("--wait", type=command_line.not_negative_float, default=15.0, help="how long to wait for a server to start, s")


def server_address(args, port):
    """Return HOST:PORT of the server that the flags name; `port` is the default.

    Raises: UserError if --host has another port than --port.
    """
    # argparse has split --host.
    host, port_of_host, _ = args.host
    ports = {each for each in (port_of_host, args.port) if each is not None} or {port}
    if len(ports) > 1:
        raise UserError(f"--host has port {port_of_host}, --port is {args.port}; expected one port")
    return addresses.join(addresses.reachable(host), ports.pop())


def server_tls(args):
    """Return the `TLS` that the flags ask for, None without one.

    Raises: UserError for a file that is missing or is not what it should be.
    """
    return tls.from_flags(args, is_https=args.host[2])


def _host(text):
    """Return (host, port, whether it is reached by TLS) of --host."""
    return (*split_address(text), text.lower().startswith("https://"))
