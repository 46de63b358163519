"""Measure training: the article's recipe against ours, seconds and steps to a test accuracy, with the curve.

    python benchmarks/training.py --data_dir data/mnist

Every recipe is a command line of train_lstm.py, trained by its functions; all runs take turns, a fraction of each at a
time, so that whatever else the machine does slows them alike. The clocks stand still during evaluation. Seconds are a
recipe's own, CPU seconds those of all its threads. The article's recipe runs once, ours once for each seed; about
twenty minutes on two idle cores for three seeds. An aim that is missed is shown, not an error.
"""

import math
import os
import statistics
import tempfile
import time
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

import train_lstm
from rnn_serving import command_line, dataset, environment, files

RECIPES = {
    "article": "--optimizer sgd --learning_rate 0.001 --schedule constant --training_steps 10000 --output_init normal",
    "default": "",
    "accurate": "--training_steps 9000 --learning_rate 0.005 --augment",
}
ARTICLE, DEFAULT, ACCURATE = RECIPES
# Test accuracies to reach; the first is what the article reports after its 10,000 steps.
THRESHOLDS = (0.906, 0.985, 0.99)
# Aims: shares of the article's time in which the default recipe gets there, and the accurate recipe's last accuracy.
TIME_AIMS, ACCURACY_AIM = {0.906: 1 / 20, 0.985: 1 / 4}, 0.993
# --quick: what the steps of each recipe are divided by, and the evaluations.
QUICK_DIVISOR, QUICK_EVALUATIONS = 50, 5


def main(argv=None):
    """Train by turns, print the tables, draw the curve and return the exit status."""
    args = parse_arguments(argv)
    data = dataset.load(args.data_dir)
    conditions = describe_run(args, data)
    with tempfile.TemporaryDirectory(prefix="training-") as directory:
        runs = [Run(name, seed, args, data, directory) for name, seed in chosen(args)]
        take_turns(runs, args.evaluations)
    aims = judged(runs)
    print(about(conditions), runs_table(runs), aims_table(aims), sep="\n\n")
    plot(runs, args.plot)
    if args.json:
        files.write_json(args.json, conditions | {"runs": [run.report() for run in runs], "aims": aims})
    return 0


def parse_arguments(argv):
    """Return the parsed flags; a wrong one ends the process with status 2."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="which to train")
    parser.add_argument("--seeds", type=command_line.positive_int, default=3, help="runs of each recipe of ours")
    parser.add_argument(
        "--evaluations", type=command_line.positive_int, default=60, help="points of each curve, evenly over the steps"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"to try it out: a {QUICK_DIVISOR}th of the steps, one seed"
    )
    parser.add_argument("--plot", metavar="FILE", default="reports/training.png", help="where to draw the curve")
    parser.add_argument("--json", metavar="FILE", help="write tables and curves there as well")
    args = parser.parse_args(argv)
    if args.quick:
        args.seeds, args.evaluations = 1, QUICK_EVALUATIONS
    return args


def chosen(args):
    """Return the runs to make: (recipe, seed)."""
    return [(name, seed) for name in args.recipes for seed in range(1 if name == ARTICLE else args.seeds)]


@dataclass
class Point:
    """One point of a curve: where a run stands, and how much of the test set it reads right."""

    step: int
    seconds: float
    cpu_seconds: float
    testing_accuracy: float


class Run:
    """One recipe with one seed, the seconds that it has trained, and its curve so far."""

    def __init__(self, name, seed, args, data, directory):
        flags = [*RECIPES[name].split(), "--seed", str(seed), "--data_dir", args.data_dir]
        flags = train_lstm.parse_arguments(flags)
        if args.quick:
            flags.training_steps = max(args.evaluations, flags.training_steps // QUICK_DIVISOR)
        self.name, self.seed, self.steps, self.test = name, seed, flags.training_steps, data.test
        self.seconds = self.cpu_seconds = 0.0
        self.curve = []
        self._training = train_lstm.Training(flags, data.train, directory)

    def advance(self, last_step):
        """Train up to a step, the clocks running, then grade the model on the test set."""
        training, wall, cpu = self._training, time.perf_counter(), time.process_time()
        for step in range(int(training.step.numpy()) + 1, last_step + 1):
            training.train_step(*training.next_batch())
            training.step.assign(step)
        self.seconds += time.perf_counter() - wall
        self.cpu_seconds += time.process_time() - cpu
        self.curve.append(Point(last_step, self.seconds, self.cpu_seconds, self._testing_accuracy()))

    def _testing_accuracy(self):
        images, labels = self.test.images, self.test.labels
        batches = range(0, len(images), train_lstm.EVALUATION_BATCH)
        logits = [self._training.logits(images[start : start + train_lstm.EVALUATION_BATCH])[0] for start in batches]
        return float((np.concatenate(logits).argmax(axis=1) == labels).mean())

    def reached(self, accuracy):
        """Return the first point of the curve that has a test accuracy, None if none has."""
        return next((point for point in self.curve if point.testing_accuracy >= accuracy), None)

    def report(self):
        """Return the run as JSON takes it."""
        reached = {str(accuracy): self.reached(accuracy) for accuracy in THRESHOLDS}
        return {
            "recipe": self.name,
            "flags": RECIPES[self.name],
            "seed": self.seed,
            "testing_accuracy": self.curve[-1].testing_accuracy,
            "reached": {accuracy: point and vars(point) for accuracy, point in reached.items()},
            "curve": [vars(point) for point in self.curve],
        }


def take_turns(runs, evaluations):
    """Advance every run by the same fraction of its steps, again and again until all are through."""
    for turn in tqdm(range(1, evaluations + 1), unit="turn", disable=None):
        for run in runs:
            run.advance(max(1, run.steps * turn // evaluations))


def judged(runs):
    """Return what the aims are and whether they are met, for the recipes that ran; a value of None is "never"."""
    of = {name: [run for run in runs if run.name == name] for name in RECIPES}
    aims = []
    if of[ARTICLE]:
        article_s = of[ARTICLE][0].seconds
        for accuracy, share in TIME_AIMS.items():
            points = [run.reached(accuracy) for run in of[DEFAULT]]
            values = [point.seconds / article_s if point else math.inf for point in points]
            name = f"default recipe: time to {percent(accuracy)} / the article's {of[ARTICLE][0].steps:,} steps"
            aims += [aim(name, values, at_most=share)] if values else []
    accuracies = [run.curve[-1].testing_accuracy for run in of[ACCURATE]]
    aims += [aim("accurate recipe: testing accuracy", accuracies, at_least=ACCURACY_AIM)] if accuracies else []
    return aims


def aim(name, values, at_most=math.inf, at_least=-math.inf):
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
    header = ["recipe", "seed", *map(percent, THRESHOLDS), "all steps", "CPU s", "ends at"]
    rows = []
    for run in runs:
        last, reached = run.curve[-1], [position(run.reached(accuracy)) for accuracy in THRESHOLDS]
        end = percent(last.testing_accuracy, 2)
        rows.append([run.name, run.seed, *reached, position(last), f"{last.cpu_seconds:.0f}", end])
    return markdown(header, rows)


def aims_table(aims):
    """Return the aims as a Markdown table."""
    rows = []
    for one in aims:
        measured = share(one["measured"]) + ("" if one["met"] else " (missed)")
        rows.append([one["name"], one["aim"], measured, ", ".join(share(value) for value in one["values"])])
    return markdown(["what", "aim", "median", "seeds"], rows)


def markdown(header, rows):
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def position(point):
    """Return where a run was in steps and seconds."""
    return f"{point.step:,} steps, {point.seconds:.1f} s" if point else "never"


def share(value):
    """Return a fraction with four decimals: one test image of MNIST is one of the last."""
    return "never" if value is None else f"{value:.4f}"


def percent(fraction, decimals=1):
    """Return a fraction in per cent: 90.6 %."""
    return f"{100 * fraction:.{decimals}f} %"


def plot(runs, path):
    """Draw the share of the test set read wrong over the seconds of training, both by orders of magnitude."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import ticker

    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for run in runs:
        seconds, errors = zip(*((point.seconds, 100 * (1 - point.testing_accuracy)) for point in run.curve))
        color = f"C{list(RECIPES).index(run.name)}"
        axis.plot(seconds, errors, color=color, linewidth=1, label=run.name if run.seed == 0 else None)
    for accuracy in (*THRESHOLDS, ACCURACY_AIM):
        axis.axhline(100 * (1 - accuracy), color="grey", linestyle=":", linewidth=0.8)
        axis.annotate(percent(accuracy), (1.01, 100 * (1 - accuracy)), xycoords=("axes fraction", "data"), va="center")
    axis.set(xscale="log", yscale="log", xlabel="seconds of training", ylabel="test images read wrong, %")
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(ticker.FormatStrFormatter("%g"))
        one.set_minor_formatter(ticker.NullFormatter())
    axis.legend(title="recipe", loc="lower left")
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def describe_run(args, data):
    """Return what the figures depend on; `load_average` of the last minute is other programs' at the start."""
    return {
        "dataset": {"name": data.name, "train": len(data.train), "test": len(data.test)},
        "quick": args.quick,
        "evaluations": args.evaluations,
        "load_average": os.getloadavg()[0],
        "machine": environment.machine(),
        "versions": environment.versions(),
    }


def about(conditions):
    """Return one sentence on what was trained and where."""
    data, machine = conditions["dataset"], conditions["machine"]
    quick = f"; --quick, a {QUICK_DIVISOR}th of each recipe's steps" if conditions["quick"] else ""
    return (
        f"Data set {data['name']}, {data['train']:,} training and {data['test']:,} test images, graded "
        f"{conditions['evaluations']} times a run{quick}; {machine['cpu']}, {machine['cores']} cores; "
        f"load average before the start {conditions['load_average']:.2f}."
    )


if __name__ == "__main__":
    command_line.run(main)
