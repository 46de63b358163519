"""Compare the servers: same model, same images, same thread limit, alternating rounds, every answer checked.

    python scripts/compare_latency.py --data_dir data/mnist --model_path exports/mnist
    python scripts/compare_latency.py --quick      # half a minute once the servers are up

Measures the article's Flask server, our Flask endpoint with one worker and with one per core, the Flask gateway, the
model server over REST and gRPC, and tensorflow_model_server where the machine has it. Starts and stops them, or takes
--flask URL and --tfserving HOST:PORT of servers that run already. Prints a table and writes latency.html, .json, .md
and .png. Exit status 0 only if every request got the answer of the model.
"""

import argparse
import contextlib
import os
import tempfile
import time
from pathlib import Path

import latency_exam
import latency_report
import latency_rows
import latency_servers
from latency_rows import Point
from tqdm import tqdm

from rnn_serving import command_line, dataset, environment, exports, processes
from rnn_serving.load_generator import LoadGenerator

# What a run takes where the flags do not say: --quick has its seconds shared out among its turns.
FULL = {"concurrency": [1, 2, 4, 8, 16, 32, 64], "rate": [100.0, 200.0, 400.0, 800.0], "rounds": 5, "duration": 1.5}
QUICK = {"concurrency": [1, 8, 32], "rate": [], "rounds": 3, "duration": None}
QUICK_S, QUICK_NUM_TESTS = 27.0, 200
# Load that does not count: before each turn, as a share of it, and seconds of it before the first.
WARM_UP_SHARE, FIRST_WARM_UP_S = 0.2, 0.5


def main(argv=None):
    """Measure, report, and return the exit status: 1 if a request went without its answer."""
    args = parse_arguments(argv)
    processes.end_on_sigterm()
    test = load_images(args)
    latency_report.check_writable(args.reports_dir)
    points = [Point(concurrency=number) for number in args.concurrency] + [Point(rate=rate) for rate in args.rate]
    result = describe_run(args, test)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latency-")))
        base = latency_servers.pinned(args.model_path, directory)
        exam = latency_exam.prepared(base, test)
        servers = latency_servers.open_servers(stack, args, base, exam)
        generator = stack.enter_context(LoadGenerator())
        result["duration_s"] = args.duration or shared_out(len(points) * args.rounds * count_alive(servers))
        result["load_average"] = {"before": os.getloadavg()}
        status = measure(generator, servers, points, args, result["duration_s"])
        result["load_average"]["after"] = os.getloadavg()
    rows = latency_rows.make_rows(servers, points, result["dataset"], len(test))
    result |= {"is_whole": not status, "model_version": exam.version, "servers": describe_servers(servers)}
    result |= {"finding": latency_rows.finding(rows), "rows": rows}
    latency_report.write(args.reports_dir, result)
    return status or failure_status(rows)


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    add = parser.add_argument
    add("--model_path", default="exports/mnist", help="directory of the versions, or one version, to serve")
    add("--servers", type=names_of(latency_servers.CHOICES), help="which to measure, by commas (default: all)")
    add("--flask", metavar="URL", help="a Flask server that runs already (default: start two)")
    add("--tfserving", metavar="HOST:PORT", type=host_and_port, help="a model server that runs already, its gRPC port")
    add("--tfserving_rest", metavar="HOST:PORT", type=host_and_port, help="the REST port of --tfserving, if it has one")
    add("--threads", type=command_line.positive_int, help="threads of a server's model calls (default: one a core)")
    add("--num_tests", type=command_line.positive_int, help="images asked in turn (default: all, but 1,000 at most)")
    add("--concurrency", type=numbers_of(command_line.positive_int), help=f"callers {default_of('concurrency')}")
    add("--rate", type=numbers_of(rate), help=f"open loop, requests/s; 0 for none {default_of('rate')}")
    add("--rounds", type=command_line.positive_int, help=f"rounds, in which servers alternate {default_of('rounds')}")
    add("--duration", type=command_line.positive_float, help=f"seconds of a turn {default_of('duration')}")
    add("--quick", action="store_true", help=f"measure for {QUICK_S:.0f} s, with {QUICK_NUM_TESTS} images")
    add("--timeout", type=command_line.positive_float, default=10.0, help="seconds one answer may take")
    add("--reports_dir", default="reports", help="where latency.html, .json, .md and .png go")
    return with_defaults(parser.parse_args(argv))


def with_defaults(args):
    """Fill in what the flags leave open."""
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.rate = [each for each in args.rate if each]
    args.servers = args.servers or latency_servers.CHOICES
    return args


def default_of(name):
    """Return what the help says of a default."""
    full, quick = (defaults[name] for defaults in (FULL, QUICK))
    of_list = [
        ",".join(f"{each:g}" for each in values) or "none" for values in (full, quick) if isinstance(values, list)
    ]
    full, quick = of_list or (full, quick or "as the time allows")
    return f"(default: {full}; quick: {quick})"


def names_of(choices):
    """Return a parser of names from `choices`, separated by commas."""

    def parse(text):
        names = text.split(",")
        if not set(names) <= set(choices):
            raise argparse.ArgumentTypeError(f"{text!r} is not of {', '.join(choices)}")
        return names

    return parse


def numbers_of(parse_one):
    """Return a parser of numbers separated by commas; each is kept once."""
    return lambda text: sorted({parse_one(part) for part in text.split(",")})


def rate(text):
    """Parse requests a second, 0 for none."""
    return 0.0 if text == "0" else command_line.positive_float(text)


def host_and_port(text):
    """Parse HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return text


def load_images(args):
    """Return the images to ask, few enough for each server to be asked all of them."""
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    return test.first(QUICK_NUM_TESTS) if args.quick and args.num_tests is None else test


def describe_run(args, test):
    """Return what the figures depend on."""
    return {
        "dataset": dataset.dataset_name(args.data_dir),
        "num_tests": len(test),
        "model": exports.provenance(exports.newest(args.model_path)).get("model"),
        "started_at": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "rounds": args.rounds,
        "concurrencies": args.concurrency,
        "rates_rps": args.rate,
        "threads": args.threads or environment.available_cores(),
        "timeout_s": args.timeout,
        "warm_up_share": WARM_UP_SHARE,
        "machine": environment.machine(),
        "versions": environment.versions() | cpp_server_version(args),
    }


def cpp_server_version(args):
    """Return {name: version} of the C++ server if it is going to be started."""
    how = None if args.tfserving else processes.cpp_server()
    is_wanted = how and latency_servers.CPP_SERVER in args.servers
    return {latency_servers.CPP_SERVER: processes.cpp_server_version(how)} if is_wanted else {}


def describe_servers(servers):
    """Return what was measured, how it was started and with how many threads a model call."""
    return [{name: getattr(each, name) for name in ("server", "protocol", "command", "threads")} for each in servers]


def count_alive(servers):
    """Return how many servers there are to measure."""
    return sum(not server.failure for server in servers)


def shared_out(turns):
    """Return the seconds of each of a number of turns that --quick has time for."""
    return QUICK_S / max(1, turns) / (1 + WARM_UP_SHARE)


def measure(generator, servers, points, args, duration_s):
    """Let every server have a turn at each point in each round, going first by turns; return the exit status so far.

    It is not 0 if the run was cut short: what was measured until then is kept.
    """
    alive = [server for server in servers if not server.failure]
    ask = generator_of(generator, args, duration_s)
    with tqdm(total=args.rounds * len(points) * len(alive), desc="measuring", unit="turn", disable=None) as progress:
        try:
            for server in alive:
                ask(server, Point(concurrency=max(args.concurrency)), FIRST_WARM_UP_S)
            for turn in range(args.rounds):
                for point in points:
                    for server in alive if turn % 2 == 0 else reversed(alive):
                        progress.set_postfix_str(f"{server.server}, {point}")
                        take_turn(ask, server, point, turn, args.rounds)
                        progress.update()
        except KeyboardInterrupt:
            return 130
        except SystemExit as end:
            return end.code
    return 0


def generator_of(generator, args, duration_s):
    """Return a function `ask(server, point, seconds)` that gives a `load_generator.Load`."""

    def ask(server, point, seconds=duration_s, first=0):
        warm_up_s = WARM_UP_SHARE * seconds
        return generator.run(server.target, point.concurrency, seconds, point.rate, warm_up_s, args.timeout, first)

    return ask


def take_turn(ask, server, point, turn, rounds):
    """Ask a server that has not failed yet; one that gives no answer any more has.

    Each round begins with another image, so that in all of them every image is asked.
    """
    if server.failure:
        return
    load = ask(server, point, first=turn * server.grader.num_images // rounds)
    server.turns.setdefault(point, []).append(server.grader.grade(load, turn))
    # At a rate that is too high, a server may well refuse all; that does not mean that it is down.
    if load.errors and not load.answered and point.concurrency:
        server.failure = f"does not answer: {load.errors[-1]}"


def failure_status(rows):
    """Return the exit status, and say what it is for."""
    wrong = [row for row in rows if latency_rows.is_wrong(row)]
    if not wrong:
        return 0
    errors, different = (sum(row[name] for row in wrong) for name in ("errors", "different"))
    for row in wrong:
        print(f"{latency_rows.label(row)}: {'; '.join(row['marks'])}")
    found = f"requests without an answer: {errors}, with a different one: {different}"
    return command_line.fail(f"{found}; expected the model's answer to each")


if __name__ == "__main__":
    command_line.run(main)
