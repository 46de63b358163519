"""Step 4: the same over gRPC. Grade TensorFlow Serving, or our model server, on the test set, and time it.

    scripts/serve_tfserving.sh &
    python tfserving_client.py --data_dir data/mnist --port 9000 --num_tests 1000

Exit status 0 only if every request was answered.
"""

import contextlib

import grpc

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


def main(argv=None):
    """Ask, report, and return the exit status."""
    args = parse_arguments(argv)
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    address = f"{latency.host_name(args.host)}:{args.port}"
    with grpc.insecure_channel(address, CHANNEL_OPTIONS) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        server, version = check_model(stub, address, args)
        load = latency.run_load(lambda: connect(stub, args), test, args.batch_size, args.concurrency)
    report = latency.make_report(
        server, "gRPC", version, dataset.dataset_name(args.data_dir), load,
        len(test), args.concurrency, args.batch_size,
    )  # fmt: skip
    return latency.finish(report, args.json)


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    latency.add_client_flags(parser, port=9000)
    parser.add_argument("--model_name", default="mnist", help="the name the server gave the model")
    parser.add_argument("--signature_name", default="serving_default", help="the signature to run")
    parser.add_argument("--input_key", default=INPUT_KEY, help="the signature's input that takes the images")
    parser.add_argument("--output_key", default=OUTPUT_KEY, help="the signature's output that gives the scores")
    return parser.parse_args(argv)


@contextlib.contextmanager
def connect(stub, args):
    """Give a function `ask(images) -> logits`: float32 (n, 28, 28) to (n, 10); it raises latency.RequestError."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = args.model_name
    request.model_spec.signature_name = args.signature_name
    request.output_filter.append(args.output_key)

    def ask(images):
        request.inputs[args.input_key].CopyFrom(tf.make_tensor_proto(images))
        try:
            response = stub.Predict(request, timeout=args.timeout)
            return tf.make_ndarray(response.outputs[args.output_key])
        except grpc.RpcError as error:
            raise RequestError(f"{error.code().name}: {error.details()}; expected an answer") from error

    yield ask


def check_model(stub, address, args):
    """Return (name of the server's program, version) once the model is known to fit the requests.

    Raises: UserError saying what the server offers instead.
    """
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = args.model_name
    try:
        response, call = stub.GetModelMetadata.with_call(request, timeout=args.timeout)
    except grpc.RpcError as error:
        raise UserError(f"{address}: {error.code().name}: {error.details()}; {advice(error, args)}") from error
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    problem = misfit(signatures.signature_def, args)
    if problem:
        raise UserError(f"{address}: model {args.model_name} version {response.model_spec.version.value} {problem}")
    return dict(call.trailing_metadata()).get(SERVED_BY, CPP_SERVER), response.model_spec.version.value


def advice(error, args):
    """Return what was expected where the server could not tell its signatures."""
    if error.code() == grpc.StatusCode.NOT_FOUND:
        return f"expected the name the server was started with, --model_name is {args.model_name}"
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
