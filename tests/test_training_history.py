import pytest

from rnn_serving import training_history
from rnn_serving.command_line import UserError

ROWS = [
    {
        "step": 100,
        "loss": 0.5,
        "training_accuracy": 0.8,
        "learning_rate": 0.01,
        "seconds": 2.0,
        "testing_accuracy": None,
    },
    {
        "step": 200,
        "loss": 0.1,
        "training_accuracy": 0.9,
        "learning_rate": 0.01,
        "seconds": 4.0,
        "testing_accuracy": 0.85,
    },
]


def test_a_history_is_read_as_it_was_written_up_to_a_step(tmp_path):
    path = tmp_path / "history.csv"
    training_history.write(path, ROWS)
    assert training_history.read(path, 200) == ROWS
    assert training_history.read(path, 199) == ROWS[:1]
    assert training_history.read(path, 0) == training_history.read(tmp_path / "none.csv", 200) == []


def test_a_history_of_before_the_test_accuracy_is_read(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text("step,loss,training_accuracy,learning_rate,seconds\n100,0.5,0.8,0.01,2.0\n")
    assert training_history.read(path, 100) == ROWS[:1]


@pytest.mark.parametrize("line", ["100,0.5", "100,0.5,0.8,0.01,2.0,high", "one,0.5,0.8,0.01,2.0,"])
def test_a_damaged_history_is_an_error(tmp_path, line):
    path = tmp_path / "history.csv"
    path.write_text(f"{','.join(training_history.COLUMNS)}\n{line}\n")
    with pytest.raises(UserError, match="damaged"):
        training_history.read(path, 100)


@pytest.mark.parametrize("rows", [ROWS, []])
def test_it_is_drawn(tmp_path, rows):
    training_history.plot(tmp_path / "training.png", rows, 0.97)
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_where_it_cannot_be_drawn_the_reason_is_printed(tmp_path, capsys):
    training_history.plot(tmp_path / "none" / "training.png", ROWS)
    assert "not drawn" in capsys.readouterr().err
