"""Measure images per second for requests of 1 to 512 images, by every route, beside the bare model call: the limit.

    python -m benchmarks.batches --data_dir data/mnist --model_path exports/mnist --json reports/batches.json

The routes: the article's Flask server, the Flask endpoint with one worker, the Flask gateway, the model server over
REST and gRPC, and tensorflow_model_server if the machine has it (or TFSERVING says so). Starts and stops every server
itself. Prints the table; with --json writes it, and the curves beside it as .svg.
An answer that is missing, or differs from the bare model's, is an error. Run nothing else in the meantime.
"""

import statistics
import time

from benchmarks import plots, server_processes, table_pictures, tables
from benchmarks.rounds import in_turns, ratios
from benchmarks.routes import open_routes
from benchmarks.table_pictures import BARE
from rnn_serving import command_line

SIZES, QUICK_SIZES = [2**power for power in range(10)], [1, 32]
# Seconds a turn lasts, at least one request long.
TURN_S, QUICK_TURN_S = 0.25, 0.05
TITLE = "Images per second by the size of a request"
NOTE = (
    "Images per second of one caller, who encodes a request, waits for its answer and decodes it; in brackets, the "
    "share of the bare call of the same SavedModel in this process. Medians over the rounds, of the shares too. The "
    "Flask endpoint runs a large request in batches of 32, its default."
)


def main(argv=None):
    """Measure, report, and return the exit status."""
    args = parse_arguments(argv)
    with tables.open_bench(args) as bench:
        article_url = bench.stack.enter_context(server_processes.ArticleServer(bench.base))
        rates = measure(args, open_routes(bench.stack, bench.base, article_url), bench.answers)
    table = tables.make_table(TITLE, *rates_table(rates), NOTE, bench.conditions)
    tables.report(table, args.json, lambda: picture(table))
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    return tables.parse_arguments(argv, __doc__, rounds=3, num_tests=512)


def measure(args, routes, answers):
    """Return {name: {size: images per second, a value for each round}} of the bare model call and every route."""
    asks = {BARE: ("logits", answers.call_model)}
    asks |= {route.name: (route.kind, lambda images, of=route: of.ask(images)[0]) for route in routes}
    sizes, turn_s = (QUICK_SIZES, QUICK_TURN_S) if args.quick else (SIZES, TURN_S)
    batches = {size: answers.batches(size) for size in sizes}

    def turn(name, size):
        return images_per_second(name, *asks[name], answers, batches[size], turn_s)

    turns = {(name, size): lambda of=(name, size): turn(*of) for size in sizes for name in asks}
    rates = in_turns(args.rounds, turns, with_progress=True)
    return {name: {size: rates[name, size] for size in sizes} for name in asks}


def images_per_second(name, kind, ask, answers, batches, turn_s):
    """Send batches until a turn is over, after a warm-up batch; check the answers; return the rate."""
    ask(batches[0][1])
    asked, began = [], time.perf_counter()
    while (elapsed := time.perf_counter() - began) < turn_s:
        indexes, images = batches[len(asked) % len(batches)]
        asked.append((indexes, ask(images)))
    for indexes, scores in asked:
        answers.check(name, kind, indexes, scores)
    return sum(len(indexes) for indexes, _ in asked) / elapsed


def rates_table(rates):
    """Return (columns, rows): a row for each size, a column for the bare model call and each route."""
    rows = []
    for size, limits in rates[BARE].items():
        cells = []
        for name, by_size in rates.items():
            share = statistics.median(ratios(by_size[size], limits))
            rate = f"{statistics.median(by_size[size]):,.0f}"
            cells.append(rate if name == BARE else f"{rate} ({100 * share:.0f} %)")
        rows.append([size, *cells])
    return ["images a request", *rates], rows


def picture(table):
    """Return the rates over the sizes, on logarithmic axes, as an SVG."""
    return plots.standalone(table_pictures.batches(table))


if __name__ == "__main__":
    command_line.run(main)
