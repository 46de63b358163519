"""The routes by which benchmarks ask for scores: the servers, the client's way to each, and what it has to answer."""

import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import orjson
import requests

from rnn_serving import exports, files, processes
from rnn_serving.command_line import UserError, request_failure

# TensorFlow is imported inside functions: breakdown.py and habits.py start servers as processes that import this first.

# Seconds an answer may take.
TIMEOUT_S = 30.0
MODEL_NAME, PREDICT = "mnist", "/tensorflow.serving.PredictionService/Predict"
# How far an answer's probabilities, and its logits, may be from the bare model's: what a batch changes of float32.
TOLERANCES = {"images": 0.0, "probabilities": 1e-5, "logits": 1e-3}
JSON_HEADERS, NO_PROXY = {"Content-Type": "application/json"}, {"no_proxy": "127.0.0.1"}
CHANNEL_OPTIONS = (
    # gRPC's default of 4 MiB is 1,300 images.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # A channel has a connection of its own, whichever others there are.
    ("grpc.use_local_subchannel_pool", 1),
)
METRICS_PATH = "/monitoring/prometheus/metrics"
MONITORING_CONFIG = f'prometheus_config {{ enable: true path: "{METRICS_PATH}" }}\n'


def open_model(stack, model_path):
    """Return (a base of its own with the newest version under `model_path`, its `ServedModel` in this process).

    `stack`, an ExitStack, removes and closes them. Raises: UserError if it is not the LSTM that takes the images.
    """
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.saved_model import ServedModel

    source = exports.newest(model_path)
    base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-"))) / MODEL_NAME
    shutil.copytree(source, base / str(exports.version_number(source.resolve())))
    model = stack.enter_context(ServedModel(base))
    found = [*model.signature.inputs, *model.signature.outputs]
    if found != [INPUT_KEY, OUTPUT_KEY]:
        raise UserError(f"{source}: the signature has {found}; expected {[INPUT_KEY, OUTPUT_KEY]}")
    return base, model


class Answers:
    """The images that are asked, float32 (N, 28, 28), and by kind what is expected: what the bare model answers."""

    def __init__(self, model, images):
        from flask_server import softmax
        from rnn_serving.model import INPUT_KEY, OUTPUT_KEY

        self.images = images
        self.call_model = lambda batch: model.predict({INPUT_KEY: batch})[OUTPUT_KEY]
        logits = self.call_model(images)
        self.expected = {"images": images, "logits": logits, "probabilities": softmax(logits)}

    def batches(self, size):
        """Return [(indexes, images)], `size` of each, that have every image at least once."""
        count = len(self.images)
        indexes = [np.arange(start, start + size) % count for start in range(0, count, size)]
        return [(chosen, self.images[chosen]) for chosen in indexes]

    def check(self, name, kind, indexes, scores):
        """Raise UserError unless scores, float32 (n, 10), are what the model answers to the images with n indexes."""
        expected = self.expected[kind][indexes]
        if scores.shape != expected.shape or not np.allclose(scores, expected, rtol=0, atol=TOLERANCES[kind]):
            which = f"{indexes[0]} and the {len(indexes) - 1} after it"
            raise UserError(f"{name}: another answer to image {which}; expected the bare model's {kind}")


@dataclass(frozen=True)
class Route:
    """A way to ask a server: `decode(send(encode(images)))` gives scores, float32 (n, 10), of images (n, 28, 28).

    What is encoded and sent is bytes; `kind` says what the scores are, `metrics_url` where the server tells its times.
    """

    name: str
    kind: str
    metrics_url: str
    encode: object
    send: object
    decode: object

    def ask(self, images):
        """Return (scores, moments): when it was begun, encoded, answered and decoded, in seconds.

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
    """Start the servers with the model under `base`, the article's aside; return a Route for each way to ask one."""
    own = open_model_server(stack, base, "python")
    flags = ("--backend", f"127.0.0.1:{own.port}", "--model_name", MODEL_NAME)
    session = stack.enter_context(direct_session())
    routes = [
        article_route(article_url),
        flask_route("Flask endpoint", stack.enter_context(processes.FlaskServer(base)), session),
        flask_route("Flask gateway", stack.enter_context(processes.FlaskServer(base, *flags)), session),
        rest_route("rnn_serving.model_server", own, session),
        grpc_route("rnn_serving.model_server", own, stack),
    ]
    if how := processes.cpp_server():
        cpp = open_model_server(stack, base, how)
        routes += [
            rest_route("tensorflow_model_server", cpp, session),
            grpc_route("tensorflow_model_server", cpp, stack),
        ]
    return routes


def open_model_server(stack, base, program):
    """Return the running `processes.TFServing`; what turns its metrics on is in `base`, where a container sees it."""
    config = base / "monitoring.config"
    files.write_text(config, MONITORING_CONFIG)
    server = processes.TFServing(base, f"--monitoring_config_file={config}", program=program)
    stack.enter_context(server)
    return server


def direct_session():
    """Return a session that asks no proxy: none stands between a client and a server on the same machine."""
    session = requests.Session()
    session.trust_env = False
    return session


def article_route(url):
    """Return the article's way: Python's json, lists of numbers, and a connection for each request."""
    return Route(
        "article's Flask server",
        *("probabilities", url + "metrics"),
        lambda images: json.dumps({"data": images.tolist()}).encode(),
        lambda body: content(requests.post(url, body, headers=JSON_HEADERS, timeout=TIMEOUT_S, proxies=dict(NO_PROXY))),
        lambda answer: np.array(json.loads(answer)["y"], np.float32),
    )


def flask_route(name, url, session):
    """Return the way of flask_client.py."""
    return Route(
        name,
        *("probabilities", url + "metrics"),
        lambda images: to_json({"data": images}),
        lambda body: content(session.post(url, body, headers=JSON_HEADERS, timeout=TIMEOUT_S)),
        lambda answer: np.array(orjson.loads(answer)["y"], np.float32),
    )


def rest_route(name, server, session):
    """Return the way of tfserving_client.py --protocol rest."""
    from rnn_serving.model import INPUT_KEY

    address = f"http://127.0.0.1:{server.rest_port}"
    url = f"{address}/v1/models/{MODEL_NAME}:predict"
    return Route(
        f"{name}, REST",
        *("logits", address + METRICS_PATH),
        lambda images: to_json({"inputs": {INPUT_KEY: images}}),
        lambda body: content(session.post(url, body, headers=JSON_HEADERS, timeout=TIMEOUT_S)),
        lambda answer: np.array(orjson.loads(answer)["outputs"], np.float32),
    )


def grpc_route(name, server, stack):
    """Return the way of tfserving_client.py."""
    channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}", CHANNEL_OPTIONS))
    predict = channel.unary_unary(PREDICT)
    return Route(
        f"{name}, gRPC",
        *("logits", f"http://127.0.0.1:{server.rest_port}{METRICS_PATH}"),
        to_predict_request,
        lambda body: predict(body, timeout=TIMEOUT_S),
        from_predict_response,
    )


def content(answer):
    """Return the body of an HTTP answer; requests.HTTPError unless its status is good."""
    answer.raise_for_status()
    return answer.content


def to_json(value):
    """Return a value, NumPy arrays included, as bytes of JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def to_predict_request(images):
    """Return images, float32 (n, 28, 28), as the bytes of a PredictRequest with `tensor_content`."""
    from rnn_serving.model import INPUT_KEY
    from rnn_serving.quiet_tensorflow import tf

    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL_NAME
    request.inputs[INPUT_KEY].CopyFrom(tf.make_tensor_proto(images))
    return request.SerializeToString()


def from_predict_response(answer):
    """Return the logits, float32 (n, 10), in the bytes of a PredictResponse."""
    from rnn_serving.model import OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf

    from tensorflow_serving.apis import predict_pb2

    return tf.make_ndarray(predict_pb2.PredictResponse.FromString(answer).outputs[OUTPUT_KEY])
