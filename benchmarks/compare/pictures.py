"""Draw the charts of the comparison: SVG in the theme of the page, and one PNG for a README."""

from benchmarks import colours, plots
from benchmarks.compare.charts import make_charts

# Inches and points. The page shows an SVG at about this size, a README the PNG at 846 pixels, 96 an inch.
SVG_SIZE, SVG_TEXT = (4.5, 3.3), 10.5
PNG_SIZE, PNG_TEXT, PNG_DPI = (8.8, 4.2), 11, 220
PNG_CHARTS = ("throughput", "p99")


def svg(chart):
    """Return a chart as an SVG element without external references; its colours are the page's."""
    plt = plots.pyplot()
    with plt.rc_context(plots.svg_settings(chart.name, SVG_TEXT)):
        figure, axis = plt.subplots(figsize=SVG_SIZE, layout="constrained")
        draw(axis, chart, lambda label: plots.SERIES.format(colours.style_of(label)[0]))
        return plots.themed(figure, chart.name)


def write_png(path, rows, title):
    """Draw throughput and p99 over the number of callers side by side, on white."""
    plt = plots.pyplot()
    light = [pair[0] for pair in (colours.TOKENS[name] for name in ("ink", "soft", "line"))]
    with plt.rc_context(plots.settings(*light, PNG_TEXT)):
        shown = [chart for chart in make_charts(rows) if chart.name in PNG_CHARTS]
        figure, axes = plt.subplots(1, max(1, len(shown)), figsize=PNG_SIZE, layout="constrained", squeeze=False)
        figure.get_layout_engine().set(wspace=0.05)
        for axis, chart in zip(axes[0], shown):
            axis.set_title(f"{chart.title}, {chart.y_label.split(', ')[-1]}")
            draw(axis, chart, lambda label: colours.style_of(label)[1].light)
            axis.set_ylabel("")
        figure.suptitle(title, fontsize=PNG_TEXT, color=light[1])
        figure.savefig(path, dpi=PNG_DPI)
    plt.close(figure)


def draw(axis, chart, colour_of):
    """Draw a chart, its lines labelled at their ends."""
    ends = []
    for label, points in chart.lines.items():
        (_, style), (xs, ys) = colours.style_of(label), zip(*points)
        marker = style.marker if chart.doubles else ""
        axis.plot(xs, ys, style.line, color=colour_of(label), marker=marker, markersize=4.5, linewidth=1.7)
        ends.append((xs[-1], ys[-1], style.short, colour_of(label)))
    axis.set(xlabel=chart.x_label, ylabel=chart.y_label)
    if chart.doubles:
        axis.set_xscale("log", base=2)
    axis.set_xticks(chart.x_ticks, chart.x_tick_labels)
    axis.minorticks_off()
    if chart.is_log:
        plots.plain_log(axis.yaxis, axis.set_yscale)
    else:
        axis.set_ylim(0, None)
        axis.yaxis.set_major_formatter("{x:,.0f}")
    plots.label_ends(axis, ends)
