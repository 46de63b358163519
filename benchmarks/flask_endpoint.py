"""Measure the Flask endpoint: against the article's Flask server and the bare model call.

    python -m benchmarks.flask_endpoint --data_dir data/mnist --model_path exports/mnist

Starts and stops every server itself. The load comes from wrk if it is installed, else from this project's own
generator. What is compared takes turns within each round; a figure is the median over the rounds, a ratio the median of
the rounds' ratios. A missed target is shown and is not an error; an answer that is missing or wrong is an error.
Run nothing else in the meantime: it would not slow both sides of a ratio alike.
"""

import contextlib
import time

from benchmarks import conditions, figures, http_load, protocols, server_processes
from benchmarks.answers import are_close
from benchmarks.figures import Figure
from benchmarks.many_images import many_images_figures, repeat_images
from benchmarks.rounds import in_turns, ratios
from benchmarks.server_times import read_metrics, sum_of_samples
from rnn_serving import command_line, dataset
from rnn_serving.clients.http_json import direct_session
from rnn_serving.command_line import UserError

# TensorFlow is imported inside functions: the process of the load generator imports this module as well.

MANY_CALLERS = 32
# Seconds: a turn of load, and the load before it that does not count, in which the other server finishes its work.
TURN_S, WARM_UP_S = 4.0, 1.0
# By callers and quantity, the bound of the ratio of the endpoint to the article's server.
TARGETS = {
    (1, "p50_ms"): {"at_most": 0.7},
    (MANY_CALLERS, "throughput_rps"): {"at_least": 5},
    (MANY_CALLERS, "p99_ms"): {"at_most": 0.33},
}


def main(argv=None):
    """Measure, print the table, and return the exit status."""
    args = parse_arguments(argv)
    server_processes.end_on_sigterm()
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    run = conditions.describe_requests(args, test) | {"workers": args.workers, "load": http_load.program()}
    with contextlib.ExitStack() as stack:
        measured = measure(args, stack, test)
    figures.report(f"{conditions.about_requests(run)} Load from {run['load']}.", measured, run, args.json)
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    figures.add_flags(parser)
    parser.add_argument("--workers", type=command_line.positive_int, default=2, help="workers of the endpoint")
    parser.add_argument(
        "--num_requests", type=command_line.positive_int, default=100_000, help="requests between memory readings"
    )
    return parser.parse_args(argv)


def measure(args, stack, test):
    """Return all figures; `stack`, an ExitStack, stops the endpoint and the load."""
    bodies = [protocols.to_flask_request(image) for image in test.images]
    load = stack.enter_context(http_load.open_load(bodies))
    began = time.monotonic()
    endpoint = server_processes.FlaskServer(args.model_path, "--workers", str(args.workers))
    url = stack.enter_context(endpoint)
    measured = [Figure.of("start-up of the endpoint, s", [time.monotonic() - began])]
    with server_processes.ArticleServer(args.model_path) as article_url:
        check_answers(url, article_url, bodies)
        urls = {"article's server": article_url, "the endpoint": url}
        for callers in (1, MANY_CALLERS):
            measured += load_figures(args, load, urls, callers)
    measured += measure_many_images(args, url, test)
    measured += measure_memory(args, load, url, endpoint)
    return measured


def check_answers(url, other_url, bodies):
    """Raise UserError unless both servers answer the same probabilities to every image."""
    for number, body in enumerate(bodies):
        mine, its = (protocols.from_flask_response(protocols.post_once(of, body)) for of in (url, other_url))
        if not are_close("probabilities", mine, its):
            raise UserError(f"image {number}: {url} and {other_url} differ; expected the same probabilities")


def load_figures(args, load, urls, callers):
    """Return the figures of a number of callers: of each server, and the ratios of the endpoint to the article's."""

    def turn(url):
        load.run(url, callers, WARM_UP_S)
        return load.run(url, callers, TURN_S)

    speeds = in_turns(args.rounds, {name: lambda of=url: turn(of) for name, url in urls.items()})
    title, found = f"{callers} caller{'s' if callers > 1 else ''}", []
    for what, unit in (("throughput_rps", "requests/s"), ("p50_ms", "p50, ms"), ("p99_ms", "p99, ms")):
        values = {name: [getattr(speed, what) for speed in runs] for name, runs in speeds.items()}
        found += [Figure.of(f"{title}: {name}, {unit}", of) for name, of in values.items()]
        article, endpoint = values.values()
        bounds = TARGETS.get((callers, what), {})
        found.append(Figure.of(f"{title}: {unit}, endpoint / article's", ratios(endpoint, article), **bounds))
    return found


def measure_many_images(args, url, test):
    """Return the figures of one request with many images, and of the model call alone in this process."""
    from rnn_serving.saved_model import ServedModel

    images = repeat_images(test)
    body = protocols.to_flask_request(images)
    with direct_session() as session, ServedModel(args.model_path) as model:
        [key] = model.signature.inputs
        return many_images_figures(
            args.rounds,
            "the endpoint",
            lambda: protocols.post(session, url, body),
            lambda: model.predict({key: images}),
            at_most=3,
        )


def measure_memory(args, load, url, endpoint):
    """Return the memory of the largest worker, before and after many requests."""
    before = endpoint.worker_memory_mib()
    sent, began = 0, answered_requests(url)
    while sent < args.num_requests:
        load.run(url, MANY_CALLERS, TURN_S)
        sent = answered_requests(url) - began
    after = endpoint.worker_memory_mib()
    return [
        Figure.of("memory of a worker, MiB", [before]),
        Figure.of(f"memory of a worker after {args.num_requests:,} more requests, MiB", [after]),
        Figure.of("memory after / before", [after / before], at_most=1.02),
    ]


def answered_requests(url):
    """Return how many predictions the endpoint's metrics count."""
    return sum_of_samples(read_metrics(url + "metrics"), 'flask_requests_total{path="/",status="200"}')


if __name__ == "__main__":
    command_line.run(main)
