"""A Markdown table."""


def markdown_table(columns, rows):
    """Return rows of cells below a header."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value):
    return str(value).replace("|", "\\|").replace("\n", " ")
