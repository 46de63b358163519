"""Step 4: grade TensorFlow Serving, or our model server, on the test set, over gRPC or REST, and time it.

    scripts/serve_tfserving.sh &
    python tfserving_client.py --data_dir data/mnist --num_tests 1000

--method classify sends serialized tf.Examples and reads labels with scores, for a model with such a signature.
Exit status 0 only if every request was answered.
"""

import contextlib
from urllib.parse import quote

import grpc
import numpy as np
import requests
from google.protobuf import json_format

from rnn_serving import command_line, dataset, latency
from rnn_serving.command_line import UserError
from rnn_serving.dataset import IMAGE_SIZE, NUM_CLASSES
from rnn_serving.latency import RequestError
from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

CHANNEL_OPTIONS = (
    # gRPC's default of 4 MiB is 1,300 images.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # No proxy stands between a client and a server on the same machine.
    ("grpc.enable_http_proxy", 0),
)
# Our own server says who it is; TensorFlow Serving says nothing.
SERVED_BY, CPP_SERVER = "x-served-by", "tensorflow_model_server"

PORTS = {"grpc": 9000, "rest": 8501}
# The keys that the API gives to Classify, and the feature of the Examples that holds the pixels.
CLASSIFY_INPUT, CLASSIFY_CLASSES, CLASSIFY_SCORES = "inputs", "classes", "scores"
FEATURE, FEATURE_SHAPE = "x", (IMAGE_SIZE**2,)
DIGITS = [str(digit) for digit in range(NUM_CLASSES)]


def main(argv=None):
    """Ask, report, and return the exit status."""
    args = parse_arguments(argv)
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    address = f"{latency.host_name(args.host)}:{args.port or PORTS[args.protocol]}"
    with (open_grpc if args.protocol == "grpc" else open_rest)(address, args) as (server, version, connect):
        load = latency.run_load(connect, test, args.batch_size, args.concurrency)
    report = latency.make_report(
        *(server, {"grpc": "gRPC", "rest": "REST"}[args.protocol], version, dataset.dataset_name(args.data_dir), load),
        *(len(test), args.concurrency, args.batch_size),
    )
    return latency.finish(report, args.json)


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    latency.add_client_flags(parser, port=None, port_help="the server's port (default: 9000, 8501 for REST)")
    parser.add_argument("--protocol", choices=sorted(PORTS), default="grpc", help="how to ask")
    parser.add_argument("--model_name", default="mnist", help="the name the server gave the model")
    parser.add_argument("--signature_name", default="serving_default", help="the signature to run")
    parser.add_argument("--method", choices=("predict", "classify"), default="predict", help="tensors, or tf.Examples")
    parser.add_argument("--input_key", help=f"the input that takes the images, to predict (default: {INPUT_KEY})")
    parser.add_argument("--output_key", help=f"the output that gives the scores, to predict (default: {OUTPUT_KEY})")
    args = parser.parse_args(argv)
    if args.method == "classify" and (args.input_key or args.output_key):
        parser.error("--input_key and --output_key are for --method predict; the API names those of classify")
    args.input_key, args.output_key = args.input_key or INPUT_KEY, args.output_key or OUTPUT_KEY
    return args


@contextlib.contextmanager
def open_grpc(address, args):
    """Give (name of the server's program, version, connect) once the model is known to fit the requests.

    `connect()` gives a function `ask(images) -> scores`, float32 (n, 28, 28) to (n, 10), that raises
    latency.RequestError. Raises: UserError saying what the server offers instead.
    """
    with grpc.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = args.model_name
        try:
            response, call = stub.GetModelMetadata.with_call(request, timeout=args.timeout)
        except grpc.RpcError as error:
            unknown = error.code() == grpc.StatusCode.NOT_FOUND
            raise UserError(f"{address}: {error.code().name}: {error.details()}; {advice(unknown)}") from error
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        version = response.model_spec.version.value
        form = check_model(signatures, address, version, args)
        server = dict(call.trailing_metadata()).get(SERVED_BY, CPP_SERVER)
        ask = predict_over_grpc if args.method == "predict" else classify_over_grpc
        yield server, version, lambda: contextlib.nullcontext(ask(stub, args, form))


def predict_over_grpc(stub, args, form):
    """Return a function that asks with one request message, which it fills anew each time."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = args.model_name
    request.model_spec.signature_name = args.signature_name
    request.output_filter.append(args.output_key)

    def ask(images):
        request.inputs[args.input_key].CopyFrom(tf.make_tensor_proto(images.reshape(-1, *form)))
        response = call_grpc(stub.Predict, request, args)
        if args.output_key not in response.outputs:
            raise RequestError(f"answer has outputs {sorted(response.outputs)}; expected {args.output_key!r}")
        return tf.make_ndarray(response.outputs[args.output_key])

    return ask


def classify_over_grpc(stub, args, form):
    """Return what `predict_over_grpc` returns, for a signature that takes Examples and answers labels."""

    def ask(images):
        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = args.model_name
        request.model_spec.signature_name = args.signature_name
        for image in images.reshape(-1, *form):
            example = request.input.example_list.examples.add()
            example.features.feature[FEATURE].float_list.value.extend(image)
        response = call_grpc(stub.Classify, request, args)
        found = ([(one.label, one.score) for one in image.classes] for image in response.result.classifications)
        return scores_by_digit(list(found))

    return ask


def call_grpc(method, request, args):
    """Return the answer of a method of the service; raise RequestError with what it said instead."""
    try:
        return method(request, timeout=args.timeout)
    except grpc.RpcError as error:
        raise RequestError(f"{error.code().name}: {error.details()}; expected an answer") from error


def scores_by_digit(classifications):
    """Return the scores, float32 (n, 10), of n lists of (label, score), which may come in any order.

    Raises: RequestError for an image without labels, and for a label that is no digit.
    """
    # A label that is not told has a score below all that are.
    scores = np.full((len(classifications), NUM_CLASSES), np.finfo(np.float32).min)
    for row, found in zip(scores, classifications):
        labels = [label for label, _ in found]
        if not labels or not set(labels) <= set(DIGITS):
            raise RequestError(f"answer has the labels {labels}; expected digits")
        for label, score in found:
            row[int(label)] = score
    return scores


@contextlib.contextmanager
def open_rest(address, args):
    """Give what `open_grpc` gives, for the REST API."""
    url = f"http://{address}/v1/models/{quote(args.model_name, safe='')}"
    try:
        with direct_session() as session:
            answer = session.get(url + "/metadata", timeout=args.timeout)
    except (requests.RequestException, ValueError) as error:
        raise UserError(f"{url}: {command_line.request_failure(error)}; {advice(unknown=False)}") from error
    if answer.status_code != 200:
        raise UserError(f"{url}: {latency.status_of(answer)}; {advice(answer.status_code == 404)}")
    found = answer.json()
    signatures = json_format.ParseDict(found["metadata"]["signature_def"], get_model_metadata_pb2.SignatureDefMap())
    version = int(found["model_spec"]["version"])
    form = check_model(signatures, address, version, args)
    yield answer.headers.get(SERVED_BY, CPP_SERVER), version, lambda: connect_rest(f"{url}:{args.method}", args, form)


@contextlib.contextmanager
def connect_rest(url, args, form):
    """Give a function that asks over one connection, which it keeps open."""
    with direct_session() as session:

        def ask(images):
            request = {"signature_name": args.signature_name, **rest_images(images.reshape(-1, *form), args)}
            answer = latency.post_json(session, url, request, args.timeout)
            try:
                return rest_scores(answer, args)
            except (KeyError, TypeError, ValueError) as error:
                expected = "outputs" if args.method == "predict" else "results"
                raise RequestError(f"{url}: {str(answer)[:100]}; expected JSON with {expected!r}") from error

        yield ask


def rest_images(images, args):
    """Return the part of a request's JSON that has the images."""
    if args.method == "predict":
        return {"inputs": {args.input_key: images}}
    return {"examples": [{FEATURE: image} for image in images]}


def rest_scores(answer, args):
    """Return the scores, float32 (n, 10), in an answer's JSON; KeyError, TypeError or ValueError if it has none."""
    if args.method == "classify":
        return scores_by_digit(answer["results"])
    outputs = answer["outputs"]
    # A signature with one output answers with its value alone.
    return np.array(outputs[args.output_key] if isinstance(outputs, dict) else outputs, np.float32)


def direct_session():
    """Return a session that asks no proxy: none stands between a client and a server on the same machine."""
    session = requests.Session()
    session.trust_env = False
    return session


def check_model(signatures, address, version, args):
    """Return the shape in which the model takes one image; UserError unless a signature of a SignatureDefMap fits."""
    try:
        return image_form(signatures.signature_def, args)
    except UserError as error:
        raise UserError(f"{address}: model {args.model_name} version {version} {error}") from error


def advice(unknown):
    """Return what was expected of a server that could not tell its signatures, or does not know the model."""
    if unknown:
        return "expected the name that the server was started with (--model_name)"
    return "expected a server there, start one with scripts/serve_tfserving.sh"


def image_form(signatures, args):
    """Return the shape in which the chosen one of {name: SignatureDef} takes an image: to classify, its feature's.

    Raises: UserError saying how what is on offer differs from what the requests need.
    """
    if args.signature_name not in signatures:
        raise UserError(f"has no signature {args.signature_name!r}; it offers {sorted(signatures)}")
    signature = signatures[args.signature_name]
    if args.method == "classify":
        offered(signature.inputs, "input", CLASSIFY_INPUT, args, tf.string)
        offered(signature.outputs, "output", CLASSIFY_CLASSES, args, tf.string)
        offered(signature.outputs, "output", CLASSIFY_SCORES, args, tf.float32)
        return FEATURE_SHAPE
    info = offered(signature.inputs, "input", args.input_key, args)
    offered(signature.outputs, "output", args.output_key, args)
    shape = tf.TensorShape(info.tensor_shape)
    dims = None if shape.rank is None else tuple(shape.as_list())
    return latency.image_form(args.input_key, tf.as_dtype(info.dtype).name, dims)


def offered(tensors, kind, key, args, dtype=None):
    """Return the TensorInfo with a key; raise UserError unless it is there and, if asked for, of a dtype."""
    if key not in tensors:
        raise UserError(f"has no {kind} {key!r} in {args.signature_name!r}; it offers {sorted(tensors)}")
    if dtype and tensors[key].dtype != dtype.as_datatype_enum:
        raise UserError(f"has {tf.as_dtype(tensors[key].dtype).name} as {key!r}; expected {dtype.name} to classify")
    return tensors[key]


if __name__ == "__main__":
    command_line.run(main)
