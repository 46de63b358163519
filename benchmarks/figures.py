"""What the server benchmarks measure: figures, each with a bound that it should keep, as a table and as JSON."""

import statistics
from dataclasses import asdict, dataclass

from benchmarks.markdown import markdown_table
from rnn_serving import command_line, files
from rnn_serving.command_line import UserError


@dataclass
class Figure:
    """One row of the table: a value for each round, their summary, and the bound that it should keep, if any."""

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


def add_flags(parser):
    """Add the flags that the benchmarks with figures have in common."""
    command_line.add_data_dir(parser)
    add, positive_int = parser.add_argument, command_line.positive_int
    add("--model_path", default="exports/mnist", help="directory of versions, or one version")
    add("--rounds", type=positive_int, default=5, help="rounds of each measurement")
    add("--num_tests", type=positive_int, default=300, help="test images to send in a round")
    add("--json", metavar="FILE", help="write the figures there as well")


def check_errors(errors):
    """Raise UserError if there are any: figures that leave out failed requests would be too good."""
    if errors:
        raise UserError(f"{len(errors)} requests failed, the first with {errors[0]}; expected an answer to each")


def report(sentence, figures, conditions, json_file):
    """Print the figures below a sentence about them; write them and `conditions` to a file if one is named."""
    print(sentence, figures_table(figures), sep="\n\n")
    if json_file:
        files.write_json(json_file, conditions | {"figures": [asdict(figure) for figure in figures]})


def figures_table(figures):
    """Return the figures as a Markdown table; the spread is the smallest and the largest value of a round."""
    return markdown_table(("figure", "target", "measured", "spread", "rounds"), map(_row, figures))


def _row(figure):
    missed = " (missed)" if figure.met is False else ""
    spread = f"{_number(min(figure.values))} - {_number(max(figure.values))}"
    return figure.name, figure.target, _number(figure.measured) + missed, spread, len(figure.values)


def _number(value):
    """Return a number with two decimals, or none if it is 100 or more."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
