"""Check the load generator: measure the same servers with tools that this project did not write.

    python -m benchmarks.cross_check --data_dir data/mnist --model_path exports/mnist
    python -m benchmarks.cross_check --quick      # to try it out: figures of little meaning

For what is installed: wrk (closed loop, HTTP), h2load (closed loop and open loop, gRPC), autocannon (open loop, HTTP).
The generator and the tool take turns at the same server with the same request, and arrivals in the open loop are those
of the tool. Prints the medians of both and the difference, the median of the rounds with the smallest and the largest;
those beyond 10 % are marked. Installing the tools: see benchmarks/outside_tools.py.
"""

import contextlib
import shutil
import statistics

from benchmarks import conditions, paired_loads, server_processes
from benchmarks.markdown import markdown_table
from benchmarks.rounds import in_turns
from rnn_serving import command_line, dataset, files
from rnn_serving.command_line import UserError

TOOLS = ("wrk", "h2load", "autocannon")
FULL = {"concurrency": (1, 8, 32), "rounds": 5, "duration": 4}
QUICK = {"concurrency": (8,), "rounds": 1, "duration": 2}
# The share from which on a difference is marked.
LIMIT = 0.1
FIGURES = (("requests/s", "throughput_rps"), ("p50, ms", "p50_ms"), ("p99, ms", "p99_ms"))
COLUMNS = ("server", "load", "tool", "figure", "load generator", "the tool", "difference")


def main(argv=None):
    """Measure in turns and print the differences; return the exit status."""
    args = parse_arguments(argv)
    server_processes.end_on_sigterm()
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        print(f"Not installed: {', '.join(missing)}")
    if len(missing) == len(TOOLS):
        raise UserError("there is no tool to check against; benchmarks/outside_tools.py says how to install one")
    image = dataset.load_test_images(args.data_dir, 1).images[0]
    described = conditions.describe_run(dataset=dataset.dataset_name(args.data_dir))
    with contextlib.ExitStack() as stack:
        pairs = paired_loads.make_pairs(stack, args, image)
        rows = measure(pairs, args.rounds)
    report(make_table(rows, args, described), args.json)
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    add, positive_int = parser.add_argument, command_line.positive_int
    add("--model_path", default="exports/mnist", help="directory of versions, or one version")
    add("--rounds", type=positive_int, help=f"rounds, in which both take turns (default: {FULL['rounds']})")
    add("--duration", type=positive_int, help=f"seconds of a turn (default: {FULL['duration']})")
    add("--quick", action="store_true", help="one short round, at one load in the closed loop")
    add("--json", metavar="FILE", help="write the table there as well")
    args = parser.parse_args(argv)
    defaults = QUICK if args.quick else FULL
    args.concurrency = defaults["concurrency"]
    args.rounds, args.duration = args.rounds or defaults["rounds"], args.duration or defaults["duration"]
    return args


def measure(pairs, rounds):
    """Return the rows of the table: for each check one for each figure."""
    turns = {(number, who): getattr(pair, who) for number, pair in enumerate(pairs) for who in ("own", "outside")}
    speeds = in_turns(rounds, turns, with_progress=True)
    rows = []
    for number, pair in enumerate(pairs):
        for shown, figure in FIGURES:
            own, outside = ([getattr(each, figure) for each in speeds[number, who]] for who in ("own", "outside"))
            rows.append([pair.server, pair.load, pair.tool, shown, *_compared(own, outside)])
    return rows


def _compared(own, outside):
    """Return the cells of a figure: both medians, and the difference as a share of the tool's."""
    shares = [mine / its - 1 for mine, its in zip(own, outside, strict=True) if its]
    medians = [f"{statistics.median(values):,.2f}" for values in (own, outside)]
    if not shares:
        return [*medians, "-"]
    share = statistics.median(shares)
    mark = f" (beyond {LIMIT:.0%})" if abs(share) > LIMIT else ""
    return [*medians, f"{share:+.0%} ({min(shares):+.0%} to {max(shares):+.0%}){mark}".replace("%", " %")]


def make_table(rows, args, described):
    """Return the table with what its figures depend on, in the form of the other benchmarks."""
    what = f"Data set {described['dataset']}, one image, {args.rounds} rounds of {args.duration} s"
    note = conditions.about(what, described, ", shared by servers and clients")
    table = {"title": "Cross-check of the load generator", "columns": list(COLUMNS), "rows": rows, "note": note}
    return table | {name: described[name] for name in ("machine", "versions")}


def report(table, json_file):
    """Print the table; write it to a file if one is named."""
    print(f"\n{table['note']}\n\n{markdown_table(table['columns'], table['rows'])}")
    if json_file:
        files.write_json(json_file, table)


if __name__ == "__main__":
    command_line.run(main)
