"""Horizontal bars as an SVG that keeps the size of its text at any width; its colours are CSS variables."""

from html import escape

# Pixels.
TEXT, NAME, BAR, GAP, HEADING, LEGEND = 13, 20, 18, 12, 34, 22
# Of the width, for the longest bar; the rest is for the figure at its end.
LONGEST = 78


class Bars:
    """An SVG that grows downwards: headings, legends and bars, whose lengths are shares of the width."""

    def __init__(self):
        self._parts, self._height = [], 0

    def heading(self, text):
        """Add a heading."""
        self._height += HEADING
        self._text("0", self._height - 12, text, "font-weight: 600")

    def legend(self, entries):
        """Add squares with names, (name, colour), two in a line."""
        for number, (name, colour) in enumerate(entries):
            x, y = f"{50 * (number % 2)}%", self._height + LEGEND * (number // 2)
            self._parts.append(f'<rect x="{x}" y="{y + 4}" width="12" height="12" rx="2" style="fill: {colour}"/>')
            self._text(x, y + 15, name, dx=18)
        self._height += LEGEND * ((len(entries) + 1) // 2) + GAP

    def bar(self, name, segments, figure, marker=None, aside=""):
        """Add a bar below its name: `segments` are (percent of the longest, colour), `figure` stands at its end.

        `marker` is the colour of a dot before the name, `aside` a text at the right. A segment below
        0 takes its share from what was before it.
        """
        y = self._height
        if marker:
            self._parts.append(f'<circle cx="5" cy="{y + 10}" r="5" style="fill: {marker}"/>')
        self._text("0", y + 15, name, dx=16 if marker else 0)
        end = 0.0
        for percent, colour in segments:
            size = f'x="{_scaled(end)}%" y="{y + NAME}" width="{_scaled(max(percent, 0))}%" height="{BAR}"'
            self._parts.append(f'<rect {size} style="fill: {colour}"/>')
            end += percent
        if aside:
            self._text("100%", y + 15, aside, "text-anchor: end")
        self._text(f"{_scaled(end)}%", y + NAME + BAR - 4, figure, dx=6)
        self._height += NAME + BAR + GAP

    def svg(self, description):
        """Return the SVG element."""
        return (
            f'<svg width="100%" height="{self._height}" role="img" aria-label="{escape(description)}" '
            f'style="font: {TEXT}px system-ui, sans-serif">{"".join(self._parts)}</svg>'
        )

    def _text(self, x, y, text, style="", dx=0):
        look = f"fill: var(--ink); {style}".strip()
        self._parts.append(f'<text x="{x}" y="{y}" dx="{dx}" style="{look}">{escape(text)}</text>')


def _scaled(percent):
    return f"{percent * LONGEST / 100:.2f}"
