"""What training leaves behind: a directory with checkpoints and `run.json`."""

import json
from pathlib import Path

from google.protobuf.message import DecodeError

from rnn_serving import model_fingerprint, model_flags
from rnn_serving.command_line import UserError, error_reason
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.protobuf import trackable_object_graph_pb2

RUN_FILE = "run.json"
# What TensorFlow raises for a damaged checkpoint: its own errors, and others where it maps their messages to Python's.
READ_ERRORS = (tf.errors.OpError, ValueError, LookupError, RuntimeError)

_VALUE = "VARIABLE_VALUE"


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged or of another model."""


def find(path):
    """Return the prefix of the newest checkpoint in a directory, or `path` itself if it is a prefix.

    Raises: CheckpointError if there is none.
    """
    if Path(f"{path}.index").exists():
        return str(path)
    prefix = newest(path)
    if prefix is None:
        raise CheckpointError(f"{path}: no checkpoint; expected one that train_lstm.py wrote")
    return prefix


def newest(directory):
    """Return the prefix of the checkpoint with the highest step in a directory, None if there is none.

    The files themselves decide: an index is written last, so a checkpoint that has one is complete, while the file
    that names the newest may be older, or missing after a kill.
    """
    indices = [path for path in Path(directory).glob("*-*.index") if path.stem.rsplit("-", 1)[1].isdigit()]
    if not indices:
        return None
    return str(max(indices, key=lambda path: int(path.stem.rsplit("-", 1)[1])).with_suffix(""))


def unreadable(prefix, error):
    """Return the error to raise for a checkpoint that could not be read."""
    return CheckpointError(f"{prefix}: not readable as a checkpoint ({error_reason(error)}); expected a complete one")


def load_model(prefix):
    """Return the model of a checkpoint, made with the flags in the run.json beside it.

    Raises: CheckpointError if it cannot be read, or if the code of the model was edited since it was trained.
    """
    run = read_run(Path(prefix).parent)
    model = model_flags.create_model(run["flags"])
    restore(model, prefix)
    if model_fingerprint.was_edited(run["model"], model_fingerprint.describe(model)):
        raise CheckpointError(
            f"{prefix}: {run['model']['class']} in rnn_serving/model.py was edited since this checkpoint was trained; "
            "expected the model as it was, or a new training (train_lstm.py --restart)"
        )
    return model


def restore(model, prefix):
    """Give `model` the weights of a checkpoint; return the status of `tf.train.Checkpoint.read`.

    Raises: CheckpointError if the checkpoint cannot be read, or if its variables are not those of the model.
    """
    # Compared by shape: a checkpoint names variables by attribute, the model as its author likes, if at all.
    found, expected = variables(prefix), [(variable.name, list(variable.shape)) for variable in model.variables]
    mismatch = CheckpointError(
        f"{prefix}: another model, with variables {format_unmatched(found, expected)}; "
        f"expected {format_unmatched(expected, found)}, as rnn_serving/model.py and its flags make them"
    )
    if not have_same_shapes(found, expected):
        raise mismatch
    try:
        # read, not restore, which would add a save_counter to the graph that is exported.
        status = tf.train.Checkpoint(model=model).read(prefix).expect_partial()
        return status.assert_existing_objects_matched()
    except AssertionError as error:
        raise mismatch from error
    except READ_ERRORS as error:
        raise unreadable(prefix, error) from error


def variables(prefix):
    """Return (path, shape) of each of the model's variables in a checkpoint, from its object graph.

    The keys alone do not say: a checkpoint stores a variable under its shortest path, which may be the optimizer's.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes, stored = reader.get_variable_to_shape_map(), reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
        nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(stored).nodes
    except (*READ_ERRORS, DecodeError) as error:
        raise unreadable(prefix, error) from error
    found, seen = [], set()
    waiting = [(child.node_id, "") for child in nodes[0].children if child.local_name == "model"]
    while waiting:
        number, path = waiting.pop()
        if number in seen:
            continue
        seen.add(number)
        found += [(path, shapes[each.checkpoint_key]) for each in nodes[number].attributes if each.name == _VALUE]
        for child in nodes[number].children:
            waiting.append((child.node_id, f"{path}/{child.local_name}".lstrip("/")))
    return found


def have_same_shapes(variables, others):
    """Return whether two lists of (name, shape) hold the same shapes, in any order."""
    return sorted(shape for _, shape in variables) == sorted(shape for _, shape in others)


def format_unmatched(variables, others):
    """Return a text with the variables whose shape is not among those of `others`, or all if every shape is."""
    shapes = [shape for _, shape in others]
    different = [each for each in variables if each[1] not in shapes] or variables
    return ", ".join(f"{name.removesuffix(':0')} {shape}" for name, shape in sorted(different)) or "none"


def read_run(directory):
    """Return the contents of `run.json` in a checkpoint directory: flags, data set, model and, at the end, accuracies.

    Raises: CheckpointError if it is missing or damaged.
    """
    path = Path(directory) / RUN_FILE
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        # A run.json may be older than this entry.
        model = {name: run["model"][name] for name in model_fingerprint.FIELDS} if "model" in run else {}
        dataset = {"name": run["dataset"]["name"]} | run["dataset"]
        return run | {"flags": dict(run["flags"]), "dataset": dataset, "model": model}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; expected the file that train_lstm.py wrote there") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); expected the JSON that train_lstm.py wrote") from error
