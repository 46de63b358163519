"""The choices, by group: each is compared with the last one of its group, and nothing else differs between them.

TensorFlow is imported inside functions: the processes of the servers import this module before gunicorn forks.
"""

import json
from dataclasses import dataclass, replace

import grpc
import numpy as np
import orjson

from benchmarks import flask_application, protocols
from benchmarks.flask_application import DEVELOPMENT, GUNICORN, GUNICORN_JSON
from benchmarks.function_server import serving
from benchmarks.model_calls import model_calls
from benchmarks.protocols import PREDICT, TIMEOUT_S
from benchmarks.routes import CHANNEL_OPTIONS, flask_route, grpc_route, open_model_server
from rnn_serving.clients.http_json import direct_session

SIZES = (1, 32, 128)


@dataclass(frozen=True)
class Choice:
    """One choice of a group: `ask(images)` answers `size` images, float32 (n, 28, 28), with what `kind` says."""

    group: str
    name: str
    kind: str
    ask: object
    size: int = 1

    @classmethod
    def of(cls, group, name, route, size=1):
        """Return the choice to ask by a `routes.Route`."""
        route = replace(route, name=f"{group}, {name}")
        return cls(group, name, route.kind, lambda images: route.ask(images)[0], size)


def model_choices(stack, model):
    """Return the ways to call a model in this process: `model`, a `ServedModel`, and others with its weights."""
    return [Choice("model call", name, "logits", ask) for name, ask in model_calls(stack, model).items()]


def flask_choices(stack, base):
    """Return the ways to serve one Flask application and to ask it, an image per request."""
    urls = {
        how: stack.enter_context(serving(flask_application.serve, how, str(base)))
        for how in (DEVELOPMENT, GUNICORN, GUNICORN_JSON)
    }
    session = stack.enter_context(direct_session())
    kept_open, plain = (flask_route("", urls[how], session) for how in (GUNICORN, GUNICORN_JSON))
    connecting = {
        how: replace(kept_open, send=lambda body, url=urls[how]: protocols.post_once(url, body))
        for how in (DEVELOPMENT, GUNICORN)
    }
    plain = replace(
        plain,
        encode=lambda images: json.dumps({"data": images.tolist()}).encode(),
        decode=lambda answer: np.array(json.loads(answer)["y"], np.float32),
    )
    return [
        *(Choice.of("server", how, route) for how, route in connecting.items()),
        Choice.of("connection", "one for each request", connecting[GUNICORN]),
        Choice.of("connection", "kept open", kept_open),
        Choice.of("JSON, both ends", "json", plain),
        Choice.of("JSON, both ends", "orjson", kept_open),
    ]


def grpc_choices(stack, base):
    """Return the ways to ask the model server: by a new channel, by one kept open, and for more images at once."""
    server = open_model_server(stack, base, "python")
    kept_open = grpc_route("", server, stack)

    def send_on_a_new_channel(body):
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", CHANNEL_OPTIONS) as channel:
            return channel.unary_unary(PREDICT)(body, timeout=TIMEOUT_S)

    return [
        Choice.of("gRPC channel", "one for each call", replace(kept_open, send=send_on_a_new_channel)),
        Choice.of("gRPC channel", "used again", kept_open),
        *(Choice.of("images a request, gRPC", str(size), kept_open, size) for size in SIZES),
    ]


def float_choices():
    """Return the ways to write the floats of an image and to read them at the other end."""
    from rnn_serving.dataset import IMAGE_SHAPE
    from rnn_serving.endpoint.tensor_from_json import tensor_from_json
    from rnn_serving.model_server.tensors import decode
    from rnn_serving.quiet_tensorflow import tf

    from tensorflow.core.framework import tensor_pb2

    def through_text(images):
        return tensor_from_json(orjson.loads(protocols.to_flask_request(images))["data"], "data", (None, *IMAGE_SHAPE))

    def through_proto(values, shape):
        sent = tf.make_tensor_proto(values, tf.float32, shape).SerializeToString()
        return decode("images", tensor_pb2.TensorProto.FromString(sent))

    asks = {
        "as text, orjson": through_text,
        "as a list, `float_val`": lambda images: through_proto(images.ravel().tolist(), images.shape),
        "as `tensor_content`": lambda images: through_proto(images, images.shape),
    }
    return [Choice("floats", name, "images", ask) for name, ask in asks.items()]
