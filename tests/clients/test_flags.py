import argparse

import pytest

from rnn_serving.clients import flags
from rnn_serving.command_line import UserError


def server_address(*arguments):
    """Return the address that a client connects to, given its flags."""
    parser = argparse.ArgumentParser()
    flags.add_server(parser, "5000")
    return flags.server_address(parser.parse_args(arguments), 5000)


@pytest.mark.parametrize("host", ["127.0.0.1", "http://127.0.0.1", "http://127.0.0.1/", "127.0.0.1:5000", "0.0.0.0"])
def test_a_host_may_be_given_with_or_without_http(host):
    assert server_address("--host", host) == "127.0.0.1:5000"


@pytest.mark.parametrize("host", ["::1", "[::1]", "http://[::1]", "http://[::1]:5000/", "::"])
def test_an_ipv6_host_may_be_given_with_or_without_brackets(host):
    assert server_address("--host", host) == "[::1]:5000"


def test_the_port_may_be_part_of_the_host():
    assert server_address("--host", "http://127.0.0.1:6000/") == "127.0.0.1:6000"
    assert server_address("--host", "127.0.0.1:6000", "--port", "6000") == "127.0.0.1:6000"
    with pytest.raises(UserError, match="--host has port 6000, --port is 7000; expected one port"):
        server_address("--host", "127.0.0.1:6000", "--port", "7000")
