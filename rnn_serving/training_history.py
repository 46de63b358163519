"""The history of a training run: a row for each printed line, as CSV and as a plot."""

import csv
import io
import sys

from rnn_serving import files
from rnn_serving.command_line import UserError, error_reason

COLUMNS = ("step", "loss", "training_accuracy", "learning_rate", "seconds", "testing_accuracy")


def read(path, last_step):
    """Return the rows of a history up to a step; training repeats the steps after it, so later rows are dropped.

    Raises: UserError if the file is damaged.
    """
    if not path.exists() or last_step == 0:
        return []
    with open(path, encoding="utf-8", newline="") as lines:
        try:
            rows = [_row(cells) for cells in csv.DictReader(lines)]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: damaged ({error}); expected what training wrote, delete it or --restart"
            ) from error
    return [row for row in rows if row["step"] <= last_step]


def _row(cells):
    """Return a row of numbers; the test accuracy is None where it was not measured, as in older histories."""
    numbers = {name: float(cells[name]) for name in COLUMNS if name != "testing_accuracy"}
    measured = cells.get("testing_accuracy")
    return numbers | {"step": int(numbers["step"]), "testing_accuracy": float(measured) if measured else None}


def write(path, rows):
    """Write the rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def plot(path, rows, testing_accuracy=None):
    """Draw loss and accuracies over the steps, and the accuracy on all test images; where that fails, print why."""
    try:
        _plot(path, rows, testing_accuracy)
    except OSError as error:  # of the file, or of the directory that matplotlib needs for its cache
        print(f"{path}: not drawn ({error_reason(error)})", file=sys.stderr)


def _plot(path, rows, testing_accuracy):
    # Imported here: matplotlib takes a second to load, which a mistyped flag should not have to wait for.
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(_STYLE):
        figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7, 5.5), layout="constrained")
        _draw(above, rows, "loss", "minibatch", _MINIBATCH)
        above.set(title="Loss", yscale="log")
        above.yaxis.set_major_formatter("{x:g}")
        _draw(below, rows, "training_accuracy", "minibatch", _MINIBATCH)
        _draw(below, rows, "testing_accuracy", "test, at most 1,000 images", _TEST)
        below.set(title="Accuracy", xlabel="step")
        below.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        if rows and testing_accuracy is not None:
            _mark_end(below, rows[-1]["step"], testing_accuracy)
        below.legend(loc="lower right", frameon=False)
        figure.savefig(path, dpi=150)
    plt.close(figure)


_MINIBATCH, _TEST = "#a9b4c0", "#1d5fd0"
_STYLE = {
    "axes.edgecolor": "#59626d",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "font.size": 10.5,
    "grid.color": "#dde1e6",
}


def _draw(axis, rows, column, label, colour):
    points = [(row["step"], row[column]) for row in rows if row[column] is not None]
    axis.plot(*(zip(*points) if points else ((), ())), color=colour, marker="o", markersize=3.5, label=label)


def _mark_end(axis, step, accuracy):
    """Mark the accuracy on all test images, with its figure."""
    axis.plot([step], [accuracy], "D", color=_TEST, markersize=6, label="all test images, at the end")
    axis.annotate(
        f"{100 * accuracy:.2f} %",
        (step, accuracy),
        (0, -8),
        textcoords="offset points",
        ha="right",
        va="top",
        color=_TEST,
    )
