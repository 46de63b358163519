"""What the benchmarks measure: figures, by rounds that alternate, as a table."""

import os
import statistics
import time
from dataclasses import dataclass

from rnn_serving import dataset, environment
from rnn_serving.command_line import UserError

# Of one call, in each round.
TIMED_CALLS = 40


@dataclass
class Figure:
    """One row of the table: a value a round, what they are summed up to, and the bound it is to keep, if any."""

    name: str
    values: list
    measured: float
    target: str = ""
    met: bool | None = None

    @classmethod
    def of(cls, name, values, at_most=None, at_least=None, summary=statistics.median):
        """Return the figure of a list with a value for each round."""
        measured = float(summary(values))
        if at_most is not None:
            return cls(name, values, measured, f"at most {at_most}", measured <= at_most)
        if at_least is not None:
            return cls(name, values, measured, f"at least {at_least}", measured >= at_least)
        return cls(name, values, measured)


def ratios(mine, its):
    """Return the ratio of two figures round by round."""
    return [one / other for one, other in zip(mine, its, strict=True)]


def in_turns(rounds, measurements):
    """Return {name: a value for each round} of {name: function}, the order reversed every other round."""
    values = {name: [] for name in measurements}
    for turn in range(rounds):
        for name in measurements if turn % 2 == 0 else reversed(measurements):
            values[name].append(measurements[name]())
    return values


def median_call_ms(call):
    """Return the median time of a call in milliseconds, the first one left out."""
    call()
    times = []
    for _ in range(TIMED_CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def check_errors(errors):
    """Raise UserError if there are any: a figure without them would be too good."""
    if errors:
        raise UserError(f"{len(errors)} requests failed, the first with {errors[0]}; expected an answer to each")


def describe_run(args, test):
    """Return what the figures depend on; `load_average` of the last minute is other programs' at the start."""
    return {
        "dataset": dataset.dataset_name(args.data_dir),
        "num_tests": len(test),
        "rounds": args.rounds,
        "load_average": os.getloadavg()[0],
        "machine": environment.machine(),
        "versions": environment.versions(),
    }


def about(conditions):
    """Return one sentence on what was measured and where."""
    machine = conditions["machine"]
    return (
        f"Data set {conditions['dataset']}, {conditions['num_tests']} images a round, {conditions['rounds']} rounds; "
        f"{machine['cpu']}, {machine['cores']} cores, shared by servers and clients; "
        f"load average before the start {conditions['load_average']:.2f}."
    )


def markdown_table(figures):
    """Return the figures as one Markdown table; the spread is the smallest and the largest value of a round."""
    lines = ["| figure | target | measured | spread | rounds |", "| --- | --- | --- | --- | --- |"]
    for figure in figures:
        missed = " (missed)" if figure.met is False else ""
        spread = f"{number(min(figure.values))} - {number(max(figure.values))}"
        cells = (figure.name, figure.target, number(figure.measured) + missed, spread, len(figure.values))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def number(value):
    """Return a number with two decimals, without any from 100 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
