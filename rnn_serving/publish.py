"""Publish a SavedModel as a version: warm-up requests, provenance, the check, all in a staging directory."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rnn_serving import command_line, environment, exports, files, saved_model
from rnn_serving.command_line import UserError, error_reason
from rnn_serving.object_store.upload import destination
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

MAX_DIFFERENCE = 1e-5
# Rows of the check that rows are independent, and the differences that a batch makes to the rounding of float32.
CHECKED_ROWS, ROW_TOLERANCE = 16, {"rtol": 1e-4, "atol": 1e-5}
# One image from a client, and the sizes that batching makes: the first request of a new shape is the slow one.
# Not more: a server that batches refuses to load a version whose warm-up is larger than its max_batch_size.
WARMUP_BATCH_SIZES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class ExampleInputs:
    """Inputs of a signature, {key: array}, to check it with, and which of its outputs are logits."""

    signature_name: str
    inputs: dict
    logits: tuple = ()


def add_flags(parser, base_path=None):
    """Add the flags of every exporter; `base_path` is the default directory of versions, by default the data set's."""
    text = "directory of the model's versions, or a URI such as s3://bucket/models/mnist"
    text += "" if base_path else " (default: exports/<name of the data set>)"
    parser.add_argument("--export_base_path", default=base_path, help=text)
    parser.add_argument(
        "--model_version", type=command_line.version_number, help="number to publish (default: the next one)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the version if it exists")


@dataclass
class Publication:
    """A version that is being published: `staging`, a directory to fill.

    Once it is published, its `directory`, a path or at an object store a URI, and its `size` in bytes.
    """

    staging: Path
    directory: Path | str | None = None
    size: int | None = None


@contextlib.contextmanager
def publish(base_path, version, origin, examples=(), warmup=(), overwrite=False):
    """Yield a `Publication` and, on success, publish its staging directory as `<base_path>/<version>`.

    `base_path` is a directory or a URI: file:// or, with fsspec, that of an object store.
    `version` may be None for the next free one. `origin` is a dict that says where the model comes from. `examples` are
    the `ExampleInputs` by which the signatures are shown to treat rows independently, which lets an endpoint batch
    them. `warmup` are the PredictionLogs that a server sends before the version goes live.
    Raises: UserError if the version exists or cannot be written.
    """
    base = destination(base_path)
    base.check_version_free(version, overwrite)
    with base.staging_directory() as staging:
        publication = Publication(staging)
        try:
            yield publication
            write_warmup_requests(staging, base.model_name, warmup)
            origin = origin | {"signatures": describe_signatures(staging, examples)}
            _put_in_place(publication, base, version, origin, overwrite)
        except (tf.errors.OpError, OSError) as error:
            raise UserError(
                f"{staging}: {error_reason(error)}; expected to write an export there, nothing is published"
            ) from error


def _put_in_place(publication, base, version, origin, overwrite):
    """Publish the staging directory as the version, or as the first one that is free at this moment if it is None."""
    while True:
        number = version or base.next_version()
        write_provenance(publication.staging, base.model_name, number, origin)
        publication.size = exports.directory_size(publication.staging)
        try:
            publication.directory = base.publish(publication.staging, number, bool(version) and overwrite)
            return
        except exports.VersionExistsError:
            if version:
                raise


def write_warmup_requests(directory, name, logs):
    """Write the requests, PredictionLogs, that TensorFlow Serving sends to a version of model `name` first."""
    if not logs:
        return
    path = Path(directory) / exports.WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as records:
        for log in logs:
            for kind in ("predict_log", "classify_log"):
                if log.HasField(kind):
                    getattr(log, kind).request.model_spec.name = name
            records.write(log.SerializeToString())


def blank_predictions(signature_name, key, item_shape):
    """Return PredictionLogs that send blank float32 items to a signature, in batches of `WARMUP_BATCH_SIZES`."""
    return [_blank_prediction(signature_name, key, (size, *item_shape)) for size in WARMUP_BATCH_SIZES]


def _blank_prediction(signature_name, key, shape):
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = signature_name
    # A tensor with fewer values than its shape repeats the last one: blank images in 30 bytes.
    tensor = tf.make_tensor_proto(0.0, tf.float32)
    tensor.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    request.inputs[key].CopyFrom(tensor)
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))


def describe_signatures(directory, examples):
    """Return {signature name: what model.json says of it}: its logits, and whether its rows are independent."""
    with contextlib.closing(saved_model.load(directory)) as loaded:
        return {
            each.signature_name: {
                "logits": list(each.logits),
                "independent_rows": has_independent_rows(loaded.signatures[each.signature_name], each.inputs),
            }
            for each in examples
        }


def has_independent_rows(signature, inputs):
    """Return whether a signature gives the same outputs for rows alone and together."""
    inputs = {key: array[:CHECKED_ROWS] for key, array in inputs.items()}
    together, rows = signature(inputs), len(next(iter(inputs.values())))
    if any(output.shape[:1] != (rows,) for output in together.values()):
        return False
    for row in range(rows):
        alone = signature({key: array[row : row + 1] for key, array in inputs.items()})
        for key, output in together.items():
            if alone[key].shape[:1] != (1,) or not _are_close(alone[key][0], output[row]):
                return False
    return True


def _are_close(one, other):
    if np.asarray(one).dtype.kind == "f":
        return np.shape(one) == np.shape(other) and np.allclose(one, other, equal_nan=True, **ROW_TOLERANCE)
    return np.array_equal(one, other)


def write_provenance(directory, name, version, origin):
    """Write model.json beside the model: its name and version, `origin`, and the versions of the packages."""
    provenance = {"model": name, "version": version, **origin, "versions": environment.versions()}
    files.write_json(Path(directory) / exports.PROVENANCE_FILE, provenance)


def check_outputs(expected, exported, source):
    """Return the largest absolute difference between the outputs of a model, named `source`, and of its SavedModel.

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
    with contextlib.closing(saved_model.load(directory)) as loaded:
        signature = loaded.signatures[signature_name]
    for kind, tensors in {"input": signature.inputs, "output": signature.outputs}.items():
        print(f"The given SavedModel SignatureDef contains the following {kind}(s):")
        for key, info in tensors.items():
            shape = ", ".join("-1" if size is None else str(size) for size in info.shape)
            print(f"  {kind}s['{key}'] tensor_info:")
            dtype = types_pb2.DataType.Name(tf.as_dtype(info.dtype).as_datatype_enum)
            print(f"      dtype: {dtype}\n      shape: ({shape})\n      name: {info.name}")
    print(f"Method name is: {signature.method_name}")
