"""What measured figures depend on: the flags and the data, the machine, and what else it was doing."""

import os

from rnn_serving import dataset, environment


def describe_run(**own):
    """Return `own`, what one benchmark's figures depend on, with what those of every benchmark do.

    `load_average` is that of the minute before the start, from other programs.
    """
    return own | {
        "load_average": os.getloadavg()[0],
        "machine": environment.machine(),
        "versions": environment.versions(),
    }


def describe_requests(args, test):
    """Return what the figures of a benchmark depend on that sends the images of a `Split` in rounds."""
    return describe_run(dataset=dataset.dataset_name(args.data_dir), num_tests=len(test), rounds=args.rounds)


def about(what, conditions, sharing=""):
    """Return one sentence on what was measured and where; `sharing` says who shares the cores."""
    machine = conditions["machine"]
    return (
        f"{what}; {machine['cpu']}, {machine['cores']} cores{sharing}; "
        f"load average before the start {conditions['load_average']:.2f}."
    )


def about_requests(conditions):
    """Return one sentence on what `describe_requests` describes."""
    what = f"Data set {conditions['dataset']}, {conditions['num_tests']} images a round, {conditions['rounds']} rounds"
    return about(what, conditions, ", shared by servers and clients")
