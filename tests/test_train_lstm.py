import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, random_split, run_script

import train_lstm
from rnn_serving import checkpoint, dataset, model, model_flags, training_history, training_run
from rnn_serving.batch_stream import BatchStream
from rnn_serving.command_line import UserError
from rnn_serving.quiet_tensorflow import tf

QUICK = ("--training_steps", "4", "--num_hidden", "8", "--batch_size", "16", "--save_step", "2", "--display_step", "2")


def train(data_dir, directory, *flags):
    return train_lstm.main(["--data_dir", str(data_dir), "--checkpoint_dir", str(directory), *QUICK, *flags])


@pytest.fixture(scope="module")
def trained_once(data_dir, tmp_path_factory):
    """A finished run; tests do not change it."""
    directory = tmp_path_factory.mktemp("trained")
    assert train(data_dir, directory) == 0
    return directory


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of a finished run, for a test to change."""
    return shutil.copytree(trained_once, tmp_path / "trained")


def weights(directory):
    reader = tf.train.load_checkpoint(checkpoint.find(directory))
    names = sorted(name for name in reader.get_variable_to_shape_map() if name.startswith(("model/", "optimizer/")))
    return {name: reader.get_tensor(name) for name in names}


def test_a_run_prints_the_articles_line_and_writes_its_files(data_dir, tmp_path, capsys):
    assert train(data_dir, tmp_path) == 0
    output = capsys.readouterr().out
    assert "Step 2, Minibatch Loss= " in output
    assert "Step 4, Minibatch Loss= " in output
    assert ", Training Accuracy= 0." in output
    assert "Testing Accuracy: 0." in output
    assert "9: " in output
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["flags"]["batch_size"] == 16
    assert run["dataset"]["name"] == "digits"
    assert run["step"] == 4
    assert len(run["accuracy_by_digit"]) == 10
    assert {"seconds", "versions", "machine", "training_accuracy", "testing_accuracy"} <= set(run)
    with open(tmp_path / "history.csv", newline="") as lines:
        assert [row["step"] for row in csv.DictReader(lines)] == ["2", "4"]
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")


def test_training_learns(checkpoint_dir):
    assert checkpoint.read_run(checkpoint_dir)["testing_accuracy"] > 0.6


def test_a_checkpoint_holds_model_optimizer_step_and_data_position(data_dir, tmp_path):
    train(data_dir, tmp_path)
    names = tf.train.load_checkpoint(checkpoint.find(tmp_path)).get_variable_to_shape_map()
    for part in ("model/kernel", "model/output_weights", "optimizer/_variables/8", "step", "images_drawn"):
        assert any(name.startswith(part) for name in names), part


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_the_weights_of_an_uninterrupted_one(data_dir, tmp_path):
    # Batches of 500 of 1437 images: the run crosses the end of an epoch on both sides of the kill.
    flags = ["--training_steps", "60", "--num_hidden", "16", "--batch_size", "500", "--save_step", "5", "--augment"]
    environment = os.environ | {"TF_DETERMINISTIC_OPS": "1"}
    command = [sys.executable, "train_lstm.py", "--data_dir", data_dir, "--display_step", "5", *flags]
    killed = [*command, "--checkpoint_dir", tmp_path / "killed"]
    process = subprocess.Popen(killed, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list((tmp_path / "killed").glob("ckpt-*.index")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "testing_accuracy" not in checkpoint.read_run(tmp_path / "killed")

    resumed = run_script(*killed[1:], env=environment)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming from step" in resumed.stdout
    whole = run_script(*command[1:], "--checkpoint_dir", tmp_path / "whole", env=environment)
    assert whole.returncode == 0, whole.stderr
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    steps = [line.split(",")[:3] for line in (tmp_path / "killed" / "history.csv").read_text().splitlines()]
    assert steps == [line.split(",")[:3] for line in (tmp_path / "whole" / "history.csv").read_text().splitlines()]


def test_a_finished_run_says_so_and_exits_0(data_dir, tmp_path, capsys):
    train(data_dir, tmp_path)
    before = checkpoint.find(tmp_path)
    assert train(data_dir, tmp_path, "--display_step", "3") == 0
    assert "finished at step 4" in capsys.readouterr().out
    assert checkpoint.find(tmp_path) == before


@pytest.mark.parametrize(
    "flags", [("--batch_size", "17"), ("--seed", "5"), ("--optimizer", "sgd"), ("--learning_rate", "0.5")]
)
def test_other_flags_in_the_same_directory_are_an_error_that_names_them(data_dir, trained, flags):
    with pytest.raises(UserError, match=rf"{flags[0]} \S+ \(requested: {flags[1]}\).*--restart"):
        train(data_dir, trained, *flags)


def test_other_data_of_the_same_name_in_the_same_directory_is_an_error(trained, tmp_path):
    dataset.write_dataset(tmp_path / "digits", random_split(50), random_split(20))
    with pytest.raises(UserError, match="other data"):
        train(tmp_path / "digits", trained)


def test_restart_starts_over_and_deletes_only_what_training_wrote(data_dir, trained):
    (trained / "notes.txt").write_text("mine")
    assert train(data_dir, trained, "--restart", "--seed", "3") == 0
    assert checkpoint.read_run(trained)["flags"]["seed"] == 3
    assert (trained / "notes.txt").read_text() == "mine"


def test_init_from_loads_the_weights_of_another_checkpoint(data_dir, checkpoint_dir, tmp_path):
    flags = ("--num_hidden", "32", "--learning_rate", "1e-30", "--init_from", str(checkpoint_dir))
    assert train(data_dir, tmp_path, *flags) == 0
    expected = checkpoint.load_model(checkpoint.find(checkpoint_dir))
    found = checkpoint.load_model(checkpoint.find(tmp_path))
    np.testing.assert_allclose(found.kernel.numpy(), expected.kernel.numpy(), atol=1e-6)


def test_init_from_another_architecture_is_an_error(data_dir, checkpoint_dir, tmp_path):
    with pytest.raises(UserError, match=r"another model, with variables bias \[128\], .*expected lstm/bias \[32\], "):
        train(data_dir, tmp_path, "--init_from", str(checkpoint_dir))


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_good_checkpoint(data_dir, tmp_path, monkeypatch):
    original, drawn = BatchStream.next_batch, []

    def next_batch(self):
        images, labels = original(self)
        drawn.append(1)
        return images * (np.nan if len(drawn) == 4 else 1), labels

    monkeypatch.setattr(BatchStream, "next_batch", next_batch)
    with pytest.raises(UserError, match=r"step 4: the loss is nan; expected a finite number.*ckpt-2"):
        train(data_dir, tmp_path)
    kept = checkpoint.find(tmp_path)
    assert kept.endswith("ckpt-2")
    assert np.isfinite(checkpoint.load_model(kept).kernel.numpy()).all()


def test_after_training_diverges_the_last_checkpoint_has_finite_logits(data_dir, tmp_path):
    flags = ("--optimizer", "sgd", "--learning_rate", "1e37", "--schedule", "constant", "--save_step", "1")
    with pytest.raises(UserError, match=r"step \d+: .*expected a finite number.*Last good checkpoint: .*ckpt-\d"):
        train(data_dir, tmp_path, *flags)
    logits, _ = checkpoint.load_model(checkpoint.find(tmp_path))(np.zeros((1, 28, 28), np.float32))
    assert np.isfinite(logits).all()


def test_a_typo_in_init_from_does_not_block_the_corrected_command(data_dir, checkpoint_dir, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        train(data_dir, tmp_path / "run", "--num_hidden", "32", "--init_from", str(tmp_path / "typo"))
    assert train(data_dir, tmp_path / "run", "--num_hidden", "32", "--init_from", str(checkpoint_dir)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("start", ["typo", "trained"])
def test_restart_deletes_nothing_if_init_from_is_not_usable(data_dir, trained, tmp_path, start):
    with pytest.raises(UserError):
        train(data_dir, trained, "--restart", "--init_from", str(tmp_path / start))
    assert checkpoint.read_run(trained)["step"] == 4


@pytest.mark.slow
def test_a_half_written_checkpoint_does_not_block_a_restart(data_dir, tmp_path):
    train(data_dir, tmp_path)
    (tmp_path / "ckpt-6_temp").mkdir()
    assert train(data_dir, tmp_path, "--restart") == 0


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("\0")])
def test_the_newest_checkpoint_is_found_without_a_valid_checkpoint_file(data_dir, tmp_path, damage, capsys):
    train(data_dir, tmp_path)
    damage(tmp_path / "checkpoint")
    run = json.loads((tmp_path / "run.json").read_text())
    del run["testing_accuracy"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert train(data_dir, tmp_path) == 0
    assert "resuming from step 4 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{}", "[]", "not json", '{"flags": 1, "dataset": 2}'])
def test_a_damaged_run_json_is_an_error_that_names_it(data_dir, trained, content):
    (trained / "run.json").write_text(content)
    with pytest.raises(UserError, match="run.json: damaged"):
        train(data_dir, trained)


def test_min_accuracy_decides_the_exit_status(data_dir, tmp_path, capsys):
    assert train(data_dir, tmp_path, "--min_accuracy", "1") == 1
    assert "expected at least 1.0" in capsys.readouterr().err
    assert train(data_dir, tmp_path, "--min_accuracy", "0") == 0


def test_a_flag_that_an_old_run_json_lacks_had_its_default(data_dir, tmp_path):
    train(data_dir, tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    del run["flags"]["augment"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert train(data_dir, tmp_path) == 0
    with pytest.raises(UserError, match=r"--augment False \(requested: True\)"):
        train(data_dir, tmp_path, "--augment")


def test_a_second_training_in_the_same_directory_is_an_error_while_the_first_runs(data_dir, tmp_path):
    with training_run._locked(tmp_path), pytest.raises(UserError, match="another training is running"):
        train(data_dir, tmp_path)


@pytest.mark.slow
def test_every_optimizer_and_every_schedule_trains(data_dir, tmp_path):
    for name, schedule in zip(train_lstm.OPTIMIZERS, itertools.cycle(("cosine", "constant"))):
        assert train(data_dir, tmp_path / name, "--optimizer", name, "--schedule", schedule) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--batch_size", "0"), "argument --batch_size: '0' is not a whole number of at least 1"),
        (("--training_steps", "-1"), "argument --training_steps: '-1' is not a whole number of at least 1"),
        (("--optimizer", "lion"), "argument --optimizer: invalid choice: 'lion'"),
        (("--learning_rate", "nan"), "argument --learning_rate: 'nan' is not a number above 0"),
        (("--min_accuracy", "98.5"), "argument --min_accuracy: '98.5' is not a number from 0 to 1"),
    ],
)
def test_a_bad_flag_ends_with_status_2_and_says_what_was_expected(flags, message, capsys):
    with pytest.raises(SystemExit) as end:
        train_lstm.main(list(flags))
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_as_a_script_an_error_is_one_line_without_traceback_or_start_up_noise(tmp_path):
    ended = run_script("train_lstm.py", "--data_dir", tmp_path / "none")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"train_lstm.py: error: {tmp_path}/none does not exist")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def edit_run(directory, change):
    """Apply `change` to the contents of run.json."""
    run = json.loads((directory / "run.json").read_text())
    change(run)
    (directory / "run.json").write_text(json.dumps(run))


def keep_state(self, row_gates, hidden, cell):
    """An LSTM step without a forget gate: the same variables, another model."""
    gates = row_gates + tf.matmul(hidden, self.recurrent_kernel)
    input_gate, candidate, _, output_gate = tf.split(gates, 4, axis=1)
    cell += tf.sigmoid(input_gate) * tf.tanh(candidate)
    return tf.tanh(cell) * tf.sigmoid(output_gate), cell


@pytest.mark.slow
@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(
    ("target", "name", "value"), [(model, "FORGET_BIAS", 0.5), (model.LSTMClassifier, "_step", keep_state)]
)
def test_a_model_that_was_edited_is_refused_like_another_flag(
    data_dir, trained, monkeypatch, is_finished, target, name, value
):
    if not is_finished:
        edit_run(trained, lambda run: run.pop("testing_accuracy"))
    monkeypatch.setattr(target, name, value)
    with pytest.raises(UserError, match=r"another model: LSTMClassifier, before rnn_serving/model.py was .*--restart"):
        train(data_dir, trained)
    assert train(data_dir, trained, "--restart") == 0


class WiderClassifier(model.LSTMClassifier):
    """The same flags, one more variable."""

    def __init__(self, num_hidden=8, output_init="glorot", seed=0):
        super().__init__(num_hidden, output_init, seed)
        self.scale = tf.Variable(tf.ones(10), name="scale")

    def __call__(self, images):
        logits, _ = super().__call__(images)
        return logits * self.scale, tf.nn.softmax(logits * self.scale)


@pytest.mark.parametrize("is_old", [True, False])
def test_a_model_with_other_variables_is_refused_by_their_shapes(data_dir, trained, monkeypatch, is_old):
    if is_old:
        edit_run(trained, lambda run: run.pop("model"))
    monkeypatch.setattr(model_flags, "_model_class", lambda: WiderClassifier)
    with pytest.raises(UserError, match=r"another model, with variables .*scale \[10\].*--restart"):
        train(data_dir, trained)


def test_a_run_json_from_before_models_were_recorded_resumes(data_dir, trained, capsys):
    def make_old(run):
        del run["model"], run["testing_accuracy"]

    edit_run(trained, make_old)
    assert train(data_dir, trained) == 0
    assert "resuming from step 4" in capsys.readouterr().out
    assert json.loads((trained / "run.json").read_text())["model"]["class"] == "LSTMClassifier"


def test_a_run_of_another_tensorflow_is_compared_by_its_variables_alone(data_dir, trained):
    edit_run(trained, lambda run: run["model"].update(tensorflow="2.16.1", graph="of another version"))
    assert train(data_dir, trained) == 0


@pytest.mark.parametrize("entry", [1, [], {}, {"class": "LSTMClassifier"}])
def test_a_damaged_entry_of_the_model_is_an_error_that_names_the_file(data_dir, trained, entry):
    edit_run(trained, lambda run: run.update(model=entry))
    with pytest.raises(UserError, match="run.json: damaged"):
        train(data_dir, trained)


def test_a_plot_that_cannot_be_drawn_is_one_line(data_dir, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError("Matplotlib requires access to a writable cache directory")

    monkeypatch.setattr(training_history, "_plot", fail)
    assert train(data_dir, tmp_path) == 0
    assert "training.png: not drawn (Matplotlib requires" in capsys.readouterr().err
