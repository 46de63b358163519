"""Measure every server at every load, in rounds in which they take turns."""

from tqdm import tqdm

from benchmarks.compare.flags import QUICK_S
from benchmarks.compare.rows import Point

# Load that does not count: before each turn, as a share of it, and seconds of it before the first.
WARM_UP_SHARE, FIRST_WARM_UP_S = 0.2, 0.5


def count_alive(servers):
    """Return how many servers there are to measure."""
    return sum(not server.failure for server in servers)


def quick_duration_s(turns):
    """Return the seconds of each of a number of turns that --quick has time for."""
    return QUICK_S / max(1, turns) / (1 + WARM_UP_SHARE)


def measure(generator, servers, points, args, duration_s):
    """Measure every server at every point in each round, in alternating order; return the exit status so far.

    It is not 0 if the run was cut short: what was measured until then is kept.
    """
    alive = [server for server in servers if not server.failure]
    ask = make_ask(generator, args, duration_s)
    with tqdm(total=args.rounds * len(points) * len(alive), desc="measuring", unit="turn", disable=None) as progress:
        try:
            for server in alive:
                ask(server, Point(concurrency=max(args.concurrency)), FIRST_WARM_UP_S)
            for turn in range(args.rounds):
                for point in points:
                    for server in alive if turn % 2 == 0 else reversed(alive):
                        progress.set_postfix_str(f"{server.server}, {point}")
                        take_turn(ask, server, point, turn, args.rounds)
                        progress.update()
        except KeyboardInterrupt:
            return 130
        except SystemExit as end:
            return end.code
    return 0


def make_ask(generator, args, duration_s):
    """Return a function `ask(server, point, seconds)` that returns a `load_process.RawLoad`."""

    def ask(server, point, seconds=duration_s, first=0):
        warm_up_s = WARM_UP_SHARE * seconds
        return generator.run(server.target, point.concurrency, seconds, point.rate, warm_up_s, args.timeout, first)

    return ask


def take_turn(ask, server, point, turn, rounds):
    """Measure a server that has not failed yet; one that gives no answer any more fails.

    Each round begins with another image, so that all rounds together send every image.
    """
    if server.failure:
        return
    load = ask(server, point, first=turn * server.grader.num_images // rounds)
    server.turns.setdefault(point, []).append(server.grader.grade(load, turn))
    # At a rate that is too high, a server may well refuse all; that does not mean that it is down.
    if load.errors and not load.answered and point.concurrency:
        server.failure = f"does not answer: {load.errors[-1]}"
