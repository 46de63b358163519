"""Measure in rounds in which all that is compared takes turns, so that the machine's noise reaches all alike."""

import statistics
import time

from tqdm import tqdm

# Of one call, in each round.
TIMED_CALLS = 40


def in_turns(rounds, measurements, with_progress=False):
    """Return {name: a value for each round} of {name: function}, the order reversed every other round.

    `with_progress` shows a progress bar on a terminal.
    """
    values = {name: [] for name in measurements}
    # disable=None: no bar if stderr is not a terminal.
    with tqdm(total=rounds * len(measurements), unit="turn", disable=None if with_progress else True) as bar:
        for turn in range(rounds):
            for name in measurements if turn % 2 == 0 else reversed(measurements):
                bar.update()
                values[name].append(measurements[name]())
    return values


def ratios(mine, its):
    """Return the ratio of two figures round by round."""
    return [one / other for one, other in zip(mine, its, strict=True)]


def median_call_ms(call):
    """Return the median time of a call in milliseconds, after a warm-up call."""
    call()
    times = []
    for _ in range(TIMED_CALLS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)
