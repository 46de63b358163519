"""What every export does besides writing its graph: flags, warm-up requests, provenance, the check, the print-out."""

import contextlib
from pathlib import Path

import numpy as np

from rnn_serving import command_line, environment, exports, files, saved_model
from rnn_serving.command_line import UserError, first_line
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

MAX_DIFFERENCE = 1e-5
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
# One image from a client, and what batching makes of many: the first request of a new shape is the slow one.
# Not more: a server that batches refuses to load a version whose warm-up is larger than its max_batch_size.
WARMUP_BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def add_flags(parser, base_path):
    """Add the flags of everything that exports; `base_path` is the default directory of versions."""
    parser.add_argument("--export_base_path", default=base_path, help="directory of the model's versions")
    parser.add_argument(
        "--model_version", type=command_line.version_number, help="number to publish (default: the next one)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the version if it exists")


@contextlib.contextmanager
def writing(staging):
    """Turn what TensorFlow says when it cannot write into a UserError that names the directory."""
    try:
        yield
    except tf.errors.OpError as error:
        raise UserError(
            f"{staging}: {first_line(error)}; expected to write an export there, nothing is published"
        ) from error


def write_warmup_requests(directory, base_path, logs):
    """Write the requests, PredictionLogs, that TensorFlow Serving asks of a version before it goes live."""
    path = Path(directory) / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as records:
        for log in logs:
            for kind in ("predict_log", "classify_log"):
                if log.HasField(kind):
                    getattr(log, kind).request.model_spec.name = model_name(base_path)
            records.write(log.SerializeToString())


def blank_predictions(signature_name, key, item_shape):
    """Return PredictionLogs that ask a signature for blank float32 items, in batches of `WARMUP_BATCH_SIZES`."""
    return [_blank_prediction(signature_name, key, (size, *item_shape)) for size in WARMUP_BATCH_SIZES]


def _blank_prediction(signature_name, key, shape):
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature_name
    # A tensor with fewer values than its shape repeats the last one: blank images in 30 bytes.
    tensor = tf.make_tensor_proto(0.0, tf.float32)
    tensor.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    request.inputs[key].CopyFrom(tensor)
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))


def write_provenance(directory, base_path, version, origin):
    """Write down beside the model where it comes from: what `origin` says, a dict, and the versions in use."""
    told = {"model": model_name(base_path), "version": version, **origin, "versions": environment.versions()}
    files.write_json(Path(directory) / exports.PROVENANCE_FILE, told)


def model_name(base_path):
    """Return the name of the model that is exported to a directory of versions."""
    return Path(base_path).resolve().name


def largest_difference(expected, exported, source):
    """Return the largest absolute difference between what a model, named by `source`, and its SavedModel answer.

    Raises: UserError if it is more than rounding can explain.
    """
    difference = float(np.abs(exported - expected).max())
    if not difference <= MAX_DIFFERENCE:
        raise UserError(
            f"SavedModel and {source} differ by {difference:g}; expected at most {MAX_DIFFERENCE:g}, "
            "nothing is published"
        )
    return difference


def print_signature(directory, signature_name=saved_model.DEFAULT_SIGNATURE):
    """Print a signature as `saved_model_cli show --tag_set serve --signature_def NAME` does."""
    with saved_model.ServedModel(directory, signature_name) as model:
        signature = model.signature
    for kind, tensors in {"input": signature.inputs, "output": signature.outputs}.items():
        print(f"The given SavedModel SignatureDef contains the following {kind}(s):")
        for key, info in tensors.items():
            shape = ", ".join("-1" if size is None else str(size) for size in info.shape)
            print(f"  {kind}s['{key}'] tensor_info:")
            dtype = types_pb2.DataType.Name(tf.as_dtype(info.dtype).as_datatype_enum)
            print(f"      dtype: {dtype}\n      shape: ({shape})\n      name: {info.name}")
    print(f"Method name is: {signature.method_name}")
