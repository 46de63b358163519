"""TLS from the clients and the gateway to the servers: who is answered, and what the others are told."""

import contextlib
import datetime
import socket
import ssl
import threading
import time
from concurrent import futures
from types import SimpleNamespace

import grpc
import pytest
import trustme
from conftest import start_flask, start_model_server

import flask_client
import tfserving_client
from benchmarks import protocols, server_processes
from benchmarks.load_connections import GRPCTarget, HTTPTarget
from benchmarks.load_generator import LoadGenerator
from rnn_serving.command_line import UserError
from rnn_serving.endpoint.backend import Backend
from rnn_serving.model_server import server_credentials
from rnn_serving.model_server.errors import ServingError
from rnn_serving.tls import TLS, open_channel

HOST = "127.0.0.1"


class Files:
    """Certificates of a CA, as PEM files in a directory."""

    def __init__(self, directory):
        self._directory, self._ca = directory, trustme.CA()
        directory.mkdir()
        self.ca = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, name, **options):
        """Return the paths of a new certificate for 127.0.0.1 and of its key."""
        issued = self._ca.issue_cert(HOST, **options)
        certificate, key = str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key")
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        return certificate, key

    def write_config(self, name, client_verify=False, **options):
        """Return the path of an SSLConfig for a server."""
        certificate, key = self.issue(name, **options)
        path = self._directory / f"{name}.config"
        fields = {"server_key": read(key), "server_cert": read(certificate), "custom_ca": read(self.ca)}
        path.write_text(config_text(client_verify=client_verify, **fields))
        return str(path)


def read(path):
    with open(path) as file:
        return file.read()


def config_text(client_verify=False, **fields):
    """Return an SSLConfig as text."""
    lines = [f'{name}: "{value.encode("unicode_escape").decode()}"\n' for name, value in fields.items()]
    return "".join(lines) + f"client_verify: {str(client_verify).lower()}\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return Files(tmp_path_factory.mktemp("tls") / "trusted")


@pytest.fixture(scope="module")
def identities(files, tmp_path_factory):
    """What clients bring: flags by name."""
    other = Files(tmp_path_factory.mktemp("tls") / "other")
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)

    def flags(ca, certificate=None):
        pair = () if certificate is None else ("--tls_cert_file", certificate[0], "--tls_key_file", certificate[1])
        return ["--tls_ca_file", ca, *pair]

    return {
        "plain text": [],
        "right CA": flags(files.ca),
        "wrong CA": flags(other.ca),
        "certificate": flags(files.ca, files.issue("client")),
        "certificate of another CA": flags(files.ca, other.issue("client")),
        "expired certificate": flags(files.ca, files.issue("late_client", not_after=past)),
    }


@contextlib.contextmanager
def grpc_server(credentials=None):
    """Yield the address of a gRPC server that says NOT_FOUND, and how many calls have reached it."""
    calls = SimpleNamespace(count=0)

    def answer(request, context):
        calls.count += 1
        context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(2), handlers=[Handler()])
    address = f"{HOST}:0"
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"{HOST}:{port}", calls
    finally:
        server.stop(None).wait()


@pytest.fixture(scope="module")
def grpc_servers(files):
    """Servers by name: (address, calls)."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    configs = {
        "TLS": files.write_config("server"),
        "TLS for certified clients": files.write_config("strict", client_verify=True),
        "expired": files.write_config("late", not_after=past),
    }
    with contextlib.ExitStack() as stack:
        servers = {
            name: stack.enter_context(grpc_server(server_credentials.read(path))) for name, path in configs.items()
        }
        yield servers | {"no TLS": stack.enter_context(grpc_server())}


REFUSALS = [
    ("TLS", "plain text", "the server speaks TLS; expected --tls_ca_file"),
    ("TLS", "wrong CA", "the server's certificate is not accepted: unable to get local issuer certificate"),
    ("expired", "right CA", "the server's certificate is not accepted: certificate has expired"),
    ("TLS for certified clients", "plain text", "the server speaks TLS"),
    ("TLS for certified clients", "right CA", "the server requires a certificate of the client; expected --tls_cert"),
    ("TLS for certified clients", "certificate of another CA", "the server refuses the client's certificate"),
    ("TLS for certified clients", "expired certificate", "the server refuses the client's certificate"),
    ("no TLS", "right CA", "the server does not speak TLS"),
]


@pytest.mark.parametrize(("server", "identity", "reason"), REFUSALS)
def test_a_client_that_is_refused_says_why_and_no_request_of_it_is_answered(
    grpc_servers, identities, data_dir, server, identity, reason
):
    address, calls = grpc_servers[server]
    before = calls.count
    with pytest.raises(UserError) as error:
        grade(tfserving_client, address, data_dir, "--wait", "1", *identities[identity])
    assert f"{address}: {reason}" in str(error.value)
    tls = tls_of(identities[identity])
    backend = Backend(address, "mnist", timeout_s=1, tls=tls)
    with pytest.raises(UserError) as error:
        backend.connect()
    assert f"backend {address}: {address}: {reason}" in str(error.value)
    backend.close()
    assert calls.count == before


def grade(client, address, data_dir, *flags):
    host, port = address.rsplit(":", 1)
    return client.main(["--data_dir", str(data_dir), "--host", host, "--port", port, "--num_tests", "20", *flags])


def tls_of(flags):
    return TLS(*flags[1::2]) if flags else None


def test_a_client_waits_for_a_server_behind_a_proxy_that_ends_tls(files, identities, data_dir):
    port = server_processes.free_port()
    with tls_proxy(port, *files.issue("proxy")) as address:
        began = time.monotonic()
        with pytest.raises(UserError):
            grade(tfserving_client, address, data_dir, "--wait", "1", *identities["right CA"])
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize(
    ("server", "identity"),
    [
        ("TLS", "right CA"),
        ("TLS", "certificate"),
        ("TLS for certified clients", "certificate"),
        ("no TLS", "plain text"),
    ],
)
def test_a_client_that_is_trusted_reaches_the_server(grpc_servers, identities, data_dir, server, identity):
    address, _ = grpc_servers[server]
    with pytest.raises(UserError, match="NOT_FOUND"):
        grade(tfserving_client, address, data_dir, *identities[identity])


@pytest.mark.parametrize("batching", ["", pytest.param("--enable_batching", marks=pytest.mark.slow)])
def test_the_model_server_and_the_gateway_are_graded_over_tls(files, identities, export_base, data_dir, batching):
    config = files.write_config("model_server" + batching, client_verify=True)
    flags = [f"--ssl_config_file={config}", *filter(None, [batching])]
    identity = identities["certificate"]
    with start_model_server(export_base, *flags) as server:
        assert grade(tfserving_client, server.ready[1], data_dir, *identity) == 0
        with start_flask("nowhere", "--backend", server.ready[1], *identity) as gateway:
            assert grade(flask_client, gateway.ready[1].split("/")[2], data_dir) == 0


def test_the_unix_socket_speaks_tls_too(files, identities, export_base, tmp_path):
    config = files.write_config("unix", client_verify=True)
    path = tmp_path / "s"
    name = [("grpc.ssl_target_name_override", HOST)]
    with start_model_server(export_base, f"--ssl_config_file={config}", f"--grpc_socket_path={path}"):
        for identity, is_answered in (("certificate", True), ("right CA", False), ("plain text", False)):
            with open_channel(f"unix:{path}", name, tls_of(identities[identity])) as channel:
                status = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
                with pytest.raises(grpc.RpcError) as error:
                    status(b"", timeout=10)
                answered = error.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # it names no model
                assert answered == is_answered, (identity, error.value)


@contextlib.contextmanager
def tls_proxy(port, certificate, key):
    """Yield the address of a server that ends TLS before a port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server((HOST, 0))

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()

    def serve(connection):
        with contextlib.suppress(OSError), connection, context.wrap_socket(connection, server_side=True) as secure:
            with socket.create_connection((HOST, port)) as plain:
                threading.Thread(target=copy, args=(plain, secure), daemon=True).start()
                copy(secure, plain)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"{HOST}:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def copy(source, target):
    with contextlib.suppress(OSError):
        while content := source.recv(2**16):
            target.sendall(content)


def test_http_clients_take_https(files, identities, flask_url, export_base, data_dir):
    pair, rest_port = files.issue("http"), server_processes.free_port()
    flask_port = int(flask_url.rstrip("/").rpartition(":")[2])
    with start_model_server(export_base, f"--rest_api_port={rest_port}") as server, contextlib.ExitStack() as stack:
        server.wait_for("Exporting HTTP/REST API")
        for port, client, flags in (
            (flask_port, flask_client, []),
            (rest_port, tfserving_client, ["--protocol", "rest"]),
        ):
            address = stack.enter_context(tls_proxy(port, *pair))
            flags = [*flags, "--data_dir", str(data_dir), "--num_tests", "20", "--host", f"https://{address}/"]
            assert client.main([*flags, *identities["right CA"]]) == 0
            with pytest.raises(UserError, match="certificate is not accepted: unable to get local issuer certificate"):
                client.main([*flags, *identities["wrong CA"]])
            with pytest.raises(UserError, match="certificate is not accepted: self-signed|unable to get local issuer"):
                client.main(flags)  # the CA is not one that the library trusts
            with pytest.raises(UserError, match="the server speaks TLS; expected --tls_ca_file"):
                grade(client, address, data_dir, *flags[: flags.index("--data_dir")])
        with pytest.raises(UserError, match="the server does not speak TLS"):
            grade(flask_client, f"{HOST}:{flask_port}", data_dir, *identities["right CA"])


def test_the_load_generator_asks_over_tls(files, identities, flask_url, export_base, test_images):
    flask_port = int(flask_url.rstrip("/").rpartition(":")[2])
    images = test_images.images[:4]
    config = files.write_config("load", client_verify=True)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start_model_server(export_base, f"--ssl_config_file={config}"))
        proxy = stack.enter_context(tls_proxy(flask_port, *files.issue("load proxy")))
        generator = stack.enter_context(LoadGenerator())
        bodies = {
            protocols.GRPC: [protocols.to_predict_request(image[None]) for image in images],
            protocols.FLASK: [protocols.to_flask_request(image) for image in images],
        }

        def load(protocol, identity):
            tls = TLS(**dict(zip(("ca_file", "cert_file", "key_file"), identities[identity][1::2])))
            if protocol is protocols.GRPC:
                target = GRPCTarget(server.ready[1], bodies[protocol], tls=tls)
            else:
                target = HTTPTarget(f"https://{proxy}/", bodies[protocol], tls)
            return generator.run(target, concurrency=2, duration_s=0.3)

        for protocol in bodies:
            answered = load(protocol, "certificate")
            assert not answered.errors
            assert all(protocol.decode(answer).shape == (1, 10) for _, _, answer in answered.answered)
        for protocol, identity in ((protocols.GRPC, "right CA"), *((each, "wrong CA") for each in bodies)):
            refused = load(protocol, identity)
            assert refused.errors
            assert not refused.answered


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--tls_ca_file", "nowhere.pem"], "--tls_ca_file nowhere.pem: No such file or directory"),
        (
            ["--tls_ca_file", "README.md"],
            "--tls_ca_file README.md: NO_CERTIFICATE_OR_CRL_FOUND; expected certificates in",
        ),
        (["--tls_cert_file", "a"], "expected both --tls_cert_file and --tls_key_file, or neither"),
        (["--tls_cert_file", "README.md", "--tls_key_file", "README.md"], "expected a certificate and its key in PEM"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_an_error_at_once(data_dir, flags, reason):
    for client in (flask_client, tfserving_client):
        with pytest.raises(UserError) as error:
            grade(client, f"{HOST}:1", data_dir, *flags)
        assert reason in str(error.value)


def test_a_key_of_another_certificate_is_an_error_at_once(files, data_dir):
    pairs = files.issue("one"), files.issue("two")
    flags = ["--tls_cert_file", pairs[0][0], "--tls_key_file", pairs[1][1]]
    with pytest.raises(UserError, match="KEY_VALUES_MISMATCH; expected a certificate and its key"):
        grade(tfserving_client, f"{HOST}:1", data_dir, *flags)


def bad_configs(files):
    """Return texts of SSLConfigs that are not valid, each with what is said about it."""
    (certificate, key), (_, other_key) = ((read(path) for path in files.issue(name)) for name in ("a", "b"))
    good = {"server_key": key, "server_cert": certificate}
    pair = "server_key and server_cert: .*; expected a key and its certificate in PEM"
    return [
        ("", pair),
        ("server_key: 1", "Invalid protobuf file"),
        ("no_such_field: true", "Invalid protobuf file"),
        (config_text(server_cert=certificate), pair),
        (config_text(server_key=key), pair),
        (config_text(server_key=key[:200], server_cert=certificate), pair),
        (config_text(server_key=other_key, server_cert=certificate), pair),
        (config_text(**good, custom_ca="x"), "custom_ca: .*; expected certificates in PEM"),
        (config_text(**good, client_verify=True), "client_verify without custom_ca"),
    ]


def test_a_configuration_that_is_not_valid_is_refused(files, tmp_path):
    path = tmp_path / "config"
    with pytest.raises(ServingError, match="No such file or directory"):
        server_credentials.read(str(path))
    for text, reason in bad_configs(files):
        path.write_text(text)
        with pytest.raises(ServingError, match=reason):
            server_credentials.read(str(path))


def test_the_model_server_does_not_start_with_a_configuration_that_is_not_valid(export_base, tmp_path):
    path = tmp_path / "config"
    path.write_text('server_key: "x"')
    with pytest.raises(
        AssertionError, match="Failed to start server. Error: INVALID_ARGUMENT: .*server_key and server_c"
    ):
        with start_model_server(export_base, f"--ssl_config_file={path}"):
            pass
