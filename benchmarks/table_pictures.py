"""Draw the tables of breakdown, choices and batches from their columns and rows, as SVG in the theme of the page."""

from benchmarks import colours, plots
from benchmarks.bars import Bars

# Of batches.py: the column of the bare model call.
BARE = "bare model call"


def draw(name, table):
    """Return the SVG element of a benchmark's table, None if it has no picture.

    Raises: ValueError, TypeError, KeyError or IndexError if the table is not the benchmark's.
    """
    pictures = {"breakdown": breakdown, "choices": choices, "batches": batches}
    return pictures[name](table) if name in pictures and table["rows"] else None


def breakdown(table):
    """Return a bar for each server, made of the parts of a request: rows of the name, the parts and the whole."""
    parts = [column.removesuffix(", ms") for column in table["columns"][1:-1]]
    paints = [colours.part_variable(part) for part in parts]
    longest = max(row[-1] for row in table["rows"])
    bars = Bars()
    bars.legend(list(zip(parts, paints)))
    for name, *values, whole in table["rows"]:
        segments = [(100 * value / longest, paint) for value, paint in zip(values, paints)]
        bars.bar(name, segments, f"{whole:.2f} ms", colours.variable(name))
    return bars.svg(table["title"])


def choices(table):
    """Return an SVG for each group, whose longest bar has the whole width; the last choice is the one to keep."""
    groups = {}
    for group, choice, milliseconds, _, times, *_ in table["rows"]:
        groups.setdefault(group, []).append((choice.replace("`", ""), float(milliseconds), times))
    return "".join(_group(group, rows) for group, rows in groups.items())


def _group(group, rows):
    bars, longest = Bars(), max(milliseconds for _, milliseconds, _ in rows)
    bars.heading(group)
    for number, (choice, milliseconds, times) in enumerate(rows, start=1):
        is_kept = number == len(rows)
        segment = (100 * milliseconds / longest, f"var(--{'kept' if is_kept else 'other'})")
        bars.bar(choice, [segment], f"{milliseconds:.3g} ms", aside="" if is_kept else f"{times} times")
    return bars.svg(group)


def batches(table):
    """Return a line for each route, images per second over the images per request, and the limit of the bare call."""
    plt = plots.pyplot()
    sizes = [row[0] for row in table["rows"]]
    with plt.rc_context(plots.svg_settings("batches", size=9)):
        figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
        ends = []
        for column, name in enumerate(table["columns"][1:], start=1):
            rates = [float(str(row[column]).split(" ")[0].replace(",", "")) for row in table["rows"]]
            number, style = colours.style_of(name)
            colour, look = (plots.INK, "--") if name == BARE else (plots.SERIES.format(number), style.line)
            axis.plot(sizes, rates, look, color=colour, linewidth=1.6, marker="" if name == BARE else style.marker)
            ends.append((sizes[-1], rates[-1], "bare call" if name == BARE else style.short, colour))
        axis.set(xlabel="images per request", ylabel="images per second")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, list(map(str, sizes)))
        axis.minorticks_off()
        plots.plain_log(axis.yaxis, axis.set_yscale, form="{:,.0f}")
        plots.label_ends(axis, ends)
        return plots.themed(figure, "batches")
