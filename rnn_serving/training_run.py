"""A training run that can be killed and resumed: its directory, its checkpoints, and what it writes down.

The directory holds the last three checkpoints, run.json (flags, data, results), history.csv and training.png.
"""

import contextlib
import fcntl
import math
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rnn_serving import checkpoint, command_line, environment, files, model_fingerprint, model_flags, training_history
from rnn_serving.batch_stream import BatchStream
from rnn_serving.command_line import UserError, error_reason
from rnn_serving.model import INPUT_SPEC
from rnn_serving.quiet_tensorflow import tf

HISTORY_FILE, PLOT_FILE = "history.csv", "training.png"
# The history records the accuracy on the first TEST_IMAGES test images each time TRAINED_PER_TESTED times as many
# training images have been used; testing more often would take over 2 % of the time.
TEST_IMAGES, TRAINED_PER_TESTED = 1000, 20


class TrainingRun:
    """The life of one run in its directory, in a `with` that keeps a second training out.

    `batches` and `record` alternate until `--training_steps`; `finish` grades the model and ends the run.
    """

    def __init__(self, args, data, model, optimizer):
        """Prepare a run of `model` and `optimizer` on `data`; `args` are the flags of train_lstm.py."""
        self._args, self._data, self._model, self._optimizer = args, data, model, optimizer
        self._directory = Path(args.checkpoint_dir or f"checkpoints/{data.name}")
        self._stream = BatchStream(data.train, args.batch_size, args.seed, args.augment)
        self._step, self._batch = tf.Variable(0, dtype=tf.int64), None
        self._logits = tf.function(model, [INPUT_SPEC], autograph=False)
        self._tested = data.test.first(TEST_IMAGES)
        self._history, self._started = [], 0.0
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        """Lock the directory and resume the run in it, or start one.

        Raises: UserError if another training is running there, or if it holds a run with other flags, data or model.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(_locked(self._directory))
            if self._args.restart:
                _check_init_from(self._args.init_from, self._directory)
                _remove_run(self._directory)
            self._run = _begin_run(self._directory, self._args, self._data, self._model)
            if not self._is_finished:
                self._restore()
                files.write_json(self._directory / checkpoint.RUN_FILE, self._run)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    @property
    def _is_finished(self):
        return "testing_accuracy" in self._run

    def batches(self):
        """Yield images, float32 (batch_size, 28, 28), and labels, int32 (batch_size,), for each step that is left."""
        if self._is_finished:
            return
        first, last = int(self._step.numpy()), self._args.training_steps
        self._started = time.perf_counter() - (self._history[-1]["seconds"] if self._history else 0)
        # disable=None: no bar if stderr is not a terminal; the printed lines show the progress.
        for step in tqdm(range(first + 1, last + 1), initial=first, total=last, disable=None):
            self._step.assign(step)
            self._batch = self._stream.next_batch()
            yield self._batch

    def record(self, loss, accuracy):
        """Record the step on the last batch: print and save as often as the flags say.

        Raises: UserError if the loss or the logits are not finite; the last good checkpoint stays.
        """
        step, loss, accuracy = int(self._step.numpy()), float(loss), float(accuracy)
        is_last = step == self._args.training_steps
        if not math.isfinite(loss):
            raise self._diverged(step, f"the loss is {loss}")
        if step % self._args.display_step == 0 or is_last:
            seconds = round(time.perf_counter() - self._started, 3)
            row = (step, loss, accuracy, float(self._optimizer.learning_rate), seconds, self._test(step, is_last))
            self._history.append(dict(zip(training_history.COLUMNS, row)))
            tqdm.write(f"Step {step}, Minibatch Loss= {loss:.4f}, Training Accuracy= {accuracy:.3f}", file=sys.stdout)
        if step % self._args.save_step == 0 or is_last:
            self._save(step)

    def finish(self, evaluate):
        """Grade the model by `evaluate()`, write down and print its accuracies; return the exit status."""
        run, directory = self._run, self._directory
        if self._is_finished:
            print(f"{directory}: finished at step {run['step']} ({_summary(run)}); --restart trains it again")
            return _exit_status(run, self._args.min_accuracy)
        run["step"] = int(self._step.numpy())
        run["seconds"] = self._history[-1]["seconds"] if self._history else None
        run |= evaluate()
        training_history.plot(directory / PLOT_FILE, self._history, run["testing_accuracy"])
        files.write_json(directory / checkpoint.RUN_FILE, run)
        print(_summary(run))
        print("By digit:", "  ".join(f"{digit}: {value:.3f}" for digit, value in run["accuracy_by_digit"].items()))
        seconds = "unknown time" if run["seconds"] is None else f"{run['seconds']:.1f} s"
        print(f"{run['step']} steps in {seconds}; checkpoint, history and plot are in {directory}")
        return _exit_status(run, self._args.min_accuracy)

    def _test(self, step, is_last):
        """Return the accuracy on some of the test images, None if it is too early for it."""
        last = next((row["step"] for row in reversed(self._history) if row["testing_accuracy"] is not None), 0)
        is_due = (step - last) * self._args.batch_size >= TRAINED_PER_TESTED * len(self._tested)
        if not (is_due or is_last):
            return None
        logits, _ = self._logits(self._tested.images)
        return float(np.mean(np.argmax(logits, 1) == self._tested.labels))

    def _restore(self):
        """Start from the last checkpoint, from `--init_from`, or from the model's random weights."""
        self._optimizer.build(self._model.trainable_variables)
        state = tf.train.Checkpoint(
            model=self._model, optimizer=self._optimizer, step=self._step, images_drawn=self._stream.images_drawn
        )
        self._manager = tf.train.CheckpointManager(state, str(self._directory), max_to_keep=3)
        last = checkpoint.newest(self._directory)
        if last:
            try:
                state.restore(last).assert_consumed()
            except (*checkpoint.READ_ERRORS, AssertionError) as error:
                raise checkpoint.unreadable(last, error) from error
            print(f"{self._directory}: resuming from step {self._step.numpy()} of {self._args.training_steps}")
        elif self._args.init_from:
            checkpoint.restore(self._model, checkpoint.find(self._args.init_from))
        self._history = training_history.read(self._directory / HISTORY_FILE, int(self._step.numpy()))

    def _save(self, step):
        """Write the history and then the checkpoint it leads up to, after checking that the logits are finite."""
        logits, _ = self._logits(self._batch[0])
        if not np.isfinite(logits).all():
            raise self._diverged(step, "the logits are not finite")
        training_history.write(self._directory / HISTORY_FILE, self._history)
        try:
            self._manager.save(checkpoint_number=step)
        except tf.errors.OpError as error:
            raise UserError(f"{self._directory}: {error_reason(error)}; expected to write a checkpoint") from error

    def _diverged(self, step, what):
        kept = checkpoint.newest(self._directory) or "none yet"
        return UserError(
            f"step {step}: {what}; expected a finite number, try a lower --learning_rate. Last good checkpoint: {kept}"
        )


@contextlib.contextmanager
def _locked(directory):
    """Keep a second training out of the checkpoint directory."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: {error.strerror}; expected a directory for checkpoints") from error
    with open(directory / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{directory}: another training is running there; expected one at a time") from error
        yield


def _check_init_from(init_from, directory):
    """Raise UserError if a restart would delete what the new run starts from, or if that does not exist."""
    if init_from:
        prefix = Path(checkpoint.find(init_from))
        if prefix.parent.resolve() == directory.resolve():
            raise UserError(f"--init_from {init_from} is what --restart deletes; expected another directory")


def _remove_run(directory):
    """Delete what an earlier run wrote, and nothing else; run.json goes first, so that it never stands alone."""
    for pattern in (checkpoint.RUN_FILE, "checkpoint", "ckpt-*", HISTORY_FILE, PLOT_FILE):
        for path in directory.glob(pattern):
            # TensorFlow leaves a directory behind if it is killed while it writes a checkpoint.
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _begin_run(directory, args, data, model):
    """Return the contents of run.json for the run in `directory`, or for a new one.

    Raises: UserError if the directory holds a run with other flags, other data or another model.
    """
    run = {
        "flags": vars(args),
        "dataset": data.describe(),
        "model": model_fingerprint.describe(model),
        "versions": environment.versions(),
        "machine": environment.machine(),
    }
    if not (directory / checkpoint.RUN_FILE).exists():
        if checkpoint.newest(directory):
            raise UserError(
                f"{directory} has a checkpoint but no {checkpoint.RUN_FILE}; expected both, or use --restart"
            )
        return run
    found = checkpoint.read_run(directory)
    differences = _differences(found, run) or _model_differences(directory, found["model"], run["model"])
    if differences:
        raise UserError(
            f"{directory} holds a run with {', '.join(differences)}; expected the same configuration, "
            "another --checkpoint_dir, or --restart"
        )
    return found | {"model": found["model"] or run["model"]}


def _differences(found, asked):
    """Describe each flag that decides the weights, and the data, in which two runs differ."""
    names = ("training_steps", "batch_size", "learning_rate", "schedule", "optimizer", *model_flags.names())
    before = {"augment": False} | found["flags"]  # a run.json may be older than the flag
    differences = [
        f"--{name} {before.get(name)} (requested: {asked['flags'][name]})"
        for name in (*names, "augment", "seed", "init_from")
        if before.get(name) != asked["flags"][name]
    ]
    if found["dataset"]["hash"] != asked["dataset"]["hash"]:
        differences.append(
            f"other data: {found['dataset']['name']} (requested: {asked['dataset']['name']}, by content)"
        )
    return differences


def _model_differences(directory, found, asked):
    """Describe how the model of a run differs from the requested one; a run.json without a model: by the checkpoint."""
    last, expected = checkpoint.newest(directory), asked["variables"]
    variables = found["variables"] if found else checkpoint.variables(last) if last else expected
    if not checkpoint.have_same_shapes(variables, expected):
        before, now = checkpoint.format_unmatched(variables, expected), checkpoint.format_unmatched(expected, variables)
        return [f"another model, with variables {before} (requested: {now})"]
    if model_fingerprint.was_edited(found, asked):
        return [f"another model: {found['class']}, before rnn_serving/model.py was edited"]
    return []


def _summary(run):
    return f"Testing Accuracy: {run['testing_accuracy']:.4f}, training accuracy: {run['training_accuracy']:.4f}"


def _exit_status(run, min_accuracy):
    """Return 1, with a message, if the testing accuracy is below the one asked for."""
    if run["testing_accuracy"] < min_accuracy:
        return command_line.fail(f"testing accuracy {run['testing_accuracy']:.4f}; expected at least {min_accuracy}")
    return 0
