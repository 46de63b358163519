"""Step 3, the other side: grade the Flask server on the test set, and time it.

    python flask_client.py --data_dir data/mnist --port 5000 --num_tests 1000

Exit status 0 only if every request was answered.
"""

import contextlib

import numpy as np
import requests

from rnn_serving import command_line, dataset, latency
from rnn_serving.command_line import UserError, request_failure
from rnn_serving.dataset import IMAGE_SHAPE
from rnn_serving.latency import RequestError


def main(argv=None):
    """Ask, report, and return the exit status."""
    args = parse_arguments(argv)
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    url = f"http://{latency.host_name(args.host)}:{args.port}/"
    model = metadata(url, args.timeout)
    form = image_form(url, model)
    load = latency.run_load(lambda: connect(url, args.timeout, form), test, args.batch_size, args.concurrency)
    report = latency.make_report(
        "flask",
        "HTTP/JSON",
        model.get("version"),
        dataset.dataset_name(args.data_dir),
        load,
        len(test),
        args.concurrency,
        args.batch_size,
    )
    return latency.finish(report, args.json)


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    latency.add_client_flags(parser, port=5000)
    return parser.parse_args(argv)


@contextlib.contextmanager
def connect(url, timeout_s, form=IMAGE_SHAPE):
    """Give a function `ask(images) -> probabilities` that keeps one connection open.

    `images` is float32 (n, 28, 28) and sent in the shape (n, *form), the answer an array (n, 10); it raises
    latency.RequestError.
    """
    with requests.Session() as session:
        session.trust_env = False  # no proxy stands between a client and a server on the same machine

        def ask(images):
            answer = latency.post_json(session, url, {"data": images.reshape(-1, *form)}, timeout_s)
            try:
                return np.array(answer["y"], np.float32)
            except (ValueError, KeyError, TypeError) as error:
                raise RequestError(f"{url}: {str(answer)[:100]}; expected JSON with 'y'") from error

        yield ask


def image_form(url, model):
    """Return the shape in which the server's model takes one image, (28, 28) if the server does not say.

    Raises: UserError if it takes no images.
    """
    try:
        ((key, info),) = model["signature"]["inputs"].items()
        # A number in JSON becomes a float of any size.
        dtype = "float32" if info["dtype"].startswith("float") else info["dtype"]
        shape = info["shape"] and tuple(info["shape"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return IMAGE_SHAPE
    try:
        return latency.image_form(key, dtype, shape)
    except UserError as error:
        raise UserError(f"{url}: model {model.get('model')} version {model.get('version')} {error}") from error


def metadata(url, timeout_s):
    """Return what the server says of its model, {} if it is another server that does not.

    Raises: UserError if there is no server, or one that has no model yet.
    """
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(url + "metadata", timeout=timeout_s)
    except (requests.RequestException, ValueError) as error:
        raise UserError(
            f"{url}: {request_failure(error)}; expected a server there, start one with python flask_server.py"
        ) from error
    if answer.status_code == 503:
        raise UserError(f"{url}: {latency.status_of(answer)}; expected a server that has loaded its model")
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if answer.ok and isinstance(found, dict) else {}


if __name__ == "__main__":
    command_line.run(main)
