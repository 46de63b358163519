"""Step 4: grade TensorFlow Serving, or our model server, on the test set, over gRPC or REST, and time it.

    scripts/serve_tfserving.sh &
    python tfserving_client.py --data_dir data/mnist --num_tests 1000

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
from rnn_serving.latency import RequestError
from rnn_serving.model import INPUT_KEY, INPUT_SPEC, OUTPUT_KEY
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import (
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
    parser.add_argument("--input_key", default=INPUT_KEY, help="the signature's input that takes the images")
    parser.add_argument("--output_key", default=OUTPUT_KEY, help="the signature's output that gives the scores")
    return parser.parse_args(argv)


@contextlib.contextmanager
def open_grpc(address, args):
    """Give (name of the server's program, version, connect) once the model is known to fit the requests.

    `connect()` gives a function `ask(images) -> logits`, float32 (n, 28, 28) to (n, 10), that raises
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
        check_model(signatures, address, version, args)
        server = dict(call.trailing_metadata()).get(SERVED_BY, CPP_SERVER)
        yield server, version, lambda: contextlib.nullcontext(ask_grpc(stub, args))


def ask_grpc(stub, args):
    """Return a function that asks with one request message, which it fills anew each time."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = args.model_name
    request.model_spec.signature_name = args.signature_name
    request.output_filter.append(args.output_key)

    def ask(images):
        request.inputs[args.input_key].CopyFrom(tf.make_tensor_proto(images))
        try:
            response = stub.Predict(request, timeout=args.timeout)
        except grpc.RpcError as error:
            raise RequestError(f"{error.code().name}: {error.details()}; expected an answer") from error
        if args.output_key not in response.outputs:
            raise RequestError(f"answer has outputs {sorted(response.outputs)}; expected {args.output_key!r}")
        return tf.make_ndarray(response.outputs[args.output_key])

    return ask


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
    check_model(signatures, address, version, args)
    yield answer.headers.get(SERVED_BY, CPP_SERVER), version, lambda: connect_rest(url + ":predict", args)


@contextlib.contextmanager
def connect_rest(url, args):
    """Give a function that asks over one connection, which it keeps open."""
    with direct_session() as session:

        def ask(images):
            request = {"signature_name": args.signature_name, "inputs": {args.input_key: images}}
            answer = latency.post_json(session, url, request, args.timeout)
            try:
                outputs = answer["outputs"]
                # A signature with one output answers with its value alone.
                return np.array(outputs[args.output_key] if isinstance(outputs, dict) else outputs, np.float32)
            except (KeyError, TypeError, ValueError) as error:
                raise RequestError(f"{url}: {str(answer)[:100]}; expected JSON with 'outputs'") from error

        yield ask


def direct_session():
    """Return a session that asks no proxy: none stands between a client and a server on the same machine."""
    session = requests.Session()
    session.trust_env = False
    return session


def check_model(signatures, address, version, args):
    """Raise UserError unless one of the signatures, a SignatureDefMap, fits the requests."""
    problem = misfit(signatures.signature_def, args)
    if problem:
        raise UserError(f"{address}: model {args.model_name} version {version} {problem}")


def advice(unknown):
    """Return what was expected of a server that could not tell its signatures, or does not know the model."""
    if unknown:
        return "expected the name that the server was started with (--model_name)"
    return "expected a server there, start one with scripts/serve_tfserving.sh"


def misfit(signatures, args):
    """Return how the signatures on offer differ from what the requests need, None if they fit."""
    if args.signature_name not in signatures:
        return f"has no signature {args.signature_name!r}; it offers {sorted(signatures)}"
    signature = signatures[args.signature_name]
    for kind, key, tensors in (
        ("input", args.input_key, signature.inputs),
        ("output", args.output_key, signature.outputs),
    ):
        if key not in tensors:
            return f"has no {kind} {key!r} in {args.signature_name!r}; it offers {sorted(tensors)}"
    offered = signature.inputs[args.input_key]
    shape = tf.TensorShape(offered.tensor_shape)
    if offered.dtype != INPUT_SPEC.dtype.as_datatype_enum or not shape.is_compatible_with(INPUT_SPEC.shape):
        found = f"{tf.as_dtype(offered.dtype).name} {shape}"
        return f"takes {found} as {args.input_key!r}; expected {INPUT_SPEC.dtype.name} {INPUT_SPEC.shape}"
    return None


if __name__ == "__main__":
    command_line.run(main)
