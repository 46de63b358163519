"""Check ports before Ray starts: it would try one that is taken for ever, and an absent cluster for minutes."""

import argparse
import socket

from rnn_serving import addresses
from rnn_serving.command_line import UserError

CONNECT_S = 5.0


def require_free_port(host, port, flag):
    """Raise UserError if a port is taken: a proxy of Ray would try for ever, and say so in a log only."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{addresses.join(host, port)}: {reason}; expected a free port ({flag})") from error


def cluster_address(text):
    """Parse HOST:PORT or auto. Raises: argparse.ArgumentTypeError for other text."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT of a Ray cluster, nor auto")
    return text if text == "auto" else addresses.host_and_port(text)


def require_listener(address):
    """Raise UserError if nothing listens at HOST:PORT."""
    try:
        socket.create_connection(addresses.split_address(address)[:2], timeout=CONNECT_S).close()
    except OSError as error:
        raise UserError(f"--address {address}: {error.strerror or error}; expected a running Ray cluster") from error
