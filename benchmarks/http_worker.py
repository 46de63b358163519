"""Measure what each piece of the HTTP worker and of the lean application brings: with it and without it.

    python -m benchmarks.http_worker --data_dir data/mnist --model_path exports/mnist

Requests/s of one image from one caller, requests/s and p99 from many. For each piece the two servers take turns; a
ratio is the median of the rounds' ratios. A piece that brings under 5 % in all of them does not earn its place.
Run nothing else in the meantime.
"""

import statistics
import sys

from benchmarks import conditions, figures, http_load, protocols, server_processes
from benchmarks.markdown import markdown_table
from benchmarks.rounds import in_turns, ratios
from benchmarks.server_processes import FlaskServer
from benchmarks.worker_pieces import PIECES
from rnn_serving import command_line, dataset, files

FEW, MANY = 1, 32
# Seconds of a turn of load, and of the load before it that does not count.
TURN_S, WARM_UP_S = 2.0, 1.0
FIGURES = ((FEW, "throughput_rps", "requests/s"), (MANY, "throughput_rps", "requests/s"), (MANY, "p99_ms", "p99"))
COLUMNS = ("piece", *(f"{figure} at {callers}, with it / without (spread)" for callers, _, figure in FIGURES))


def main(argv=None):
    """Measure, print the table, and return the exit status."""
    args = parse_arguments(argv)
    server_processes.end_on_sigterm()
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    run = conditions.describe_requests(args, test) | {"workers": args.workers, "load": http_load.program()}
    bodies = [protocols.to_flask_request(image) for image in test.images]
    rows = []
    with http_load.open_load(bodies) as load, WorkerWithout("whole", args) as whole:
        for piece in args.pieces:
            with WorkerWithout(piece, args) as without:
                speeds = {callers: measure(args, load, whole, without, callers) for callers in (FEW, MANY)}
            rows.append([piece, *(with_spread(*speeds[callers], name) for callers, name, _ in FIGURES)])
            print(" | ".join(rows[-1]), flush=True)
    print(f"\n{conditions.about_requests(run)} {args.workers} workers, load from {run['load']}.")
    print(f"\n{markdown_table(COLUMNS, rows)}")
    if args.json:
        files.write_json(args.json, run | {"columns": COLUMNS, "rows": rows})
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    figures.add_flags(parser)
    parser.add_argument("--workers", type=command_line.positive_int, default=2, help="workers of each server")
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=list(PIECES), help="which pieces to measure")
    return parser.parse_args(argv)


class WorkerWithout(FlaskServer):
    """flask_server.py without a piece of its worker; the address is its URL."""

    def __init__(self, piece, args):
        super().__init__(args.model_path, "--workers", str(args.workers))
        flags = self._command[2:]
        self._command = [sys.executable, "-m", "benchmarks.worker_pieces", piece, *flags]


def measure(args, load, whole, without, callers):
    """Return two lists of `http_load.Speed`, an element for each round: with the piece and without it."""

    def turn(url):
        load.run(url, callers, WARM_UP_S)
        return load.run(url, callers, TURN_S)

    speeds = in_turns(args.rounds, {"with": lambda: turn(whole), "without": lambda: turn(without)})
    return speeds["with"], speeds["without"]


def with_spread(mine, its, name):
    """Return the median of the rounds' ratios of a figure and, in brackets, the smallest and the largest."""
    values = ratios(*([getattr(speed, name) for speed in speeds] for speeds in (mine, its)))
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


if __name__ == "__main__":
    command_line.run(main)
