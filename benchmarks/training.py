"""Measure training: the article's recipe against ours, seconds and steps to a test accuracy, with the curve.

    python -m benchmarks.training --data_dir data/mnist

Every recipe is a command line of train_lstm.py, trained by its functions; all runs take turns, a fraction of each at a
time, so that other work on the machine slows them alike. The clocks stand still during evaluation. Seconds are a
recipe's own, CPU seconds those of all its threads. The article's recipe runs once, ours once for each seed; about
twenty minutes on two idle cores for three seeds. A missed aim is shown and is not an error.
"""

from tqdm import tqdm

from benchmarks import conditions
from benchmarks.recipe_run import ARTICLE, QUICK_DIVISOR, RECIPES, RecipeRun
from benchmarks.training_results import aims_table, evaluate_aims, plot, runs_table
from rnn_serving import command_line, dataset, files

QUICK_EVALUATIONS = 5


def main(argv=None):
    """Train in turns, print the tables, draw the curve and return the exit status."""
    args = parse_arguments(argv)
    data = dataset.load(args.data_dir)
    described = describe_training(args, data)
    runs = [RecipeRun(name, seed, args, data) for name, seed in chosen_runs(args)]
    take_turns(runs, args.evaluations)
    aims = evaluate_aims(runs)
    print(about_training(described), runs_table(runs), aims_table(aims), sep="\n\n")
    plot(runs, args.plot)
    if args.json:
        files.write_json(args.json, described | {"runs": [run.report() for run in runs], "aims": aims})
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    command_line.add_data_dir(parser)
    add, positive_int = parser.add_argument, command_line.positive_int
    add("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="recipes to train")
    add("--seeds", type=positive_int, default=3, help="runs of each recipe of ours")
    add("--evaluations", type=positive_int, default=60, help="points of each curve, evenly over the steps")
    add("--quick", action="store_true", help=f"to try it out: a {QUICK_DIVISOR}th of the steps, one seed")
    add("--plot", metavar="FILE", default="reports/training.png", help="where to draw the curve")
    add("--json", metavar="FILE", help="write tables and curves there as well")
    args = parser.parse_args(argv)
    if args.quick:
        args.seeds, args.evaluations = 1, QUICK_EVALUATIONS
    return args


def chosen_runs(args):
    """Return the runs to make: (recipe, seed)."""
    return [(name, seed) for name in args.recipes for seed in range(1 if name == ARTICLE else args.seeds)]


def take_turns(runs, evaluations):
    """Advance every run by the same fraction of its steps, again and again until all are done."""
    for turn in tqdm(range(1, evaluations + 1), unit="turn", disable=None):
        for run in runs:
            run.advance(max(1, run.steps * turn // evaluations))


def describe_training(args, data):
    """Return what the figures depend on."""
    size = {"name": data.name, "train": len(data.train), "test": len(data.test)}
    return conditions.describe_run(dataset=size, quick=args.quick, evaluations=args.evaluations)


def about_training(described):
    """Return one sentence on what was trained and where."""
    data = described["dataset"]
    quick = f"; --quick, a {QUICK_DIVISOR}th of each recipe's steps" if described["quick"] else ""
    what = (
        f"Data set {data['name']}, {data['train']:,} training and {data['test']:,} test images, graded "
        f"{described['evaluations']} times a run{quick}"
    )
    return conditions.about(what, described)


if __name__ == "__main__":
    command_line.run(main)
