"""What batches.py, breakdown.py and habits.py have in common: their flags, and how their tables are written."""

import io
from pathlib import Path

from rnn_serving import command_line, files

QUICK_ROUNDS, QUICK_NUM_TESTS = 2, 20


def add_flags(parser, rounds, num_tests):
    """Add the flags that batches.py, breakdown.py and habits.py have in common."""
    command_line.add_data_dir(parser)
    add, number = parser.add_argument, command_line.positive_int
    add("--model_path", default="exports/mnist", help="directory of versions, or one version")
    add("--rounds", type=number, default=rounds, help="rounds, in which all that is compared takes turns")
    add("--num_tests", type=number, default=num_tests, help="test images to ask")
    add("--quick", action="store_true", help="to try it out: few requests, figures of little meaning")
    add("--json", metavar="FILE", help="write the table there as well")


def with_quick(args):
    """Cut down what --quick shortens."""
    if args.quick:
        args.rounds, args.num_tests = min(args.rounds, QUICK_ROUNDS), min(args.num_tests, QUICK_NUM_TESTS)
    return args


def described(title, columns, rows, note, conditions):
    """Return a table in the form that scripts/compare_latency.py puts into its report."""
    result = {"title": title, "columns": list(columns), "rows": rows, "note": note}
    return result | {name: conditions[name] for name in ("machine", "versions")}


def report(result, json_file, draw=None):
    """Print a table and, if a file is named, write it there, with the picture that `draw()` returns beside it."""
    print(f"\n{result['note']}\n\n{markdown(result['columns'], result['rows'])}")
    if json_file:
        files.write_json(json_file, result)
        if draw:
            files.write_text(Path(json_file).with_suffix(".svg"), draw())


def markdown(columns, rows):
    """Return a Markdown table; a float is a time in milliseconds, shown to the microsecond."""
    texts = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, ["---"] * len(columns), *texts))


def pyplot():
    """Return matplotlib's pyplot, set up to write SVG whose text stays text."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9})
    return plt


def as_svg(plt, figure):
    """Return a figure as the text of an SVG, and close it."""
    written = io.StringIO()
    figure.savefig(written, format="svg", metadata={"Date": None})
    plt.close(figure)
    return written.getvalue()
