"""Step 4: grade TensorFlow Serving, or our model server, on the test set over gRPC, and time it.

    scripts/serve_tfserving.sh &
    python tfserving_client.py --data_dir data/mnist --num_tests 1000

The exit status is 0 only if every request was answered.
"""

import contextlib
import functools

from rnn_serving import command_line, dataset
from rnn_serving.clients import classify, flags, load, report, rest, tfserving
from rnn_serving.clients.signature import ModelQuery
from rnn_serving.model import INPUT_KEY, OUTPUT_KEY
from rnn_serving.quiet_tensorflow import tf
from rnn_serving.tls import open_channel

from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def predict(stub, query, images):
    """Return the scores, float32 (n, 10), of a batch of images by one Predict call; raise RequestError."""
    # The request names a model, one of its signatures, and a tensor for each input.
    request = predict_pb2.PredictRequest()
    request.model_spec.name = query.model_name
    request.model_spec.signature_name = query.signature_name
    request.inputs[query.input_key].CopyFrom(tf.make_tensor_proto(images))
    request.output_filter.append(query.output_key)
    # A call without a deadline would wait forever for a server that hangs.
    response = tfserving.call(stub.Predict, request, query.timeout_s)
    # The answer has a tensor for each output, here the logits of every image.
    if query.output_key not in response.outputs:
        raise load.RequestError(f"answer has outputs {sorted(response.outputs)}; expected {query.output_key!r}")
    return tf.make_ndarray(response.outputs[query.output_key])


@contextlib.contextmanager
def open_grpc(address, query):
    """Yield (`tfserving.ServedBy`, connect) of the server at HOST:PORT; UserError unless its model fits the requests.

    `connect()` yields `ask(images) -> scores`, float32 (n, 28, 28) to (n, 10), which raises RequestError.
    """
    # One channel holds one HTTP/2 connection, which all threads share; a stub turns methods into calls on it.
    with open_channel(address, CHANNEL_OPTIONS, query.tls) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        server = tfserving.describe_server(stub, address, query)
        call = functools.partial(METHODS[query.method], stub, query)
        yield server, lambda: contextlib.nullcontext(lambda images: call(images.reshape(-1, *server.image_shape)))


CHANNEL_OPTIONS = (
    # gRPC's default of 4 MiB is 1,300 images.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # By default, gRPC waits up to two minutes before it connects again to a server that was not there yet.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # No proxy stands between a client and a server on the same machine.
    ("grpc.enable_http_proxy", 0),
)
METHODS = {"predict": predict, "classify": classify.classify}
# How to open a protocol, its name in the report, and the default port of scripts/serve_tfserving.sh.
PROTOCOLS = {"grpc": (open_grpc, "gRPC", 9000), "rest": (rest.open_rest, "REST", 8501)}


def main(argv=None):
    """Connect, send every image, report, and return the exit status."""
    args = parse_arguments(argv)
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    open_server, protocol, port = PROTOCOLS[args.protocol]
    address = flags.server_address(args, port)
    name, size = dataset.dataset_name(args.data_dir), len(test)
    with open_server(address, model_query(args)) as (server, connect):
        report.print_dataset_note(server.dataset, name)
        measured = load.run_load(connect, test, args.batch_size, args.concurrency, args.retries)
    result = report.make_report(
        server.program, protocol, server.version, name, measured, size, args.concurrency, args.batch_size
    )
    return report.finish(result, args.json)


def model_query(args):
    """Return the `ModelQuery` that the flags describe."""
    input_key, output_key = args.input_key or INPUT_KEY, args.output_key or OUTPUT_KEY
    tensors = (args.signature_name, input_key, output_key)
    return ModelQuery(args.model_name, *tensors, args.method, args.timeout, args.wait, flags.server_tls(args))


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    flags.add_flags(parser, port_help="9000, 8501 for REST")
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="grpc", help="gRPC, or JSON over HTTP")
    parser.add_argument("--model_name", default="mnist", help="the name the server gave the model")
    parser.add_argument("--signature_name", default="serving_default", help="the signature to run")
    parser.add_argument(
        "--method", choices=sorted(METHODS, reverse=True), default="predict", help="send tensors, or tf.Examples"
    )
    parser.add_argument("--input_key", help=f"input that takes the images, for predict (default: {INPUT_KEY})")
    parser.add_argument("--output_key", help=f"output with the scores, for predict (default: {OUTPUT_KEY})")
    args = parser.parse_args(argv)
    if args.method == "classify" and (args.input_key or args.output_key):
        parser.error("--input_key and --output_key need --method predict; classify uses fixed names")
    return args


if __name__ == "__main__":
    command_line.run(main)
