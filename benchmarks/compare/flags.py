"""The flags of the comparison."""

import argparse

from benchmarks.compare.sources import SERVERS
from benchmarks.protocols import MODEL_NAME
from rnn_serving import command_line, tls
from rnn_serving.addresses import host_and_port, http_url

# What a run uses for flags that are not given; --quick divides its seconds among its turns.
FULL = {"concurrency": [1, 2, 4, 8, 16, 32, 64], "rate": [100.0, 200.0, 400.0, 800.0], "rounds": 5, "duration": 1.5}
QUICK = {"concurrency": [1, 8, 32], "rate": [], "rounds": 3, "duration": None}
QUICK_S, QUICK_NUM_TESTS = 27.0, 200


def add_flags(parser):
    """Add all flags."""
    command_line.add_data_dir(parser)
    add, positive_int, positive_float = parser.add_argument, command_line.positive_int, command_line.positive_float
    add("--model_path", default="exports/mnist", help="directory of the versions, or one version, to serve")
    add("--model_name", default=MODEL_NAME, help="the name that the model servers give the model")
    add("--servers", type=names_of(SERVERS), help="which to measure, separated by commas (default: all)")
    add("--flask", metavar="URL", type=http_url, help="a Flask server that runs already (default: start two)")
    add("--tfserving", metavar="HOST:PORT", type=host_and_port, help="a model server that runs already, its gRPC port")
    add("--tfserving_rest", metavar="HOST:PORT", type=host_and_port, help="the REST port of --tfserving, if it has one")
    tls.add_flags(parser)
    add("--threads", type=positive_int, help="threads of a server's model calls (default: one a core)")
    add("--num_tests", type=positive_int, help="images sent in turn (default: all, at most 1,000)")
    add("--concurrency", type=numbers_of(positive_int), help=f"callers {default_of('concurrency')}")
    add("--rate", type=numbers_of(rate), help=f"open loop, requests/s; 0 for none {default_of('rate')}")
    add("--rounds", type=positive_int, help=f"rounds, in which servers alternate {default_of('rounds')}")
    add("--duration", type=positive_float, help=f"seconds of a turn {default_of('duration')}")
    add("--quick", action="store_true", help=f"measure for {QUICK_S:.0f} s, with {QUICK_NUM_TESTS} images")
    add("--timeout", type=positive_float, default=10.0, help="seconds one answer may take")
    add("--baseline", metavar="FILE", help="latency.json of an earlier run, to show which ratios moved since")
    add("--reports_dir", default="reports", help="where latency.html, .json, .md and .png go")


def with_defaults(args):
    """Return the flags with a value for each that was not given."""
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    args.rate = [each for each in args.rate if each]
    args.servers = args.servers or SERVERS
    return args


def default_of(name):
    """Return the default of a flag as its help shows it."""
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
    """Parse requests per second; 0 means none."""
    return 0.0 if text == "0" else command_line.positive_float(text)
