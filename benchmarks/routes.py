"""The routes to the scores: the servers, and how a client encodes, sends and decodes for each."""

import json
import time
from dataclasses import dataclass

import grpc
import numpy as np
import requests

from benchmarks import cpp_server, protocols, server_processes
from benchmarks.protocols import FLASK, GRPC, MODEL_NAME, OWN_CHANNEL, PREDICT, REST, TIMEOUT_S
from rnn_serving import files
from rnn_serving.clients.http_json import direct_session
from rnn_serving.command_line import UserError, request_failure

# No TensorFlow: breakdown.py and choices.py start servers as processes that import this module first.

CHANNEL_OPTIONS = (
    *OWN_CHANNEL,
    # gRPC's default of 4 MiB is 1,300 images.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
METRICS_PATH = "/monitoring/prometheus/metrics"
MONITORING_CONFIG = f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n'


@dataclass(frozen=True)
class Route:
    """A way to ask a server: `decode(send(encode(images)))` gives scores, float32 (n, 10), of images (n, 28, 28).

    What is encoded and sent is bytes; `kind` says what the scores are, `metrics_url` where the server has its times.
    """

    name: str
    kind: str
    metrics_url: str
    encode: object
    send: object
    decode: object

    @classmethod
    def of(cls, name, protocol, metrics_url, send):
        """Return the route over a `Protocol`."""
        return cls(name, protocol.kind, metrics_url, protocol.encode, send, protocol.decode)

    def ask(self, images):
        """Return (scores, moments): when the request began, was encoded, answered and decoded, in seconds.

        Raises: UserError for a request without an answer.
        """
        began = time.perf_counter()
        body = self.encode(images)
        encoded = time.perf_counter()
        try:
            answer = self.send(body)
        except (requests.RequestException, grpc.RpcError) as error:
            reason = error.details() if isinstance(error, grpc.RpcError) else request_failure(error)
            raise UserError(f"{self.name}: {reason}; expected an answer") from error
        answered = time.perf_counter()
        scores = self.decode(answer)
        return scores, (began, encoded, answered, time.perf_counter())


def open_routes(stack, base, article_url):
    """Start all servers but the article's with the model under `base`; return a Route for each way to ask one."""
    own = open_model_server(stack, base, "python")
    gateway_flags = ("--backend", f"127.0.0.1:{own.port}", "--model_name", MODEL_NAME)
    endpoint_url = stack.enter_context(server_processes.FlaskServer(base))
    gateway_url = stack.enter_context(server_processes.FlaskServer(base, *gateway_flags))
    session = stack.enter_context(direct_session())
    routes = [
        article_route(article_url),
        flask_route("Flask endpoint", endpoint_url, session),
        flask_route("Flask gateway", gateway_url, session),
        rest_route("rnn_serving.model_server", own, session),
        grpc_route("rnn_serving.model_server", own, stack),
    ]
    if how := cpp_server.find():
        cpp = open_model_server(stack, base, how)
        routes += [rest_route(cpp_server.NAME, cpp, session), grpc_route(cpp_server.NAME, cpp, stack)]
    return routes


def open_model_server(stack, base, program):
    """Return the running `TFServing`; the file that turns its metrics on is in `base`, where a container sees it."""
    config = base / "monitoring.config"
    files.write_text(config, MONITORING_CONFIG)
    server = server_processes.TFServing(base, f"--monitoring_config_file={config}", program=program)
    stack.enter_context(server)
    return server


def article_route(url):
    """Return the article's route: Python's json, lists of numbers, and a connection for each request."""
    return Route(
        "article's Flask server",
        "probabilities",
        url + "metrics",
        lambda images: json.dumps({"data": images.tolist()}).encode(),
        lambda body: protocols.post_once(url, body),
        lambda answer: np.array(json.loads(answer)["y"], np.float32),
    )


def flask_route(name, url, session):
    """Return the route of flask_client.py."""
    return Route.of(name, FLASK, url + "metrics", lambda body: protocols.post(session, url, body))


def rest_route(name, server, session):
    """Return the route of tfserving_client.py --protocol rest."""
    address = f"http://127.0.0.1:{server.rest_port}"
    url = f"{address}/v1/models/{MODEL_NAME}:predict"
    return Route.of(f"{name}, REST", REST, address + METRICS_PATH, lambda body: protocols.post(session, url, body))


def grpc_route(name, server, stack):
    """Return the route of tfserving_client.py."""
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}", CHANNEL_OPTIONS))
    predict = channel.unary_unary(PREDICT)
    metrics_url = f"http://127.0.0.1:{server.rest_port}{METRICS_PATH}"
    return Route.of(f"{name}, gRPC", GRPC, metrics_url, lambda body: predict(body, timeout=TIMEOUT_S))
