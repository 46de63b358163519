"""The article's ways to ask for one image, as `rnn_serving.clients.load.run_load` takes them."""

import contextlib

import grpc
import numpy as np
import requests

from benchmarks.protocols import NO_PROXY, NO_PROXY_CHANNEL
from rnn_serving.clients import tfserving
from rnn_serving.clients.load import RequestError
from rnn_serving.command_line import request_failure
from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.saved_model import DEFAULT_SIGNATURE

from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

# The article's deadline of a Predict call; it gave Flask none.
TIMEOUT_S = 10.0


@contextlib.contextmanager
def flask(url):
    """Yield a function `ask(images) -> probabilities`, float32 (n, 28, 28) to (n, 10), that connects each time."""

    def ask(images):
        try:
            answer = requests.post(url, json={"data": images.tolist()}, timeout=TIMEOUT_S, proxies=dict(NO_PROXY))
            answer.raise_for_status()
        except requests.RequestException as error:
            raise RequestError(f"{url}: {request_failure(error)}; expected an answer") from error
        return np.array(answer.json()["y"])

    yield ask


@contextlib.contextmanager
def predict(address, model_name, as_floats=False):
    """Yield a function `ask(images) -> logits`, float32 (n, 28, 28) to (n, 10), that builds each request from scratch.

    One channel is kept open. The tensor is made of the array or, with `as_floats`, of a list of its n * 784 numbers.
    """

    def ask(images):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = model_name
        request.model_spec.signature_name = DEFAULT_SIGNATURE
        values = images.ravel().tolist() if as_floats else images
        request.inputs[INPUT_KEY].CopyFrom(tf.make_tensor_proto(values, dtype=tf.float32, shape=images.shape))
        response = tfserving.call(stub.Predict, request, TIMEOUT_S)
        return np.array(response.outputs[OUTPUT_KEY].float_val).reshape(len(images), -1)

    with grpc.insecure_channel(address, NO_PROXY_CHANNEL) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        yield ask
