"""The bytes of a request and of its answer, for each way to call a server.

TensorFlow is imported inside functions: the process of the load generator, and others, import this module without it.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import orjson
import requests

# Seconds an answer may take.
TIMEOUT_S = 30.0
MODEL_NAME, PREDICT = "mnist", "/tensorflow.serving.PredictionService/Predict"
JSON_HEADERS = {"Content-Type": "application/json"}
# No proxy stands between a client and a server on the same machine.
NO_PROXY = {"no_proxy": "127.0.0.1"}
NO_PROXY_CHANNEL = (("grpc.enable_http_proxy", 0),)
# A channel with a connection of its own, whichever others there are.
OWN_CHANNEL = (*NO_PROXY_CHANNEL, ("grpc.use_local_subchannel_pool", 1))


@dataclass(frozen=True)
class Protocol:
    """`encode(images)` gives the bytes of a request, `decode(bytes)` the scores, float32 (n, 10), of its answer.

    `kind` says what the scores are: "logits" or "probabilities". `decode` raises ValueError, KeyError or TypeError for
    bytes that are not an answer.
    """

    name: str
    kind: str
    encode: object
    decode: object


def model_query(timeout_s, model_name=MODEL_NAME, tls=None):
    """Return the `ModelQuery` of the model under test, for the clients of this project."""
    from rnn_serving.clients.signature import ModelQuery
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.saved_model import DEFAULT_SIGNATURE

    return ModelQuery(model_name, DEFAULT_SIGNATURE, INPUT_KEY, OUTPUT_KEY, timeout_s=timeout_s, tls=tls)


def post(session, url, body):
    """Return the answer, bytes, to a body of JSON; raise requests.RequestException if it is not a good one."""
    return content(session.post(url, body, headers=JSON_HEADERS, timeout=TIMEOUT_S))


def post_once(url, body):
    """Do what `post` does over a connection of its own."""
    return content(requests.post(url, body, headers=JSON_HEADERS, timeout=TIMEOUT_S, proxies=dict(NO_PROXY)))


def content(answer):
    """Return the body of an HTTP answer; raise requests.HTTPError unless its status is good."""
    answer.raise_for_status()
    return answer.content


def to_json(value):
    """Return a value, NumPy arrays included, as bytes of JSON."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def to_flask_request(images):
    """Return images, float32 (n, 28, 28) or one (28, 28), as the Flask endpoint takes them."""
    return to_json({"data": images})


def from_flask_response(answer):
    """Return the probabilities, float32 (n, 10), in an answer of the Flask endpoint."""
    return np.array(orjson.loads(answer)["y"], np.float32)


def to_rest_request(images):
    """Return images, float32 (n, 28, 28), as a Predict request of the REST API."""
    from rnn_serving.model import INPUT_KEY
    from rnn_serving.saved_model import DEFAULT_SIGNATURE

    return to_json({"signature_name": DEFAULT_SIGNATURE, "inputs": {INPUT_KEY: images}})


def from_rest_response(answer):
    """Return the logits, float32 (n, 10), in an answer of the REST API."""
    from rnn_serving.model import OUTPUT_KEY

    outputs = orjson.loads(answer)["outputs"]
    # A signature with one output answers with its value alone.
    return np.array(outputs[OUTPUT_KEY] if isinstance(outputs, dict) else outputs, np.float32)


def to_predict_request(images, model_name=MODEL_NAME):
    """Return images, float32 (n, 28, 28), as a serialized PredictRequest with `tensor_content`."""
    from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf
    from rnn_serving.saved_model import DEFAULT_SIGNATURE

    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest(output_filter=[OUTPUT_KEY])
    request.model_spec.name, request.model_spec.signature_name = model_name, DEFAULT_SIGNATURE
    request.inputs[INPUT_KEY].CopyFrom(tf.make_tensor_proto(images))
    return request.SerializeToString()


def from_predict_response(answer):
    """Return the logits, float32 (n, 10), in a serialized PredictResponse."""
    from google.protobuf.message import DecodeError

    from rnn_serving.model import OUTPUT_KEY
    from rnn_serving.quiet_tensorflow import tf

    from tensorflow_serving.apis import predict_pb2

    try:
        outputs = dict(predict_pb2.PredictResponse.FromString(answer).outputs)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return tf.make_ndarray(outputs[OUTPUT_KEY])


FLASK = Protocol("HTTP/JSON", "probabilities", to_flask_request, from_flask_response)
REST = Protocol("REST", "logits", to_rest_request, from_rest_response)
GRPC = Protocol("gRPC", "logits", to_predict_request, from_predict_response)


def grpc_to(model_name):
    """Return `GRPC` for a server that gave the model another name."""
    return replace(GRPC, encode=partial(to_predict_request, model_name=model_name))
