"""Measure images a second for requests of 1 to 512 images, by every route, beside the bare model call: the limit.

    python benchmarks/batches.py --data_dir data/mnist --model_path exports/mnist --json reports/batches.json

The routes: the article's Flask server, the Flask endpoint with one worker, the Flask gateway, the model server over
REST and gRPC, and tensorflow_model_server where the machine has it (or TFSERVING says). Starts and stops every server
itself. Prints the table; with --json writes it, and the curves beside it as .svg.
An answer that is missing, or is not the bare model's, is an error. Nothing else may run meanwhile.
"""

import contextlib
import statistics
import time

from figures import about, describe_run, in_turns, ratios
from routes import Answers, open_model, open_routes
from tables import add_flags, as_svg, described, pyplot, report, with_quick
from tqdm import tqdm

from rnn_serving import command_line, dataset, processes

SIZES, QUICK_SIZES = [2**power for power in range(10)], [1, 32]
# Seconds a turn lasts, at least one request long.
TURN_S, QUICK_TURN_S = 0.25, 0.05
BARE = "bare model call"
NOTE = (
    "Images a second of one caller, who encodes a request, waits for its answer and decodes it; in brackets, what part "
    "that is of the bare call of the same SavedModel in this process. Medians over the rounds, the parts' too. The "
    "Flask endpoint runs a large request in batches of 32, its default."
)


def main(argv=None):
    """Measure, report, and return the exit status."""
    args = parse_arguments(argv)
    processes.end_on_sigterm()
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    conditions = describe_run(args, test)
    with contextlib.ExitStack() as stack:
        base, model = open_model(stack, args.model_path)
        article_url = stack.enter_context(processes.ArticleServer(base))
        routes = open_routes(stack, base, article_url)
        rates = measure(args, routes, Answers(model, test.images))
    columns, rows = rates_table(rates)
    title = "Images a second by the size of a request"
    result = described(title, columns, rows, f"{NOTE} {about(conditions)}", conditions)
    report(result, args.json, lambda: curves(rates, title))
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    add_flags(parser, rounds=3, num_tests=512)
    return with_quick(parser.parse_args(argv))


def measure(args, routes, answers):
    """Return {name: {size: images a second, a value for each round}} of the bare model call and every route."""
    asks = {BARE: ("logits", answers.call_model)}
    asks |= {route.name: (route.kind, lambda images, of=route: of.ask(images)[0]) for route in routes}
    sizes, turn_s = (QUICK_SIZES, QUICK_TURN_S) if args.quick else (SIZES, TURN_S)
    batches = {size: answers.batches(size) for size in sizes}
    with tqdm(total=args.rounds * len(sizes) * len(asks), unit="turn", disable=None) as bar:

        def turn(name, size):
            bar.update()
            return images_per_second(name, *asks[name], answers, batches[size], turn_s)

        turns = {(name, size): lambda of=(name, size): turn(*of) for size in sizes for name in asks}
        rates = in_turns(args.rounds, turns)
    return {name: {size: rates[name, size] for size in sizes} for name in asks}


def images_per_second(name, kind, ask, answers, batches, turn_s):
    """Ask for batches until a turn is over, after one that does not count; check the answers; return the rate."""
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
            part = statistics.median(ratios(by_size[size], limits))
            rate = f"{statistics.median(by_size[size]):,.0f}"
            cells.append(rate if name == BARE else f"{rate} ({100 * part:.0f} %)")
        rows.append([size, *cells])
    return ["images a request", *rates], rows


def curves(rates, title):
    """Return the rates over the sizes, both by orders of magnitude, as an SVG."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(9, 5), layout="constrained")
    for name, by_size in rates.items():
        medians = [statistics.median(values) for values in by_size.values()]
        style = {"color": "black", "linestyle": "--"} if name == BARE else {"marker": "o", "markersize": 4}
        axis.plot(list(by_size), medians, linewidth=1.5, label=name, **style)
    axis.set(title=title, xlabel="images a request", ylabel="images a second")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(list(rates[BARE]), list(map(str, rates[BARE])))
    axis.yaxis.set_major_formatter("{x:,.0f}")
    axis.grid(color="#dddddd", linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    return as_svg(plt, figure)


if __name__ == "__main__":
    command_line.run(main)
