import argparse
import contextlib
import json
import re
import socket
import sys

import pytest
from conftest import start_flask, start_model_server, started

import flask_client
import tfserving_client
from benchmarks import server_processes
from benchmarks.compare import comparison
from rnn_serving import addresses
from rnn_serving.command_line import UserError
from rnn_serving.http_worker import gunicorn_server


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1", "127.0.0.1", None),
        ("models.example:9000", "models.example", 9000),
        ("model_server", "model_server", None),
        ("http://localhost/", "localhost", None),
        ("http://localhost:5000", "localhost", 5000),
        ("::1", "::1", None),
        ("2001:db8::5:9000", "2001:db8::5:9000", None),
        ("[::1]", "::1", None),
        ("[::1]:9000", "::1", 9000),
        ("http://[::1]:5000/", "::1", 5000),
        ("http://::1/", "::1", None),
        ("fe80::1%eth0", "fe80::1%eth0", None),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", None),
    ],
)
def test_an_address_is_read_as_people_write_it(text, host, port):
    assert addresses.split_address(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "http://", "a b", "::g", "[::1", "::1]", "[127.0.0.1]", "h:65536", "h:x", "h:1:2", "http://h/metadata"]
)
def test_what_is_not_an_address_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not the address of a server; expected a host"):
        addresses.split_address(text)


def test_an_address_with_a_port_is_what_grpc_and_urls_take():
    assert addresses.host_and_port("http://[::1]:9000/") == "[::1]:9000"
    assert addresses.http_url("[::1]:5000") == addresses.http_url("http://[::1]:5000/") == "http://[::1]:5000/"
    assert addresses.http_url("https://models.example/flask") == "https://models.example/flask/"
    assert addresses.join("::1", 1) == addresses.join("[::1]", 1) == "[::1]:1"
    with pytest.raises(argparse.ArgumentTypeError, match="'::1' is not HOST:PORT"):
        addresses.host_and_port("::1")


@pytest.mark.parametrize(
    ("host", "reachable"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("[::]", "::1"), ("0:0:0:0:0:0:0:0", "::1")],
)
def test_an_address_that_stands_for_all_is_printed_as_one_that_can_be_reached(host, reachable):
    assert addresses.reachable(host) == reachable
    assert "listening on all addresses" in addresses.wildcard_note(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost", "10.0.0.0"])
def test_any_other_address_is_printed_as_it_is(host):
    assert addresses.reachable(host) == host
    assert addresses.wildcard_note(host) == ""


def answers(host, port):
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False


@pytest.mark.parametrize(
    ("host", "reachable"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("localhost", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        pytest.param("::1", ["::1"], marks=needs_ipv6),
        pytest.param("[::1]", ["::1"], marks=needs_ipv6),
        pytest.param("::", ["127.0.0.1", "::1"], marks=needs_ipv6),
        pytest.param("[::]", ["127.0.0.1", "::1"], marks=needs_ipv6),
    ],
)
def test_a_server_listens_where_it_is_told_to(host, reachable):
    with addresses.listen(host, 0, backlog=1) as listener:
        port = listener.getsockname()[1]
        assert [each for each in ("127.0.0.1", "::1") if answers(each, port)] == reachable


@needs_ipv6
def test_a_port_that_is_taken_is_named_with_its_address_in_brackets():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError) as error:
            gunicorn_server.listen("::1", port)
    assert str(error.value).startswith(f"[::1]:{port}: Address already in use; expected a free port (--port)")


def test_a_host_that_is_unknown_or_of_another_machine_is_an_error():
    for host in ("unknown.invalid", "192.0.2.1"):
        with pytest.raises(UserError, match=rf"{host}:0: \w.*; expected a free port \(--port\) of this machine"):
            gunicorn_server.listen(host, 0)


class Servers:
    """The addresses that the two servers printed."""

    def __init__(self, flask, model_server):
        self.flask, self.grpc = flask.ready[1], model_server.ready[1]
        self.rest = model_server.wait_for(r"Exporting HTTP/REST API at:(\S+)")[1]


@contextlib.contextmanager
def serving(export_base, host):
    rest = f"--rest_api_port={server_processes.free_port()}"
    with start_model_server(export_base, f"--host={host}", rest) as model_server:
        with start_flask(export_base, "--host", host) as flask:
            yield Servers(flask, model_server)
            assert model_server.stop() == 0


@pytest.fixture(scope="module")
def on_ipv6(export_base):
    with serving(export_base, "::1") as servers:
        yield servers


def check_all_clients(servers, data_dir):
    flags = ["--data_dir", str(data_dir), "--num_tests", "3"]
    assert flask_client.main([*flags, "--host", servers.flask]) == 0
    assert tfserving_client.main([*flags, "--host", servers.grpc]) == 0
    assert tfserving_client.main([*flags, "--host", servers.rest, "--protocol", "rest"]) == 0


@needs_ipv6
def test_what_the_servers_print_on_ipv6_works_in_every_client(on_ipv6, data_dir):
    for printed in (on_ipv6.flask.removeprefix("http://"), on_ipv6.grpc, on_ipv6.rest):
        assert re.fullmatch(r"\[::1\]:\d+/?", printed)
    check_all_clients(on_ipv6, data_dir)
    port = on_ipv6.flask.rstrip("/").rpartition(":")[2]
    for host in ("::1", "[::1]", "http://[::1]"):
        flags = ["--data_dir", str(data_dir), "--num_tests", "1", "--host", host, "--port", port]
        assert flask_client.main(flags) == 0


@pytest.mark.slow
@needs_ipv6
def test_a_gateway_forwards_to_ipv6(on_ipv6, data_dir):
    with start_flask("nowhere", "--backend", on_ipv6.grpc, "--host", "[::1]") as gateway:
        flags = ["--data_dir", str(data_dir), "--num_tests", "3", "--host", gateway.ready[1]]
        assert flask_client.main(flags) == 0


@pytest.mark.slow
@needs_ipv6
def test_the_comparison_takes_servers_on_ipv6(on_ipv6, data_dir, export_base, tmp_path):
    flags = ["--data_dir", data_dir, "--model_path", export_base, "--reports_dir", tmp_path, "--num_tests", "5"]
    flags += ["--concurrency", "1", "--rate", "0", "--rounds", "1", "--duration", "0.1"]
    flags += ["--flask", on_ipv6.flask.removeprefix("http://"), "--tfserving", on_ipv6.grpc]
    flags += ["--tfserving_rest", on_ipv6.rest, "--servers", "flask,model_server"]
    assert comparison.main(list(map(str, flags))) == 0
    report = json.loads((tmp_path / "latency.json").read_text(encoding="utf-8"))
    assert {row["errors"] for row in report["rows"]} == {0}


@pytest.mark.slow
@needs_ipv6
def test_the_articles_server_listens_on_ipv6(export_base, data_dir):
    port = server_processes.free_port()
    command = [sys.executable, "-m", "benchmarks.article_flask_server", "--model_path", export_base]
    flags = ["--data_dir", str(data_dir), "--num_tests", "3", "--host", "::1", "--port", str(port)]
    with started(*command, "--host", "[::1]", "--port", str(port)):
        assert flask_client.main([*flags, "--wait", "60"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", pytest.param("::", marks=needs_ipv6)])
def test_what_the_servers_print_on_other_hosts_works_in_every_client(export_base, data_dir, host):
    with serving(export_base, host) as servers:
        check_all_clients(servers, data_dir)
