"""What the training benchmark found: its aims, its tables and its curve."""

import math
import statistics
from pathlib import Path

from benchmarks import colours, plots
from benchmarks.markdown import markdown_table
from benchmarks.recipe_run import ACCURATE, ARTICLE, DEFAULT, RECIPES, THRESHOLDS

# Aims: the shares of the article's time in which the default recipe gets to an accuracy, and the accurate recipe's
# last accuracy.
TIME_AIMS, ACCURACY_AIM = {0.906: 1 / 20, 0.985: 1 / 4}, 0.993
# Of the curve, the article's recipe as grey as its server. Percent, and points of text.
RECIPE_COLOURS = {ARTICLE: "#6b7280", DEFAULT: "#1d5fd0", ACCURATE: "#94527f"}
ACCURACY_TICKS = (10, 50, 70, 80, 90.6, 95, 98.5, 99, 99.3, 99.5, 99.9)
TEXT = 11


def evaluate_aims(runs):
    """Return the aims of the recipes that ran, each with whether it is met; a value of None means never."""
    of = {name: [run for run in runs if run.name == name] for name in RECIPES}
    aims = time_aims(of[ARTICLE][0], of[DEFAULT]) if of[ARTICLE] and of[DEFAULT] else []
    accuracies = [run.curve[-1].testing_accuracy for run in of[ACCURATE]]
    aims += [make_aim("accurate recipe: testing accuracy", accuracies, at_least=ACCURACY_AIM)] if accuracies else []
    return aims


def time_aims(article, runs):
    """Return the aims of the default recipe's time to an accuracy, as a share of the article's."""
    aims = []
    for accuracy, at_most in TIME_AIMS.items():
        points = [run.reached(accuracy) for run in runs]
        values = [point.seconds / article.seconds if point else math.inf for point in points]
        name = f"default recipe: time to {percent(accuracy)} / the article's {article.steps:,} steps"
        aims.append(make_aim(name, values, at_most=at_most))
    return aims


def make_aim(name, values, at_most=math.inf, at_least=-math.inf):
    """Return one aim; the measured value is the median over the seeds."""
    median = statistics.median(values)
    return {
        "name": name,
        "aim": f"at most {at_most}" if at_most < math.inf else f"at least {at_least}",
        "measured": finite(median),
        "values": [finite(value) for value in values],
        "met": at_least <= median <= at_most,
    }


def finite(value):
    """Return a value as JSON takes it: None for infinity."""
    return value if math.isfinite(value) else None


def runs_table(runs):
    """Return steps and seconds to each threshold, and where each run ended, as a Markdown table."""
    columns = ["recipe", "seed", *map(percent, THRESHOLDS), "all steps", "CPU s", "ends at"]
    rows = []
    for run in runs:
        last, reached = run.curve[-1], [position(run.reached(accuracy)) for accuracy in THRESHOLDS]
        end = percent(last.testing_accuracy, 2)
        rows.append([run.name, run.seed, *reached, position(last), f"{last.cpu_seconds:.0f}", end])
    return markdown_table(columns, rows)


def aims_table(aims):
    """Return the aims as a Markdown table."""
    rows = []
    for aim in aims:
        measured = share(aim["measured"]) + ("" if aim["met"] else " (missed)")
        rows.append([aim["name"], aim["aim"], measured, ", ".join(map(share, aim["values"]))])
    return markdown_table(["what", "aim", "median", "seeds"], rows)


def position(point):
    """Return the steps and seconds of a point."""
    return f"{point.step:,} steps, {point.seconds:.1f} s" if point else "never"


def share(value):
    """Return a fraction with four decimals: one test image of MNIST is one of the last."""
    return "never" if value is None else f"{value:.4f}"


def percent(fraction, decimals=1):
    """Return a fraction in per cent: 90.6 %."""
    return f"{100 * fraction:.{decimals}f} %"


def plot(runs, path):
    """Draw the test accuracy over the seconds of training: of each recipe the median of its seeds, and their range."""
    plt = plots.pyplot()
    light = [colours.TOKENS[name][0] for name in ("ink", "soft", "line")]
    with plt.rc_context(plots.settings(*light, TEXT)):
        figure, axis = plt.subplots(figsize=(8.8, 4.8), layout="constrained")
        ends = [_draw_recipe(axis, name, [run for run in runs if run.name == name]) for name in RECIPE_COLOURS]
        _label_axes(axis)
        plots.label_ends(axis, list(filter(None, ends)))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200)
    plt.close(figure)


def _draw_recipe(axis, name, runs):
    """Draw a recipe's line and band; return the end of its line, for its label, None if it did not run."""
    if not runs:
        return None
    points = list(zip(*(run.curve for run in runs)))
    seconds = [statistics.median(point.seconds for point in each) for each in points]
    shares = [sorted(wrong_percent(point) for point in each) for each in points]
    medians, colour = [statistics.median(each) for each in shares], RECIPE_COLOURS[name]
    axis.fill_between(
        seconds, [each[0] for each in shares], [each[-1] for each in shares], color=colour, alpha=0.2, lw=0
    )
    axis.plot(seconds, medians, color=colour, linewidth=1.8, marker="o" if len(seconds) == 1 else "")
    return seconds[-1], medians[-1], f"{name}, {100 - medians[-1]:.2f} %", colour


def wrong_percent(point):
    """Return the percentage of the test images classified wrong; all right is shown as a hundredth."""
    return max(0.01, 100 * (1 - point.testing_accuracy))


def _label_axes(axis):
    """Label the accuracies, whose axis is logarithmic in what is missing to 100 %."""
    axis.set(xscale="log", yscale="log", xlabel="seconds of training", title="Test accuracy")
    low, high = axis.get_ylim()
    ticks = [each for each in ACCURACY_TICKS if low <= 100 - each <= high]
    axis.set_yticks([100 - each for each in ticks], [f"{each:g} %" for each in ticks])
    axis.minorticks_off()
    axis.xaxis.set_major_formatter("{x:,g}")
    axis.invert_yaxis()
