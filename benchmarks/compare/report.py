"""Write what the comparison measured: latency.json, .md, .png, and latency.html, one file to look at.

    python -m benchmarks.compare.report --reports_dir reports    # again from latency.json, with newer tables beside it

Tables of other benchmarks in the same directory are shown too, `breakdown.json`, `choices.json` and `batches.json`:
{"title", "columns": [...], "rows": [[...]], "note"}, with a picture of the same stem, .svg or .png, if there is one.
"""

import json
import tempfile
from pathlib import Path

from benchmarks.compare import contents, notes, page, pictures
from benchmarks.compare.extras import read_extras
from benchmarks.compare.finding import describe_finding
from benchmarks.markdown import markdown_table
from rnn_serving import command_line, files
from rnn_serving.command_line import UserError


def main(argv=None):
    """Write the reports again; return the exit status."""
    directory = Path(parse_arguments(argv).reports_dir)
    try:
        result = json.loads((directory / "latency.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{directory}/latency.json: {error}; expected what compare_latency.py wrote") from error
    write(directory, result | {"finding": describe_finding(with_notes(result)["rows"])})
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    parser.add_argument("--reports_dir", default="reports", help="where latency.json is, and the others go")
    return parser.parse_args(argv)


def check_writable(directory):
    """Raise OSError unless files can be written to a directory, before anything is measured."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        pass


def write(directory, result):
    """Print the table and write all reports; if that fails, to another directory, since measuring takes long.

    Raises: UserError naming the other directory.
    """
    print(f"\n{result['finding']}\n\n{results_table(with_notes(result))}\n")
    try:
        write_files(Path(directory), result)
    except OSError as error:
        other = Path(tempfile.mkdtemp(prefix="latency-"))
        write_files(other, result)
        raise UserError(f"{directory}: {error.strerror or error}; the reports are in {other} instead") from error
    print(f"Wrote {directory}/latency.html, .json, .md and .png")


def write_files(directory, result):
    """Write the four files."""
    files.write_json(directory / "latency.json", result)
    extras, result = read_extras(directory), with_notes(result)
    files.write_text(directory / "latency.md", markdown(result, extras))
    files.write_text(directory / "latency.html", page.page(result, extras))
    pictures.write_png(directory / "latency.png", result["rows"], contents.title(result))


def with_notes(result):
    """Return a report as it is shown: the notes on a row are marks of it, and a disturbed row says so.

    Raises: UserError if a note has another form.
    """
    rows = []
    for row in result["rows"]:
        is_disturbed = notes.is_disturbed(row, result)
        marks = [*row["marks"], *["disturbed"] * is_disturbed, *notes.notes_on(row, result)]
        rows.append(row | {"marks": marks, "is_disturbed": is_disturbed})
    return result | {"rows": rows}


def results_table(result):
    """Return the rows as one Markdown table."""
    return markdown_table(contents.COLUMNS, map(contents.cells, result["rows"]))


def markdown(result, extras):
    """Return the report as Markdown."""
    parts = [f"# Latency: {contents.title(result)}", result["finding"], results_table(result)]
    for extra in extras:
        parts += [f"## {extra['title']}", extra["note"], markdown_table(extra["columns"], extra["rows"])]
    parts += ["## Method", "\n".join(f"- {sentence}" for sentence in contents.method(result))]
    servers = map(contents.server_cells, result["servers"])
    parts += ["## Servers", markdown_table(contents.SERVER_COLUMNS, servers)]
    parts += ["## Machine", "\n".join(f"- {name}: {value}" for name, value in contents.machine(result))]
    return "\n\n".join(part for part in parts if part) + "\n"


if __name__ == "__main__":
    command_line.run(main)
