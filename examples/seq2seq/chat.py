"""Talk to a running server: each line of input is a question, each line of output its answer.

    python -m examples.seq2seq.chat
    echo "how are you" | python -m examples.seq2seq.chat --protocol grpc

A question that is refused is reported on stderr, and the exit status is then 1.
"""

import contextlib
import sys

from examples.seq2seq.ask_http import open_flask, open_rest
from rnn_serving import command_line
from rnn_serving.clients import flags
from rnn_serving.clients.load import RequestError
from rnn_serving.command_line import UserError

PORTS = {"flask": 5000, "grpc": 9000, "rest": 8501}


def chat(ask):
    """Print the answer to each line of stdin; return how many were refused."""
    refused = 0
    for question in read_questions():
        try:
            print(ask(question), flush=True)
        except RequestError as error:
            refused += 1
            command_line.fail(error)
    return refused


def read_questions():
    """Yield the lines of stdin as bytes, which need not be UTF-8; a person at a terminal sees a prompt."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        print(prompt, end="", flush=True)
        line = sys.stdin.buffer.readline()
        if not line:
            return
        yield line.rstrip(b"\r\n")


def opener(protocol):
    """Return `open(address, model_name, timeout_s, wait_s)`, a context manager that yields `ask(question)`."""
    if protocol == "grpc":
        # Imported here: TensorFlow takes seconds to load, and the other protocols do not need it.
        from examples.seq2seq.ask_grpc import open_grpc

        return open_grpc
    return {"flask": open_flask, "rest": open_rest}[protocol]


def main(argv=None):
    """Ask line by line until the input ends; return the exit status."""
    args = parse_arguments(argv)
    address = flags.server_address(args, PORTS[args.protocol])
    with contextlib.ExitStack() as stack:
        try:
            ask = stack.enter_context(opener(args.protocol)(address, args.model_name, args.timeout, args.wait))
        except RequestError as error:
            expected = f"expected a server of {args.model_name} there that speaks {args.protocol}"
            raise UserError(f"{error}; {expected}") from error
        return 1 if chat(ask) else 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--protocol", choices=sorted(PORTS), default="flask", help="how to ask")
    flags.add_server(parser, port_help="5000, gRPC 9000, REST 8501")
    parser.add_argument("--model_name", default="seq2seq", help="the name the model server gave the model")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
