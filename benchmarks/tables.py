"""What batches, breakdown and choices have in common: flags, preparation, and how their tables are written."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from benchmarks import conditions, server_processes
from benchmarks.answers import Answers, open_model
from benchmarks.markdown import markdown_table
from rnn_serving import command_line, dataset, files

QUICK_ROUNDS, QUICK_NUM_TESTS = 2, 20


def parse_arguments(argv, doc, rounds, num_tests, add_flags=lambda parser: None):
    """Return the parsed flags of a benchmark with a docstring and defaults; exit with status 2 if one is invalid.

    `add_flags(parser)` adds those that only this benchmark has.
    """
    parser = command_line.parser(doc)
    command_line.add_data_dir(parser)
    add, positive_int = parser.add_argument, command_line.positive_int
    add("--model_path", default="exports/mnist", help="directory of versions, or one version")
    add("--rounds", type=positive_int, default=rounds, help="rounds, in which all that is compared takes turns")
    add("--num_tests", type=positive_int, default=num_tests, help="test images to send")
    add("--quick", action="store_true", help="to try it out: few requests, figures of little meaning")
    add("--json", metavar="FILE", help="write the table there as well")
    add_flags(parser)
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.num_tests = min(args.rounds, QUICK_ROUNDS), min(args.num_tests, QUICK_NUM_TESTS)
    return args


@dataclass(frozen=True)
class Bench:
    """What a benchmark measures with: the model, its answers to the test images, and what the figures depend on.

    `stack`, an ExitStack, stops the servers; `base` is a directory of versions that holds the model alone.
    """

    stack: contextlib.ExitStack
    base: Path
    model: object
    answers: Answers
    conditions: dict


@contextlib.contextmanager
def open_bench(args):
    """Yield the `Bench` that the flags describe; all of it is closed when the body ends, by SIGTERM too."""
    server_processes.end_on_sigterm()
    test = dataset.load_test_images(args.data_dir, args.num_tests)
    described = conditions.describe_requests(args, test)
    with contextlib.ExitStack() as stack:
        base, model = open_model(stack, args.model_path)
        yield Bench(stack, base, model, Answers(model, test.images), described)


def make_table(title, columns, rows, note, described):
    """Return a table in the form in which the comparison takes it into its report.

    `note` says how to read it; `described` are the conditions of the run.
    """
    note = f"{note} {conditions.about_requests(described)}"
    table = {"title": title, "columns": list(columns), "rows": rows, "note": note}
    return table | {name: described[name] for name in ("machine", "versions")}


def report(table, json_file, draw=None):
    """Print a table and, if a file is named, write it there, with the SVG that `draw()` returns beside it."""
    print(f"\n{table['note']}\n\n{markdown_table(table['columns'], map(_cells, table['rows']))}")
    if json_file:
        files.write_json(json_file, table)
        if draw:
            files.write_text(Path(json_file).with_suffix(".svg"), draw())


def _cells(row):
    """Return the cells of a row; a float is a time in milliseconds, shown to the microsecond."""
    return [f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row]
