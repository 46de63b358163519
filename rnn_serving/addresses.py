"""Addresses as users type and paste them, IPv6 with or without brackets, and as they are printed. No TensorFlow."""

import argparse
import ipaddress
import os
import re
import socket

_ADDRESS = re.compile(r"(\[(?P<ipv6>[^\[\]/]+)\]|(?P<name>[^\s\[\]:/@]+))(:(?P<port>[0-9]{1,5}))?")
_LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def bare_host(host):
    """Return a host as sockets take it: an IPv6 address without brackets."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def join(host, port):
    """Return HOST:PORT, an IPv6 address in brackets."""
    host = bare_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host):
    """Return a host that a client can connect to: the loopback address for one that stands for all addresses."""
    address = ip_address(bare_host(host))
    return _LOOPBACK[address.version] if address and address.is_unspecified else host


def wildcard_note(host):
    """Return what to print after the address of a server that listens on all addresses, otherwise ""."""
    return f" (listening on all addresses, {bare_host(host)})" if reachable(host) != host else ""


def split_address(text):
    """Return (host, port) of a host with or without `http://`, port and final slash; the port is None if there is none.

    Raises: argparse.ArgumentTypeError for other text.
    """
    address = text.split("://", 1)[-1].rstrip("/")
    if is_ipv6(address):
        return address, None
    match = _ADDRESS.fullmatch(address)
    port = match and match["port"] and int(match["port"])
    if not match or (match["ipv6"] and not is_ipv6(match["ipv6"])) or (port or 0) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the address of a server; expected a host with or without http:// and port, "
            "such as 127.0.0.1, ::1 or http://[::1]:5000/"
        )
    return match["ipv6"] or match["name"], port


def host_and_port(text):
    """Parse HOST:PORT, with or without `http://`; return it with IPv6 in brackets and a host to connect to.

    Raises: argparse.ArgumentTypeError for other text.
    """
    host, port = split_address(text)
    if port is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT; expected both, as in 127.0.0.1:9000")
    return join(reachable(host), port)


def http_url(text):
    """Parse the URL of a server; return it with a final slash, and with `http://` if it has no scheme."""
    return ("" if "://" in text else "http://") + text.rstrip("/") + "/"


def listen(host, port, backlog):
    """Return a TCP socket that listens on a host; port 0 takes a free one, and the host "::" takes IPv4 as well.

    Raises: OSError with the reason as `strerror`.
    """
    found = socket.getaddrinfo(bare_host(host), port, type=socket.SOCK_STREAM)
    # A name such as localhost may have addresses of both families; clients ask 127.0.0.1 unless told otherwise.
    family, *_, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    takes_both = address[0] == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(address, family=family, backlog=backlog, dualstack_ipv6=takes_both)
    except OSError as error:
        # Python appends the address to an operating system's message.
        raise OSError(error.errno, os.strerror(error.errno)) from error


def is_ipv6(text):
    """Return whether a text is an IPv6 address, without brackets."""
    return getattr(ip_address(text), "version", None) == 6


def ip_address(text):
    """Return a text as an address, None if it is a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
