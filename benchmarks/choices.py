"""Measure what each choice costs: one is changed at a time, all else stays the same, and so does the answer.

    python -m benchmarks.choices --data_dir data/mnist --model_path exports/mnist --json reports/choices.json

The way to call the model, the server, connections, channels, JSON, how floats are written, and how many images share a
request. Starts and stops every server itself. Prints the table; with --json writes it as well.
An answer that is missing, or differs from the bare model's, is an error. Run nothing else in the meantime.
"""

import statistics
import time

from benchmarks import choice_groups, tables
from benchmarks.rounds import in_turns, ratios
from rnn_serving import command_line

# Seconds a turn lasts, at least one call long.
TURN_S, QUICK_TURN_S = 0.3, 0.05
TITLE = "What each choice costs"
COLUMNS = ("what", "choice", "ms an image", "costs, ms", "times as long", "spread", "rounds")
NOTE = (
    "Each choice against the last one of its group; nothing else differs between them. Milliseconds are medians over "
    "the rounds of a round's median; costs and times are medians of the rounds' differences and ratios, with the "
    "smallest and the largest ratio of a round. The model call and the floats (written and read) are measured within "
    "one process; the rest are whole requests of one caller, to one Flask application or to the model server. Both "
    "servers of the group are asked over a connection for each request, since the development server keeps none open."
)


def main(argv=None):
    """Measure, report, and return the exit status."""
    args = parse_arguments(argv)
    with tables.open_bench(args) as bench:
        choices = [
            *choice_groups.model_choices(bench.stack, bench.model),
            *choice_groups.flask_choices(bench.stack, bench.base),
            *choice_groups.grpc_choices(bench.stack, bench.base),
            *choice_groups.float_choices(),
        ]
        milliseconds = measure(args, choices, bench.answers)
    rows = table_rows(choices, milliseconds)
    tables.report(tables.make_table(TITLE, COLUMNS, rows, NOTE, bench.conditions), args.json)
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    return tables.parse_arguments(argv, __doc__, rounds=7, num_tests=256)


def measure(args, choices, answers):
    """Return, for each choice, the milliseconds an image of every round."""
    batches = {size: answers.batches(size) for size in {choice.size for choice in choices}}
    turn_s = QUICK_TURN_S if args.quick else TURN_S

    def turn(choice):
        return median_ms(choice, answers, batches[choice.size], turn_s)

    turns = {place: lambda of=choice: turn(of) for place, choice in enumerate(choices)}
    return list(in_turns(args.rounds, turns, with_progress=True).values())


def median_ms(choice, answers, batches, turn_s):
    """Send batches until a turn is over, after a warm-up batch; check the answers; return the median."""
    choice.ask(batches[0][1])
    asked, seconds, ends = [], [], time.perf_counter() + turn_s
    while not asked or time.perf_counter() < ends:
        indexes, images = batches[len(asked) % len(batches)]
        began = time.perf_counter()
        scores = choice.ask(images)
        seconds.append(time.perf_counter() - began)
        asked.append((indexes, scores))
    for indexes, scores in asked:
        answers.check(f"{choice.group}, {choice.name}", choice.kind, indexes, scores)
    return 1000 * statistics.median(seconds) / choice.size


def table_rows(choices, milliseconds):
    """Return a row for each choice: its group, name and time, and how it compares with the last one of its group."""
    last = {choice.group: values for choice, values in zip(choices, milliseconds)}
    rows = []
    for choice, values in zip(choices, milliseconds):
        row = [choice.group, choice.name, round(statistics.median(values), 4)]
        if values is last[choice.group]:
            rows.append([*row, "-", "1", "-", len(values)])
            continue
        compared = ratios(values, last[choice.group])
        costs = statistics.median(its - best for its, best in zip(values, last[choice.group]))
        spread = f"{min(compared):.2f} - {max(compared):.2f}"
        rows.append([*row, round(costs, 4), f"{statistics.median(compared):.2f}", spread, len(values)])
    return rows


if __name__ == "__main__":
    command_line.run(main)
