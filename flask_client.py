"""Step 3, the other side: grade the Flask server on the test set over HTTP and JSON, and time it.

    python flask_client.py --data_dir data/mnist --port 5000 --num_tests 1000

The exit status is 0 only if every request was answered.
"""

import contextlib
import functools

import numpy as np

from rnn_serving import command_line, dataset
from rnn_serving.clients import flags, flask, http_json, load, report
from rnn_serving.dataset import IMAGE_SHAPE


@contextlib.contextmanager
def connect(url, timeout_s, image_shape=IMAGE_SHAPE, tls=None):
    """Yield `ask(images) -> probabilities`, float32 (n, 28, 28) to (n, 10), which raises RequestError.

    Images are sent in the shape (n, *image_shape).
    """
    # A session keeps its connection open: a new one for each request would cost as much as the model.
    with http_json.direct_session(tls) as session:

        def ask(images):
            # The request is {"data": [image, ...]}, the answer {"y": [[p0, ..., p9], ...]}.
            request = {"data": images.reshape(-1, *image_shape)}
            answer = http_json.post_json(session, url, request, timeout_s)
            try:
                return np.array(answer["y"], np.float32)
            except (ValueError, KeyError, TypeError) as error:
                raise load.RequestError(f"{url}: {str(answer)[:100]}; expected JSON with 'y'") from error

        yield ask


def main(argv=None):
    """Connect, send every image, report, and return the exit status."""
    args = parse_arguments(argv)
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    tls = flags.server_tls(args)
    url = f"{'https' if tls else 'http'}://{flags.server_address(args, port=5000)}/"
    model = flask.read_metadata(url, args.timeout, args.wait, tls)
    image_shape, name = flask.served_image_shape(url, model), dataset.dataset_name(args.data_dir)
    report.print_dataset_note(model.get("dataset"), name)
    open_connection = functools.partial(connect, url, args.timeout, image_shape, tls)
    measured = load.run_load(open_connection, test, args.batch_size, args.concurrency, args.retries)
    version, size = model.get("version"), len(test)
    result = report.make_report("flask", "HTTP/JSON", version, name, measured, size, args.concurrency, args.batch_size)
    return report.finish(result, args.json)


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    flags.add_flags(parser, port_help="5000")
    return parser.parse_args(argv)


if __name__ == "__main__":
    command_line.run(main)
