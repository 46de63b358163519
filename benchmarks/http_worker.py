"""Measure what each piece of the HTTP worker and of the lean application brings: with it and without it.

    python -m benchmarks.http_worker --data_dir data/mnist --model_path exports/mnist

Requests/s of one image, from one caller and from many; for each piece the two servers take turns, and the ratio is the
median of the rounds' ratios. A piece that brings under 5 % at both loads does not earn its place.
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

CALLERS = (1, 32)
# Seconds of a turn of load, and of the load before it that does not count.
TURN_S, WARM_UP_S = 2.0, 1.0
COLUMNS = ("piece", *(f"requests/s at {callers} with / without it (spread)" for callers in CALLERS))


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
                measured = {callers: measure(args, load, whole, without, callers) for callers in CALLERS}
            rows.append([piece, *map(with_spread, measured.values())])
            print(" | ".join(rows[-1]), flush=True)
    print(f"\n{conditions.about_requests(run)} {args.workers} workers, load from {run['load']}.")
    print(f"\n{markdown_table(COLUMNS, rows)}")
    if args.json:
        files.write_json(args.json, run | {"columns": COLUMNS, "rows": rows})
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
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
    """Return the ratio of requests/s with the piece to those without it, a value for each round."""

    def turn(url):
        load.run(url, callers, WARM_UP_S)
        return load.run(url, callers, TURN_S).throughput_rps

    rates = in_turns(args.rounds, {"with": lambda: turn(whole), "without": lambda: turn(without)})
    return ratios(rates["with"], rates["without"])


def with_spread(values):
    """Return the median of the rounds' ratios and, in brackets, the smallest and the largest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} - {max(values):.2f})"


if __name__ == "__main__":
    command_line.run(main)
