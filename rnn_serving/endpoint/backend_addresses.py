"""Addresses of model servers: from what a user types to what gRPC takes. No TensorFlow."""

import argparse
import ipaddress
import re
import socket

from rnn_serving.addresses import ip_address, is_ipv6
from rnn_serving.command_line import UserError

_HOST_AND_PORT = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+)):(?P<port>\d{1,5})", re.ASCII)


def parse_backends(text):
    """Return "HOST:PORT" or "HOST:PORT,HOST:PORT,..." without spaces and duplicates.

    Raises: argparse.ArgumentTypeError for anything else, including an IPv6 address without brackets.
    """
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not _is_host_and_port(part):
            raise argparse.ArgumentTypeError(
                f"{part!r} in {text!r} is not HOST:PORT; expected one or more joined by commas, "
                "such as 127.0.0.1:9000, [::1]:9000 or models.example:9000"
            )
    return ",".join(dict.fromkeys(parts))


def _is_host_and_port(text):
    match = _HOST_AND_PORT.fullmatch(text)
    if not match or not 1 <= int(match["port"]) <= 65535:
        return False
    return bool(match["name"]) or is_ipv6(match["ipv6"])


def target(backends):
    """Return gRPC's target for what `parse_backends` returned.

    gRPC takes one name, and resolves it to all its addresses; or several addresses of one family.
    Raises: UserError if one of several names is unknown.
    """
    pairs = [(host.strip("[]"), port) for host, _, port in (part.rpartition(":") for part in backends.split(","))]
    if len(pairs) == 1 and not ip_address(pairs[0][0]):
        return f"dns:///{backends}"
    addresses = [(address, port) for host, port in pairs for address in _look_up(host)]
    if all(address.version == 4 for address, _ in addresses):
        return "ipv4:" + ",".join(f"{address}:{port}" for address, port in addresses)
    return "ipv6:" + ",".join(f"[{_as_ipv6(address)}]:{port}" for address, port in addresses)


def _look_up(host):
    """Return all addresses of a host, which may itself be one."""
    if address := ip_address(host):
        return [address]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except OSError as error:
        raise UserError(f"backend {host}: {error.strerror}; expected the name of a host") from error
    return [ipaddress.ip_address(address) for *_, (address, *_) in found]


def _as_ipv6(address):
    """Return an address in the form that is used among IPv6 addresses."""
    return address if address.version == 6 else f"::ffff:{address}"
