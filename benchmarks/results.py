"""Rewrite the tables of README.md and the chapters, and the README's picture, from the reports kept in docs/results/.

    python -m benchmarks.results                                  # again from the reports that are there
    python -m benchmarks.results --report reports/latency.json    # keep this report instead of the old one first
    python -m benchmarks.results --check                          # only say what is out of date

A table stands between `<!-- results: begin ... -->` and `<!-- results: end -->`; what stands there is replaced. In
place of the dots: nothing for the short table, or `NAME closed` or `NAME open` for all rows of docs/results/NAME.json
in a closed or an open loop. The short table and docs/results/latency.png show cpp_server.json. Rows that the notes of a
report call disturbed (see benchmarks/compare/notes.py) are marked.
"""

import json
import re
from pathlib import Path

from benchmarks import results_picture, results_tables
from benchmarks.compare.notes import notes_of
from rnn_serving import command_line, files
from rnn_serving.command_line import UserError

ROOT = Path(__file__).resolve().parent.parent
REPORTS, PICTURE = "docs/results", "latency.png"
# The report that the README shows.
MAIN = "cpp_server"
# Bytes, so that no report bloats the repository.
SIZE_LIMIT = 2**20
PLACE = re.compile(r"(<!-- results: begin(?: (\w+) (closed|open))? -->\n)(.*?)(<!-- results: end -->)", re.DOTALL)


def main(argv=None):
    """Rewrite what is out of date, or say what is; return the exit status."""
    args = parse_arguments(argv)
    directory = Path(args.root) / REPORTS
    if args.report:
        keep(args.report, directory / f"{args.name}.json")
    reports = read_reports(directory)
    outdated = {path: text for path, text in rewritten(Path(args.root), reports) if text != read(path)}
    picture = directory / PICTURE
    is_drawn = results_picture.source_of(picture) == results_picture.digest(reports[MAIN])
    if args.check:
        return say_outdated([*outdated, *([] if is_drawn else [picture])])
    for path, text in outdated.items():
        files.write_text(path, text)
    results_picture.draw(picture, reports[MAIN])
    print(f"Wrote {', '.join(map(str, [*outdated, picture]))}")
    return 0


def parse_arguments(argv):
    """Return the parsed flags; exit with status 2 if one is invalid."""
    parser = command_line.parser(__doc__)
    add = parser.add_argument
    add("--report", metavar="FILE", help="latency.json of a full run to keep in docs/results first")
    add("--name", default=MAIN, help="what --report is kept as there, without .json")
    add("--check", action="store_true", help="write nothing; exit status 1 if anything is out of date")
    add("--root", default=str(ROOT), help="directory of README.md and docs")
    return parser.parse_args(argv)


def keep(source, path):
    """Copy a report to a path. Raises: UserError if it was cut short or is too large."""
    report = read_report(Path(source))
    if not report.get("is_whole"):
        raise UserError(f"{source}: the run was cut short; expected a whole one")
    files.write_json(path, report)


def read_reports(directory):
    """Return {name: report} of a directory. Raises: UserError if the main one is missing, or one is not as expected."""
    reports = {path.stem: read_report(path) for path in sorted(directory.glob("*.json"))}
    if MAIN not in reports:
        raise UserError(f"{directory}/{MAIN}.json: no such report; keep one with --report FILE")
    return reports


def read_report(path):
    """Return a report. Raises: UserError if it is too large, not a report, or has a note that is not as expected."""
    text = read(path)
    if len(text) >= SIZE_LIMIT:
        raise UserError(f"{path}: {len(text):,} bytes; expected less than {SIZE_LIMIT:,}")
    try:
        report = json.loads(text)
        results_tables.short(report)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}; expected what compare_latency.py wrote") from error
    notes_of(report)
    return report


def read(path):
    """Return the text of a file."""
    return path.read_text(encoding="utf-8")


def rewritten(root, reports):
    """Yield (path, text with tables of today's reports) of each page with a place for a table.

    Raises: UserError if README.md has none.
    """
    for path in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        text, count = PLACE.subn(lambda place, path=path: _filled(place, path, reports), read(path))
        if count:
            yield path, text
        elif path.name == "README.md":
            raise UserError(f"{path}: expected a line `<!-- results: begin -->` and, below it, `<!-- results: end -->`")


def _filled(place, path, reports):
    begin, name, loop, _, end = place.groups()
    if (name or MAIN) not in reports:
        raise UserError(f"{path}: no report {name}; expected one of {', '.join(reports)}")
    report = reports[name or MAIN]
    table = results_tables.of_loop(report, loop) if name else results_tables.short(report)
    return f"{begin}{table}\n{end}"


def say_outdated(paths):
    """Print what is out of date, if anything; return the exit status."""
    if not paths:
        print("Tables and picture are up to date")
        return 0
    return command_line.fail(f"out of date: {', '.join(map(str, paths))}; run `python -m benchmarks.results`")


if __name__ == "__main__":
    command_line.run(main)
