"""Show where the time of one request goes, for each server: parts that add up to the whole, a table and stacked bars.

    python benchmarks/breakdown.py --data_dir data/mnist --model_path exports/mnist --json reports/breakdown.json

Asks for one image at a time by every route of benchmarks/routes.py. Starts and stops every server itself. Prints the
table; with --json writes it, and the bars beside it as .svg.
An answer that is missing, or is not the bare model's, is an error. Nothing else may run meanwhile.
"""

import contextlib
import logging
import multiprocessing
import time

import numpy as np
import requests
from figures import about, describe_run, in_turns
from routes import TIMEOUT_S, Answers, content, direct_session, open_model, open_routes
from tables import add_flags, as_svg, described, pyplot, report, with_quick
from tqdm import tqdm

from rnn_serving import command_line, dataset, processes
from rnn_serving.command_line import UserError

# TensorFlow is imported inside functions: the processes that `serving` starts import this script first.

PARTS = ("encode", "send and wait", "server's own work", "model call", "decode")
COLOURS = ("#0b8a96", "#c9ced6", "#1f6fd1", "#d6453d", "#b87900")
COLUMNS = ("server", *(f"{part}, ms" for part in PARTS), "whole, ms")
MODEL_CALL, WARM_UP_CALLS = "the bare model call", 20
NOTE = (
    "One caller, one image a request. Means over all requests of all rounds, because means add up. Encode and decode "
    "are the client's. Model call is the bare call of the same SavedModel, in this process. Server's own work is the "
    "rest of what the server's metrics say of a request (the article's server: its application); another way to call "
    "the model is part of it, and so is the model server behind the gateway. Send and wait is the rest of the round "
    "trip: the client's HTTP or gRPC library, the connection, and what a server does outside of what its metrics time."
)


def main(argv=None):
    """Measure, report, and return the exit status."""
    args = parse_arguments(argv)
    processes.end_on_sigterm()
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    conditions = describe_run(args, test)
    with contextlib.ExitStack() as stack:
        base, model = open_model(stack, args.model_path)
        article_url = stack.enter_context(serving(serve_timed_article, str(base)))
        routes = open_routes(stack, base, article_url)
        parts = measure(args, routes, Answers(model, test.images))
    title, rows = "Where the time of one request goes", table_rows(parts)
    report(
        described(title, COLUMNS, rows, f"{NOTE} {about(conditions)}", conditions), args.json, lambda: bars(rows, title)
    )
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    add_flags(parser, rounds=10, num_tests=200)
    return with_quick(parser.parse_args(argv))


@contextlib.contextmanager
def serving(serve, *arguments):
    """Run `serve(*arguments, port)` in a process of its own until the body ends; the value is its URL.

    Raises: UserError if the process ends before it answers, or does not answer for too long.
    """
    port = processes.free_port()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(*arguments, port), daemon=True)
    process.start()
    try:
        wait_until_there(process, f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.join(processes.STOP_LIMIT_S)
        process.kill()


def wait_until_there(process, url):
    """Return once a process answers anything at a URL; raise UserError if it does not."""
    deadline = time.monotonic() + processes.START_LIMIT_S
    with direct_session() as session:
        while process.is_alive() and time.monotonic() < deadline:
            with contextlib.suppress(requests.RequestException):
                session.get(url, timeout=processes.START_LIMIT_S)
                return
            time.sleep(processes.ASK_AGAIN_S)
    raise UserError(f"{url}: no answer; expected a server there")


def serve_timed_article(base, port):
    """Serve as article_flask_server.py does, and tell at /metrics what its application took."""
    import article_flask_server
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    app = article_flask_server.create_app(*article_flask_server.load_model(base))
    # What app.run does, without its banner.
    run_simple("127.0.0.1", port, TimedApplication(app), threaded=True)


class TimedApplication:
    """A WSGI application whose requests, of one caller, are timed; GET /metrics answers as the Flask endpoint does."""

    def __init__(self, application):
        self._application, self._spent = application, {"sum": 0.0, "count": 0}

    def __call__(self, environ, start_response):
        """Answer one request."""
        if environ["PATH_INFO"] == "/metrics":
            start_response("200 OK", [("Content-Type", "text/plain")])
            lines = (f'flask_request_seconds_{name}{{path="/"}} {value}\n' for name, value in self._spent.items())
            return ["".join(lines).encode()]
        began = time.perf_counter()
        answer = list(self._application(environ, start_response))
        self._spent["sum"] += time.perf_counter() - began
        self._spent["count"] += 1
        return answer


def measure(args, routes, answers):
    """Return {name of the route: {part: milliseconds}}, means over all rounds."""
    for route in routes:
        ask_all(route, answers, answers.batches(1)[:WARM_UP_CALLS])
    with tqdm(total=args.rounds * (1 + len(routes)), unit="turn", disable=None) as bar:

        def turn(measurement, *arguments):
            bar.update()
            return measurement(*arguments)

        measurements = {MODEL_CALL: lambda: turn(model_call_s, answers)}
        measurements |= {route.name: lambda of=route: turn(one_turn, of, answers) for route in routes}
        turns = in_turns(args.rounds, measurements)
    model_s = np.mean(turns.pop(MODEL_CALL))
    return {name: parts_of(*np.mean(seconds, axis=0), model_s) for name, seconds in turns.items()}


def model_call_s(answers):
    """Return the mean seconds of the bare model call of one image, after one that does not count."""
    batches = answers.batches(1)
    answers.call_model(batches[0][1])
    began = time.perf_counter()
    for _, images in batches:
        answers.call_model(images)
    return (time.perf_counter() - began) / len(batches)


def one_turn(route, answers):
    """Ask for every image once; return the mean seconds to encode, of the round trip, to decode, and of the server.

    Raises: UserError if the server's metrics know of other requests.
    """
    before = server_time(metrics_of(route))
    moments = ask_all(route, answers, answers.batches(1))
    seconds, count = np.subtract(server_time(metrics_of(route)), before)
    if count != len(moments):
        raise UserError(f"{route.name}: its metrics count {count:g} requests; expected {len(moments)}")
    return *np.diff(moments, axis=1).mean(axis=0), seconds / count


def ask_all(route, answers, batches):
    """Return the moments, float64 (n, 4), of a request for each of n batches, once all answers have been checked."""
    asked = [route.ask(images) for _, images in batches]
    for (indexes, _), (scores, _) in zip(batches, asked):
        answers.check(route.name, route.kind, indexes, scores)
    return np.array([moments for _, moments in asked])


def metrics_of(route):
    """Return the page with the metrics of a route's server."""
    with direct_session() as session:
        return content(session.get(route.metrics_url, timeout=TIMEOUT_S)).decode()


def server_time(page):
    """Return (seconds, requests) of all predictions so far, of a Flask endpoint or a model server."""
    # The endpoint's are in seconds, TensorFlow Serving's in microseconds; a page has one of the two.
    flask_s, flask_count = (samples(page, f'flask_request_seconds_{what}{{path="/"}}') for what in ("sum", "count"))
    model_us, model_count = (
        samples(page, f":tensorflow:serving:request_latency_{what}{{") for what in ("sum", "count")
    )
    return flask_s + model_us / 1e6, flask_count + model_count


def samples(page, prefix):
    """Return the sum of the samples on a page of Prometheus's text format that begin with a prefix."""
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(prefix))


def parts_of(encode_s, round_trip_s, decode_s, server_s, model_s):
    """Return {part: milliseconds}, which add up to the first three, from seconds.

    A server that says less than the bare call took at other moments has no work of its own.
    """
    model_s = min(model_s, server_s)
    seconds = (encode_s, round_trip_s - server_s, server_s - model_s, model_s, decode_s)
    return {part: 1000 * float(value) for part, value in zip(PARTS, seconds)}


def table_rows(measured):
    """Return a row for each route, its name, the parts and their sum, in milliseconds with four decimals."""
    rows = []
    for name, parts in measured.items():
        shown = [round(parts[part], 4) for part in PARTS]
        rows.append([name, *shown, round(sum(shown), 4)])
    return rows


def bars(rows, title):
    """Return the rows as stacked bars, an SVG."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(9, 1.6 + 0.45 * len(rows)), layout="constrained")
    names, ends = [row[0] for row in rows], np.zeros(len(rows))
    for number, (part, colour) in enumerate(zip(PARTS, COLOURS), start=1):
        widths = np.array([row[number] for row in rows])
        axis.barh(names, widths, left=ends, color=colour, label=part)
        ends += widths
    for name, whole in zip(names, ends):
        axis.annotate(f"{whole:.2f}", (whole, name), xytext=(4, 0), textcoords="offset points", va="center")
    axis.set(title=title, xlabel="milliseconds", xlim=(0, 1.08 * ends.max()))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(PARTS), frameon=False)
    return as_svg(plt, figure)


if __name__ == "__main__":
    command_line.run(main)
