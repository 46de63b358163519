import pytest

from benchmarks.compare import notes
from rnn_serving.command_line import UserError

ROW = {"server": "flask", "protocol": "HTTP/JSON", "concurrency": None, "rate_rps": 400}


@pytest.mark.parametrize(
    ("note", "is_disturbed", "on_row"),
    [
        ({"text": "a", "disturbed": True, "server": "flask", "rate_rps": 400}, True, ["a"]),
        ({"text": "a", "disturbed": True, "server": "flask"}, True, ["a"]),
        ({"text": "a", "disturbed": True, "server": "flask", "concurrency": 8}, False, []),
        ({"text": "a", "server": "flask"}, False, ["a"]),
        ({"text": "a", "disturbed": True}, True, []),
        ({"text": "a"}, False, []),
    ],
)
def test_a_note_is_about_the_rows_that_it_names(note, is_disturbed, on_row):
    assert notes.is_disturbed(ROW, {"notes": [note]}) is is_disturbed
    assert notes.notes_on(ROW, {"notes": [note]}) == on_row


@pytest.mark.parametrize(
    ("note", "message"),
    [("a", "expected an object with a 'text'"), ({"text": "a", "callers": 8}, "has callers; expected server")],
)
def test_a_note_of_another_form_is_an_error(note, message):
    with pytest.raises(UserError, match=message):
        notes.notes_of({"notes": [note]})


def test_a_report_may_have_no_notes():
    assert notes.is_disturbed(ROW, {}) is False
