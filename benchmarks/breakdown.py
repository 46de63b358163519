"""Show where the time of one request goes, for each server: parts that add up to the whole, a table and stacked bars.

    python -m benchmarks.breakdown --data_dir data/mnist --model_path exports/mnist --json reports/breakdown.json

Sends one image at a time by every route of benchmarks/routes.py. Starts and stops every server itself. Prints the
table; with --json writes it, and the bars beside it as .svg.
An answer that is missing, or differs from the bare model's, is an error. Run nothing else in the meantime.
"""

import time

import numpy as np

from benchmarks import colours, plots, table_pictures, tables, timed_article_server
from benchmarks.function_server import serving
from benchmarks.rounds import in_turns
from benchmarks.routes import open_routes
from benchmarks.server_times import model_time, read_metrics, server_time
from rnn_serving import command_line
from rnn_serving.command_line import UserError

PARTS = tuple(colours.PARTS)
TITLE = "Where the time of one request goes"
COLUMNS = ("server", *(f"{part}, ms" for part in PARTS), "whole, ms")
MODEL_CALL, WARM_UP_CALLS = "the bare model call", 20
GATEWAY, BEHIND_GATEWAY = "Flask gateway", "rnn_serving.model_server"
# Pixels.
PICTURE_WIDTH = 720
NOTE = (
    "One caller, one image per request. Means over all requests of all rounds, because means add up. Encode and decode "
    "are the client's. Model call is what the server's own metrics give for it, of the gateway's those of the model "
    "server behind it; the Flask endpoint's have none, so that it is the bare call of the same SavedModel in this "
    "process, by the same code. Server's own work is the rest of the time that the server's metrics give for a request "
    "(the article's server: its application's time); the model server behind the gateway is part of it. Send and wait "
    "is the rest of the round trip: the client's HTTP or gRPC library, the connection, and what a server does outside "
    "of what its metrics time. A rest below zero would say that two clocks disagree."
)


def main(argv=None):
    """Measure, report, and return the exit status."""
    args = parse_arguments(argv)
    with tables.open_bench(args) as bench:
        article_url = bench.stack.enter_context(serving(timed_article_server.serve, str(bench.base)))
        rows = table_rows(measure(args, open_routes(bench.stack, bench.base, article_url), bench.answers))
    tables.report(tables.make_table(TITLE, COLUMNS, rows, NOTE, bench.conditions), args.json, lambda: picture(rows))
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    return tables.parse_arguments(argv, __doc__, rounds=10, num_tests=200)


def measure(args, routes, answers):
    """Return {name of the route: {part: milliseconds}}, means over all rounds."""
    for route in routes:
        ask_all(route, answers, answers.batches(1)[:WARM_UP_CALLS])
    measurements = {MODEL_CALL: lambda: model_call_s(answers)}
    urls = {route.name: model_metrics_url(route, routes) for route in routes}
    measurements |= {route.name: lambda of=route: take_turn(of, urls[of.name], answers) for route in routes}
    turns = in_turns(args.rounds, measurements, with_progress=True)
    bare_s = np.mean(turns.pop(MODEL_CALL))
    return {name: parts_of(*np.mean(seconds, axis=0), bare_s) for name, seconds in turns.items()}


def model_metrics_url(route, routes):
    """Return where the metrics are of the server that calls the model for a route."""
    calls_itself = route.name != GATEWAY
    return next(
        each.metrics_url for each in routes if (each is route if calls_itself else each.name.startswith(BEHIND_GATEWAY))
    )


def model_call_s(answers):
    """Return the mean seconds of the bare model call of one image, after a warm-up call."""
    batches = answers.batches(1)
    answers.call_model(batches[0][1])
    began = time.perf_counter()
    for _, images in batches:
        answers.call_model(images)
    return (time.perf_counter() - began) / len(batches)


def take_turn(route, model_url, answers):
    """Send every image once; return the mean seconds to encode, of the round trip, to decode, of server and model.

    Those of the model are NaN if the metrics at `model_url` do not have them.
    Raises: UserError if the metrics count other requests.
    """
    before = read_times(route.metrics_url, model_url)
    moments = ask_all(route, answers, answers.batches(1))
    spent = np.subtract(read_times(route.metrics_url, model_url), before)
    (server_s, requests), (model_s, calls) = spent
    if requests != len(moments) or calls not in (0, len(moments)):
        counted = f"{requests:g} requests and {calls:g} calls of the model"
        raise UserError(f"{route.name}: its metrics count {counted}; expected {len(moments)}")
    return *np.diff(moments, axis=1).mean(axis=0), server_s / requests, model_s / calls if calls else np.nan


def read_times(url, model_url):
    """Return ((seconds, requests), (seconds, calls of the model)) so far, by the metrics at two addresses."""
    return server_time(read_metrics(url)), model_time(read_metrics(model_url))


def ask_all(route, answers, batches):
    """Return the moments, float64 (n, 4), of a request for each of n batches, after checking all answers."""
    asked = [route.ask(images) for _, images in batches]
    for (indexes, _), (scores, _) in zip(batches, asked):
        answers.check(route.name, route.kind, indexes, scores)
    return np.array([moments for _, moments in asked])


def parts_of(encode_s, round_trip_s, decode_s, server_s, model_s, bare_s):
    """Return {part: milliseconds}, which add up to the first three, from seconds.

    Without the model's seconds, NaN, its part is the bare call.
    """
    model_s = bare_s if np.isnan(model_s) else model_s
    seconds = (encode_s, round_trip_s - server_s, server_s - model_s, model_s, decode_s)
    return {part: 1000 * float(value) for part, value in zip(PARTS, seconds)}


def table_rows(measured):
    """Return a row for each route: its name, the parts and their sum, in milliseconds with four decimals."""
    rows = []
    for name, parts in measured.items():
        shown = [round(parts[part], 4) for part in PARTS]
        rows.append([name, *shown, round(sum(shown), 4)])
    return rows


def picture(rows):
    """Return the rows as stacked bars, an SVG."""
    table = {"title": TITLE, "columns": COLUMNS, "rows": rows}
    return plots.standalone(table_pictures.breakdown(table), PICTURE_WIDTH)


if __name__ == "__main__":
    command_line.run(main)
