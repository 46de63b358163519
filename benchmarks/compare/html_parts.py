"""Pieces of an HTML page; all text is escaped."""

import re
from html import escape

from benchmarks import colours


def section(title, body, note=""):
    """Return a part of the page."""
    said = f'<p class="note">{escape(note)}</p>\n' if note else ""
    return f"<section>\n<h2>{escape(title)}</h2>\n{said}{body}\n</section>"


def figure(picture, description, caption=""):
    """Return a picture with what it shows."""
    shown = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure role="img" aria-label="{escape(description)}">{shown}{picture}</figure>'


def server(label, name):
    """Return a server's name after a dot in its colour."""
    return f'<span class="dot" style="background: {colours.variable(label)}"></span>{escape(name)}'


def table(columns, rows, names="pairs"):
    """Return a table; a column with words is set as text. On a phone, each row is a group of pairs."""
    texts = {index for index in range(len(columns)) if any(is_text(row[index]) for row in rows)}
    lines = []
    for row in rows:
        cells = (cell(prose(value), columns[index], is_text=index in texts) for index, value in enumerate(row))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return framed(columns, "<tbody>\n" + "\n".join(lines) + "\n</tbody>", texts, names)


def framed(columns, bodies, texts, names):
    """Return the bodies of a table below a head."""
    head = "".join(
        f'<th scope="col"{_classes(["text"] * (i in texts))}>{escape(column)}</th>' for i, column in enumerate(columns)
    )
    return f'<table class="{names}">\n<thead><tr>{head}</tr></thead>\n{bodies}\n</table>'


def cell(inner, column, is_text=False, names=(), style=""):
    """Return a cell of a table; on a narrow page, its column's name is shown with it."""
    names = [*names, *(["text"] if is_text else []), *(["wide"] if len(re.sub("<.*?>", "", inner)) > 28 else [])]
    look = f' style="{style}"' if style else ""
    return f'<td data-label="{escape(column)}"{_classes(names)}{look}>{inner}</td>'


def is_text(value):
    """Return whether a cell has words."""
    return bool(re.search("[A-Za-z]", str(value)))


def prose(text):
    """Return a text escaped, with what is in backticks as code, whose words stay whole where there is room."""
    return re.sub("`(.+?)`", lambda match: f"<code>{_words(match[1])}</code>", escape(str(text)))


def _words(code):
    return " ".join(f"<span>{word}</span>" for word in code.split(" "))


def _classes(names):
    return f' class="{" ".join(names)}"' if names else ""


def items(sentences):
    """Return a list."""
    return '<ul class="plain">' + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"
