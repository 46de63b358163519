"""Open the servers of the comparison: ask each who it is and what it serves before it is measured."""

from dataclasses import dataclass, field

from benchmarks.compare.grading import Grader
from benchmarks.compare.sources import ExternalServer, ServerSources
from benchmarks.load_connections import GRPCTarget, HTTPTarget
from benchmarks.protocols import model_query
from rnn_serving import tls
from rnn_serving.clients import flask as flask_metadata
from rnn_serving.command_line import UserError


@dataclass
class MeasuredServer:
    """A server under measurement: its name, how it is asked, and its turns, {point: [Turn]}.

    `failure` says why it cannot be measured, or no longer; `remark` what it serves instead of the model; `settings`
    what else of its flags matters.
    """

    server: str
    protocol: str
    command: str
    threads: str
    version: int | None = None
    target: object = None
    grader: Grader | None = None
    failure: str = ""
    remark: str = ""
    settings: str = ""
    turns: dict = field(default_factory=dict)


def open_servers(stack, args, base, expected):
    """Return a `MeasuredServer` for each server that the flags ask for; `stack`, an ExitStack, stops the started ones.

    One that cannot be measured is in the list too, with the reason. Raises: UserError if memory is too short for all.
    """
    sources = ServerSources(stack, args, base)
    sources.check_memory()
    opener, servers = _ServerOpener(expected, args), []
    if "article" in args.servers:
        # It does not tell which version it serves.
        servers.append(opener.flask("article", sources.article(), expected.version))
    if "flask" in args.servers:
        servers += [opener.flask(name, source) for name, source in sources.flask().items()]
    if "gateway" in args.servers:
        servers.append(opener.flask("flask gateway", sources.gateway()))
    for name, source in sources.model_servers().items():
        servers += [opener.rest(name, source)] if source.rest_address else []
        servers.append(opener.grpc(name, source))
    return servers


class _ServerOpener:
    """Compares what servers say about their model with `ExpectedByProtocol`."""

    def __init__(self, expected, args):
        self._expected, self._timeout_s, self._model_name = expected, args.timeout, args.model_name
        # Of servers that run already; those that are started here speak plain text.
        self._grpc_tls, self._https_tls = tls.from_flags(args), tls.from_flags(args, is_https=True)

    def flask(self, name, source, version=None):
        """Return the `MeasuredServer` of a server that answers as the Flask endpoint does."""

        def identify(measured):
            url = source.address()
            of_url = self._https_tls if url.startswith("https://") else None
            metadata = flask_metadata.read_metadata(url, self._timeout_s, tls=of_url)
            measured.version = metadata.get("version", version)
            measured.remark = self._remark(metadata.get("version"), metadata.get("dataset"))
            measured.target = HTTPTarget(url, self._expected.flask.requests, of_url)

        return self._open(name, source, self._expected.flask, identify)

    def rest(self, name, source):
        """Return the `MeasuredServer` of a model server over REST."""

        def identify(measured):
            from rnn_serving.clients.rest import open_rest

            source.address()
            self._identify_model_server(open_rest, source, source.rest_address, measured)
            url = f"http://{source.rest_address}/v1/models/{self._model_name}:predict"
            measured.target = HTTPTarget(url, self._expected.rest.requests)

        return self._open(name, source, self._expected.rest, identify)

    def grpc(self, name, source):
        """Return the `MeasuredServer` of a model server over gRPC."""

        def identify(measured):
            from tfserving_client import open_grpc

            of_server = self._grpc_tls if isinstance(source, ExternalServer) else None
            self._identify_model_server(open_grpc, source, source.address(), measured, of_server)
            measured.target = GRPCTarget(source.address(), self._expected.grpc.requests, tls=of_server)

        return self._open(name, source, self._expected.grpc, identify)

    def _open(self, name, source, expected, identify):
        grader, protocol = Grader(expected, self._expected.labels), expected.protocol.name
        measured = MeasuredServer(
            name, protocol, source.command, source.threads, grader=grader, settings=source.settings
        )
        try:
            identify(measured)
        except UserError as error:
            measured.failure = str(error)
        return measured

    def _identify_model_server(self, open_client, source, address, measured, tls=None):
        """Set the name of a model server's program and the version that it serves.

        Raises: UserError if it is not there, or if its model does not take the images.
        """
        with open_client(address, model_query(self._timeout_s, self._model_name, tls)) as (served_by, _):
            measured.server, measured.version = served_by.program + source.variant, served_by.version
            measured.remark = self._remark(served_by.version)

    def _remark(self, version, dataset=None):
        """Return how a served model differs from the expected one; None stands for what a server does not tell."""
        if version not in (None, self._expected.version):
            return f"serves version {version}; expected {self._expected.version}"
        if dataset and self._expected.dataset and dataset != self._expected.dataset:
            return f"serves a model of {dataset}; expected {self._expected.dataset}"
        return ""
