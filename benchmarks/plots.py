"""matplotlib without a display, for SVG and PNG: lines that are labelled at their ends, in the reader's theme."""

import io
import re

from benchmarks import colours

# For SVG: text that stays text, and the same ids in every run.
SVG_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "benchmarks"}
# Stand-ins that matplotlib takes; in the SVG, CSS variables take their place.
INK, SOFT, LINE, SERIES = "#0a0b0c", "#0a0b0e", "#0a0b0d", "#ab00{:02d}"


def pyplot(settings=None):
    """Return matplotlib's pyplot, with settings of the style if any are given."""
    # Imported here: matplotlib takes a second to load, which a mistyped flag should not have to wait for.
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(settings or {})
    return plt


def settings(ink, soft, line, size):
    """Return the settings of all pictures: no frame, soft axes, text of a size in points."""
    found = dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), soft)
    found |= dict.fromkeys(("text.color", "axes.titlecolor"), ink)
    found |= dict.fromkeys(("axes.edgecolor", "grid.color"), line)
    found |= dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False)
    found |= dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0)
    found |= dict.fromkeys(("axes.grid", "axes.axisbelow"), True)
    found |= dict.fromkeys(("font.size", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"), size)
    title = {"axes.titlesize": size + 1, "axes.titleweight": "bold", "axes.titlelocation": "left"}
    return found | title | {"grid.linewidth": 0.8}


def svg_settings(name, size):
    """Return the settings of an SVG in the colours of its page; `name` keeps its ids apart from other pictures'."""
    return SVG_SETTINGS | settings(INK, SOFT, LINE, size) | {"svg.hashsalt": name}


def as_svg(figure, **options):
    """Return a figure as the text of an SVG, without anything that changes from run to run, and close it."""
    written = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(written, format="svg", metadata=no_metadata, **options)
    pyplot().close(figure)
    return written.getvalue()


def inline(text, prefix):
    """Return the SVG of a file as an element of a page: no prolog, no metadata, its ids its own.

    Raises: ValueError if it would load or run anything.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    if re.search(r"<script|<foreignObject|\son\w+\s*=|https?:", text, re.IGNORECASE):
        raise ValueError("the SVG has scripts or external references; expected neither")
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'href="#', f'href="#{prefix}-', text).replace("url(#", f"url(#{prefix}-")
    # The page sets the size; the viewBox keeps the proportions.
    return re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text))


def themed(figure, name):
    """Return a figure of `svg_settings` as an SVG element whose colours are CSS variables, and close it."""
    text = inline(as_svg(figure, transparent=True), name)
    for stand_in, token in ((INK, "ink"), (SOFT, "soft"), (LINE, "line")):
        text = text.replace(stand_in, f"var(--{token})")
    return re.sub(r"#ab00(\d\d)", lambda match: f"var(--s{int(match[1])})", text)


def standalone(element, width=None):
    """Return an SVG element as a file of its own, with the values of its variables, in pixels where it has no size."""
    style = f"<style>\n{colours.style_sheet()}svg {{ background: var(--page); color: var(--ink) }}\n</style>"
    opening, rest = element.split(">", 1)
    opening = opening.replace('width="100%"', f'width="{width}"')
    return f'<?xml version="1.0" encoding="utf-8"?>\n{opening} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'


def label_ends(axis, ends):
    """Write a text beside the end of each line, apart from each other; `ends` are (x, y, text, colour).

    The limits of the axis are final before, and its title and labels are set.
    """
    texts = [
        axis.annotate(text, (x, y), xytext=(1.04, 0.5), textcoords="axes fraction", color=colour, va="center")
        for x, y, text, colour in ends
    ]
    axis.figure.draw_without_rendering()  # lays out the axis, whose height is known from then on
    box = axis.get_window_extent()
    at = [(axis.transData.transform((x, y))[1] - box.y0) / box.height for x, y, *_ in ends]
    gap = 1.15 * max((text.get_window_extent().height for text in texts), default=0) / box.height
    for text, (x, y, _, colour), height in zip(texts, ends, spread(at, gap)):
        text.set_y(height)
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 3}
        axis.annotate("", (x, y), xytext=(1.03, height), textcoords="axes fraction", arrowprops=line)


def spread(heights, gap):
    """Return heights near those given, in the same order, that differ by a gap at least."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    found = [heights[index] for index in order]
    for _ in range(500):
        for below in range(len(found) - 1):
            missing = gap - (found[below + 1] - found[below])
            if missing > 1e-6:
                found[below] -= missing / 2
                found[below + 1] += missing / 2
    return [height for _, height in sorted(zip(order, found))]


def plain_log(axis, set_scale, subs=(1, 2, 5), form="{:,g}"):
    """Make an axis logarithmic, with plain numbers as labels."""
    from matplotlib import ticker

    set_scale("log")
    axis.set_major_locator(ticker.LogLocator(subs=subs))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: form.format(value)))
    axis.set_minor_locator(ticker.NullLocator())
