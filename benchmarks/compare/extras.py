"""The tables and pictures that other benchmarks left in the directory of the report."""

import json

from benchmarks import table_pictures
from benchmarks.compare.contents import number

EXTRAS = ("breakdown", "choices", "batches")


def read_extras(directory):
    """Return the results in a directory, a list of {"title", "columns", "rows", "note", "drawing",
    "picture"}: what is drawn of the table, and the file of a picture for a table of another form."""
    return [read_extra(directory / f"{name}.json") for name in EXTRAS if (directory / f"{name}.json").exists()]


def read_extra(path):
    """Return one benchmark's result; of a file that cannot be read, the note says why."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        columns, rows = columns_and_rows(found)
        note = str(found.get("note", ""))
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        found, columns, rows, note = {}, [], [], f"{path.name} cannot be read: {error}"
    return {
        "drawing": drawing(path.stem, found),
        "title": str(found.get("title", path.stem.capitalize())),
        "columns": [str(column) for column in columns],
        "rows": [[number(cell) if isinstance(cell, float) else str(cell) for cell in row] for row in rows],
        "note": note,
        "picture": next((path.with_suffix(end) for end in (".svg", ".png") if path.with_suffix(end).exists()), None),
    }


def drawing(name, found):
    """Return the picture of a table as an SVG element, None if it does not have the form of the benchmark's."""
    try:
        return table_pictures.draw(name, found)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def columns_and_rows(found):
    """Return the table of another benchmark; rows that are objects have their keys as columns."""
    rows = found["rows"]
    if rows and isinstance(rows[0], dict):
        columns = found.get("columns") or list(rows[0])
        return columns, [[row.get(column, "") for column in columns] for row in rows]
    return found["columns"], rows
