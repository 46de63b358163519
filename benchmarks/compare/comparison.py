"""Compare the servers: same model, same images, same thread limit, alternating rounds, every answer checked.

    python scripts/compare_latency.py --data_dir data/mnist --model_path exports/mnist
    python scripts/compare_latency.py --quick      # half a minute once the servers are up

Measures the article's Flask server, our Flask endpoint with one worker and with one per core, the Flask gateway, the
model server over REST and gRPC, and, if the machine has it, tensorflow_model_server without and with batching. Starts
and stops them, or takes --flask URL and --tfserving HOST:PORT of servers that run already. Prints a table and writes
latency.html, .json, .md and .png; with --baseline also the ratios that moved beyond their spreads since an earlier
latency.json. Exit status 0 only if every request got the answer of the model.
"""

import contextlib
import os
import tempfile
import time

from benchmarks import conditions, cpp_server, server_processes
from benchmarks.answers import copy_newest
from benchmarks.compare import baseline, expected_answers, flags, report, turns
from benchmarks.compare.finding import describe_finding
from benchmarks.compare.rows import Point, is_wrong, label, make_rows
from benchmarks.compare.servers import open_servers
from benchmarks.load_generator import LoadGenerator
from rnn_serving import command_line, dataset, environment, exports


def main(argv=None):
    """Measure, report, and return the exit status: 1 if a request had no answer or a wrong one."""
    args = parse_arguments(argv)
    server_processes.end_on_sigterm()
    test = load_images(args)
    earlier = baseline.read_report(args.baseline) if args.baseline else None
    report.check_writable(args.reports_dir)
    result = describe_comparison(args, test)
    status, servers, measured = measure(args, test)
    points = points_of(args)
    rows = make_rows(servers, points, result["dataset"], len(test))
    result |= measured | {"finding": describe_finding(rows), "rows": rows}
    if earlier:
        result["baseline"] = baseline.compare(earlier["rows"], rows)
    report.write(args.reports_dir, result)
    if earlier:
        print(baseline.describe(earlier, result))
    return status or failure_status(rows)


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    flags.add_flags(parser)
    return flags.with_defaults(parser.parse_args(argv))


def load_images(args):
    """Return the images to send, few enough for each server to be asked for all of them."""
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    return test.first(flags.QUICK_NUM_TESTS) if args.quick and args.num_tests is None else test


def points_of(args):
    """Return the loads to measure."""
    return [Point(concurrency=number) for number in args.concurrency] + [Point(rate=rate) for rate in args.rate]


def measure(args, test):
    """Open the servers and measure them; return (exit status, servers with their turns, what to report of the run)."""
    points = points_of(args)
    with contextlib.ExitStack() as stack:
        base = copy_newest(args.model_path, stack.enter_context(tempfile.TemporaryDirectory(prefix="latency-")))
        expected = expected_answers.prepare(base, test, args.model_name)
        servers = open_servers(stack, args, base, expected)
        generator = stack.enter_context(LoadGenerator())
        duration_s = args.duration or turns.quick_duration_s(len(points) * args.rounds * turns.count_alive(servers))
        before = os.getloadavg()
        status = turns.measure(generator, servers, points, args, duration_s)
        load_average = {"before": before, "after": os.getloadavg()}
    return (
        status,
        servers,
        {
            "duration_s": duration_s,
            "load_average": load_average,
            "is_whole": not status,
            "model_version": expected.version,
            "servers": [describe_server(server, base.parent) for server in servers],
        },
    )


def describe_comparison(args, test):
    """Return what the figures depend on."""
    result = conditions.describe_run(
        dataset=dataset.dataset_name(args.data_dir),
        num_tests=len(test),
        model=exports.provenance(exports.newest(args.model_path)).get("model"),
        started_at=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        rounds=args.rounds,
        concurrencies=args.concurrency,
        rates_rps=args.rate,
        threads=args.threads or environment.available_cores(),
        timeout_s=args.timeout,
        warm_up_share=turns.WARM_UP_SHARE,
        # Reports without it are of Python's gRPC client, which takes a part of a millisecond more for a call.
        grpc_client="benchmarks.grpc_connection",
    )
    return result | {"versions": result["versions"] | cpp_server_version(args)}


def cpp_server_version(args):
    """Return {name: version} of the C++ server if it is going to be started."""
    how = None if args.tfserving else cpp_server.find()
    is_wanted = how and {cpp_server.NAME, cpp_server.BATCHING} & set(args.servers)
    return {cpp_server.NAME: cpp_server.version(how)} if is_wanted else {}


def describe_server(server, directory):
    """Return what was measured, how it was started and with how many threads for a model call.

    The temporary directory of the model, which is gone afterwards, is called MODELS.
    """
    found = {name: getattr(server, name) for name in ("server", "protocol", "command", "threads", "settings")}
    return found | {"command": server.command.replace(str(directory), "MODELS")}


def failure_status(rows):
    """Return the exit status, and print what is wrong."""
    wrong = [row for row in rows if is_wrong(row)]
    if not wrong:
        return 0
    errors, different = (sum(row[name] for row in wrong) for name in ("errors", "different"))
    for row in wrong:
        print(f"{label(row)}: {'; '.join(row['marks'])}")
    found = f"requests without an answer: {errors}, with a different one: {different}"
    return command_line.fail(f"{found}; expected the model's answer to each")
