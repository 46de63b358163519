"""Talk to a running server: a line of input is a question, a line of output its answer.

    python -m examples.seq2seq.chat
    echo "how are you" | python -m examples.seq2seq.chat --protocol grpc

A refused line is reported on stderr, and the exit status is then 1.
"""

import base64
import contextlib
import sys
from urllib.parse import quote

import requests

from examples.seq2seq.text import REPLY_KEY, TEXT_KEY
from rnn_serving import command_line, latency
from rnn_serving.command_line import UserError
from rnn_serving.latency import RequestError

PORTS = {"flask": 5000, "grpc": 9000, "rest": 8501}


def main(argv=None):
    """Ask line by line until the input ends; return the exit status."""
    args = parse_arguments(argv)
    address = f"{latency.host_name(args.host)}:{args.port or PORTS[args.protocol]}"
    refused = 0
    with {"flask": open_flask, "grpc": open_grpc, "rest": open_rest}[args.protocol](address, args) as ask:
        for question in questions():
            try:
                print(ask(question), flush=True)
            except RequestError as error:
                refused += 1
                command_line.fail(error)
    return 1 if refused else 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--protocol", choices=sorted(PORTS), default="flask", help="how to ask")
    parser.add_argument("--host", default="127.0.0.1", help="the server's address, with or without http://")
    parser.add_argument("--port", type=command_line.port_number, help="its port (default: 5000, gRPC 9000, REST 8501)")
    parser.add_argument("--model_name", default="seq2seq", help="the name the model server gave the model")
    parser.add_argument("--timeout", type=command_line.positive_float, default=10.0, help="seconds an answer may take")
    return parser.parse_args(argv)


def questions():
    """Yield the lines of stdin as bytes, which need not be UTF-8; a person at a terminal sees a prompt."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        print(prompt, end="", flush=True)
        line = sys.stdin.buffer.readline()
        if not line:
            return
        yield line.rstrip(b"\r\n")


@contextlib.contextmanager
def open_flask(address, args):
    """Give `ask(question) -> answer`, bytes to text, which raises RequestError for a refused question."""
    with connected(f"http://{address}/readyz", args) as session:
        yield lambda text: post(session, f"http://{address}/", {"data": as_json(text)}, "y", args)


@contextlib.contextmanager
def open_rest(address, args):
    """Give what `open_flask` gives, for TensorFlow Serving's REST API."""
    url = f"http://{address}/v1/models/{quote(args.model_name, safe='')}"
    with connected(url, args) as session:
        yield lambda text: post(session, f"{url}:predict", {"instances": [as_json(text)]}, "predictions", args)


@contextlib.contextmanager
def open_grpc(address, args):
    """Give what `open_flask` gives, for gRPC."""
    # Imported here: TensorFlow takes seconds to load, which the other protocols need not wait for.
    import grpc

    from rnn_serving.quiet_tensorflow import tf

    from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

    def described(error):
        return f"{address}: {error.code().name}: {command_line.first_line(error.details() or 'no details')}"

    def ask(text):
        request = predict_pb2.PredictRequest()
        request.model_spec.name = args.model_name
        request.inputs[TEXT_KEY].CopyFrom(tf.make_tensor_proto([text]))
        try:
            response = stub.Predict(request, timeout=args.timeout)
        except grpc.RpcError as error:
            raise RequestError(described(error)) from error
        return response.outputs[REPLY_KEY].string_val[0].decode()

    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = args.model_name
        try:
            stub.GetModelMetadata(request, timeout=args.timeout)
        except grpc.RpcError as error:
            raise UserError(f"{described(error)}; {expected(args)}") from error
        yield ask


@contextlib.contextmanager
def connected(url, args):
    """Give a session that asks no proxy; raise UserError unless `url` answers that a model is there."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            answer = session.get(url, timeout=args.timeout)
        except (requests.RequestException, ValueError) as error:
            raise UserError(f"{url}: {command_line.request_failure(error)}; {expected(args)}") from error
        if answer.status_code != 200:
            raise UserError(f"{url}: {latency.status_of(answer)}; {expected(args)}")
        yield session


def post(session, url, value, key, args):
    """Return the one answer under `key` of what a server answers to `value`."""
    answer = latency.post_json(session, url, value, args.timeout)
    try:
        return answer[key][0]
    except (KeyError, IndexError, TypeError) as error:
        raise UserError(f"{url}: {str(answer)[:100]}; expected JSON with one answer in {key!r}") from error


def as_json(text):
    """Return bytes as JSON holds them: text, or base64 of what is none."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(text).decode()}


def expected(args):
    """Return what was expected of a server that does not answer."""
    return f"expected a server of {args.model_name} there that speaks {args.protocol}"


if __name__ == "__main__":
    command_line.run(main)
