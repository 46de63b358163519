"""What someone noted about a report of the comparison after it was measured, by hand, in latency.json.

    "notes": [
      {"text": "the gRPC rows are those of Python's gRPC client"},
      {"text": "a backup ran for some seconds", "disturbed": true, "server": "flask", "rate_rps": 400}
    ]

A note is about the rows that have all values that it names of `server`, `protocol`, `concurrency` and `rate_rps`, and
about the whole report if it names none. `disturbed`: true says that these rows are not to be relied on; wherever they
are shown, they are marked.
"""

from rnn_serving.command_line import UserError

KEYS = ("server", "protocol", "concurrency", "rate_rps")


def notes_of(result):
    """Return the notes of a report. Raises: UserError unless each is as described above."""
    notes = result.get("notes", [])
    for note in notes:
        if not isinstance(note, dict) or not isinstance(note.get("text"), str):
            raise UserError(f"note {note!r}; expected an object with a 'text'")
        unknown = set(note) - {"text", "disturbed", *KEYS}
        if unknown:
            raise UserError(f"note {note['text']!r} has {', '.join(sorted(unknown))}; expected {', '.join(KEYS)}")
    return notes


def notes_on(row, result):
    """Return the texts of the notes that are about a row but not about the whole report."""
    return [note["text"] for note in notes_of(result) if _names_rows(note) and _is_about(note, row)]


def is_disturbed(row, result):
    """Return whether a note says that a row is not to be relied on."""
    return any(note.get("disturbed") and _is_about(note, row) for note in notes_of(result))


def _names_rows(note):
    return any(key in note for key in KEYS)


def _is_about(note, row):
    return all(row[key] == note[key] for key in KEYS if key in note)
