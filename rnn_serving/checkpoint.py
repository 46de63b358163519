"""What training leaves behind: a directory with checkpoints and `run.json`."""

import json
from pathlib import Path

from rnn_serving.command_line import UserError, first_line
from rnn_serving.dataset import NUM_CLASSES
from rnn_serving.model import LSTMClassifier
from rnn_serving.quiet_tensorflow import tf

RUN_FILE = "run.json"
# What TensorFlow raises for a damaged checkpoint: its own errors, and others where it maps their messages to Python's.
READ_ERRORS = (tf.errors.OpError, ValueError, LookupError, RuntimeError)

_RECURRENT_KERNEL = "model/recurrent_kernel/.ATTRIBUTES/VARIABLE_VALUE"
_OUTPUT_WEIGHTS = "model/output_weights/.ATTRIBUTES/VARIABLE_VALUE"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another model."""


def latest(path):
    """Return the prefix of the newest checkpoint in a directory, or `path` itself where that is a prefix.

    Raises: CheckpointError if there is none.
    """
    if Path(f"{path}.index").exists():
        return str(path)
    prefix = newest(path)
    if prefix is None:
        raise CheckpointError(f"{path}: no checkpoint; expected one that train_lstm.py wrote (--checkpoint_dir)")
    return prefix


def newest(directory):
    """Return the prefix of the checkpoint with the highest step in a directory, None if there is none.

    Goes by the files themselves: an index is written last, so that a checkpoint which has one is whole, while the file
    that names the newest may be older, or missing after a kill.
    """
    indices = [path for path in Path(directory).glob("*-*.index") if path.stem.rsplit("-", 1)[1].isdigit()]
    if not indices:
        return None
    return str(max(indices, key=lambda path: int(path.stem.rsplit("-", 1)[1])).with_suffix(""))


def num_hidden(prefix):
    """Return the number of hidden units of the LSTMClassifier in a checkpoint.

    Raises: CheckpointError if it holds another architecture or cannot be read.
    """
    try:
        shapes = tf.train.load_checkpoint(prefix).get_variable_to_shape_map()
    except READ_ERRORS as error:
        raise unreadable(prefix, error) from error
    units = shapes.get(_OUTPUT_WEIGHTS, [0])[0]
    expected = {_RECURRENT_KERNEL: [units, 4 * units], _OUTPUT_WEIGHTS: [units, NUM_CLASSES]}
    found = {name: shapes.get(name) for name in expected}
    if found != expected or not units:
        raise CheckpointError(
            f"{prefix}: another architecture, with variables {_listed(shapes)}; expected an LSTMClassifier"
        )
    return units


def unreadable(prefix, error):
    """Return the error to raise for a checkpoint that could not be read."""
    return CheckpointError(f"{prefix}: not readable as a checkpoint ({first_line(error)}); expected a whole one")


def _listed(shapes):
    names = sorted(name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name in shapes if not name.startswith("_"))
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def restore(model, prefix):
    """Give `model`, an LSTMClassifier, the weights of a checkpoint; return the status of `Checkpoint.read`."""
    units = num_hidden(prefix)
    if units != model.num_hidden:
        raise CheckpointError(f"{prefix}: {units} hidden units; expected {model.num_hidden} (--num_hidden)")
    try:
        # read, not restore, which would add a save_counter to the graph that is exported.
        status = tf.train.Checkpoint(model=model).read(prefix).expect_partial()
        return status.assert_existing_objects_matched()
    except READ_ERRORS as error:
        raise unreadable(prefix, error) from error


def load_model(prefix):
    """Return an LSTMClassifier with the weights of a checkpoint."""
    model = LSTMClassifier(num_hidden(prefix))
    restore(model, prefix)
    return model


def read_run(directory):
    """Return what `run.json` in a checkpoint directory says: flags, data set and, after the end, accuracies.

    Raises: CheckpointError if it is missing or damaged.
    """
    path = Path(directory) / RUN_FILE
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return {"flags": dict(run["flags"]), "dataset": dict(run["dataset"])} | run
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; expected what train_lstm.py wrote beside its checkpoints") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); expected the JSON that train_lstm.py wrote") from error
